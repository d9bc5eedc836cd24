"""A batch that follows the gradient's noise: the same bits whoever trains, a plain loop's parameters, refusals."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.job import Job
from streamtrain.order import Order
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.track.terminal import Terminal
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run
from tests.support.threads import ThreadFleet, run_in_threads
from tests.unit.run.checkpoints.test_going_on import Unlucky, stopped
from tests.unit.run.test_growing_batch import double, model

LANES = 8


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> st.Job:
    folder = tmp_path_factory.mktemp("noise") / "digits"
    pack_digits(folder, examples=600)
    batch = st.BatchSize(8, most=32, follow="noise_scale", every=10)
    return st.Job(
        st.Data(str(folder), transform=double),
        model,
        optimizer=st.AdamW(lr=2e-3),
        schedule=st.Schedule("cosine", 5),
        batch_size=batch,
        lanes=LANES,
        precision="float64",
        mode=st.Epochs(max_passes=3, patience=3),
        checkpoints=st.Checkpoints(seconds=0.0),
        seed=3,
    )


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


@pytest.fixture(scope="module")
def alone(job: st.Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[tuple[int, int], ...], Notebook]:
    """Parameters, sizes and curves of one worker."""
    notebook = Notebook()
    result, fleet = run(job, tmp_path_factory.mktemp("alone"), notebook)
    later = fleet.worker._plan.order.later
    assert [size for _, size in later] == [16], "it doubles on the way"
    assert result.batch_sizes == ((0, 8), *later)
    assert result.summary()["batch_sizes"][1] == {"examples_used": later[0][0], "batch_size": 16}
    return digest(result.parameters), later, notebook


@pytest.mark.parametrize("networked", [False, True], ids=["shared", "collective"])
@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_promise_5_the_same_bits_for_any_number_of_workers(
    job: st.Job, alone: Any, workers: int, networked: bool, tmp_path: Path
) -> None:
    result, fleet = run_in_threads(job, workers, tmp_path, networked=networked)
    assert fleet._plan.order.later == alone[1]
    assert digest(result.parameters) == alone[0]


@pytest.mark.parametrize("networked", [False, True], ids=["shared", "collective"])
def test_promise_5_one_leaves_before_the_batch_has_doubled(
    job: st.Job, alone: Any, networked: bool, tmp_path: Path
) -> None:
    leaves_at = 15
    result, fleet = run_in_threads(job, 3, tmp_path, networked=networked, leaves_at=leaves_at)
    assert len(fleet.all_workers) == 2
    assert (digest(result.parameters), fleet._plan.order.later) == alone[:2]


def test_promise_3_all_workers_lost_before_and_after_the_batch_has_doubled(
    job: st.Job, alone: Any, tmp_path: Path
) -> None:
    """Checkpoints may be of before it: then the batch is small again, and doubles at the same step."""
    plans = plan(dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=1e9)))
    fleet = Unlucky(plans, {2, 9, 20})
    found = Controller(plans, fleet, Notebook(), Terminal(quiet=True), tmp_path, Keeper(plans.job, {})).run()
    assert fleet.calls > 20
    assert (digest(found.parameters), fleet.worker._plan.order.later) == alone[:2]


def test_promise_5_resumed_with_another_number_of_workers(job: st.Job, alone: Any, tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    used = alone[1][0][0]
    stopped(job, tmp_path, checkpoints, None, 1 + used // 8 // 16)
    last = checkpoints.newest()
    assert last is not None and last.progress["growth"]["later"], "it was stopped after the batch had doubled"
    plans = plan(dataclasses.replace(job, workers=2, lanes=LANES))
    keeper = Keeper(plans.job, {}, checkpoints, last)
    fleet = ThreadFleet(plans)
    fleet.restart(keeper.start)
    result = Controller(plans, fleet, Notebook(), Terminal(quiet=True), tmp_path, keeper).run()
    assert (digest(result.parameters), fleet._plan.order.later) == alone[:2]


def test_promise_4_a_plain_loop_over_the_same_minibatches(job: st.Job, alone: Any, tmp_path: Path) -> None:
    job = dataclasses.replace(job, schedule=st.Schedule())
    result, fleet = run(job, tmp_path)
    plans = fleet.worker._plan
    arrays = plans.reader("train").read(0, plans.order.examples)
    images = torch.from_numpy(arrays["image"]).double() / 255
    labels = torch.from_numpy(arrays["label"])
    order = Order(len(labels), LANES, 8, later=plans.order.later)
    torch.manual_seed(job.seed)
    twin = model()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=2e-3)
    sizes = set()
    for step in range(result.chosen.step):
        rows = [n for part in order.minibatch(order.position(step)).parts for n in range(part.start, part.stop)]
        optimizer.param_groups[0]["lr"] = 2e-3 * (order.size(step) / 8) ** 0.5
        sizes.add(order.size(step))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(images[rows]), labels[rows]).backward()
        optimizer.step()
    assert len(sizes) > 1
    for name, tensor in twin.state_dict().items():
        assert torch.allclose(result.parameters[name], tensor, rtol=1e-9, atol=1e-12), name


def test_the_sizes_are_seen_over_the_steps(alone: Any) -> None:
    _, later, notebook = alone
    shown = [value for _, value in notebook.named("minibatch/examples")]
    assert shown[0] == 8 and shown == sorted(shown) and shown[-1] == 16
    costs = notebook.named("minibatch/cost_of_doubling_at_most")
    assert costs and all((step + 1) % 10 == 0 for step, _ in costs)
    below = [value for _, value in costs if value < 0.1]
    assert len(below) == len(later), "each time that it is below 10 %, the batch doubles"


REFUSED: dict[str, dict[str, Any]] = {
    "at least 2 lanes, between which noise_scale is measured, found 1; set lanes": {"lanes": 1, "workers": 1},
    "an optimizer with a norm of its own to measure it in .*, found 'Lion'": {"optimizer": st.Lion()},
    "an optimizer with a norm of its own to measure it in .*, found 'Muon'": {"optimizer": st.Muon()},
    "no clipping by value or by unit": {"clip": st.Clip(value=1.0)},
    "updates that wait for all lanes": {"aggregation": st.Stale(2)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_promise_10_where_the_noise_cannot_be_measured(job: st.Job, words: str) -> None:
    with pytest.raises(ConfigError, match=f"batch_size.follow: expected {words}") as refused:
        dataclasses.replace(job, **REFUSED[words])
    assert "\n" not in str(refused.value)


FOLLOWING = {
    "batch_size.most: expected the first size, 64, doubled some times, found 100": (64, 100),
    "batch_size.most: expected the first size, 64, doubled some times, found None": (64, None),
    "batch_size: expected one first size with follow, found {0: 64}": ({0: 64}, 128),
}


@pytest.mark.parametrize("words", FOLLOWING)
def test_promise_10_sizes_that_cannot_follow(words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        st.BatchSize(*FOLLOWING[words], follow="noise_scale")  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_promise_10_a_run_goes_on_with_its_own_sizes_only(job: Job) -> None:
    from streamtrain.run.checkpoints.resuming import check_settings, fixed_settings

    began = fixed_settings(plan(job))
    assert began["batch_size"] == "8,most=32,follow=noise_scale,every=10"
    now = fixed_settings(plan(dataclasses.replace(job, batch_size=8)))
    with pytest.raises(ConfigError, match="--resume, batch_size: expected 8,most=32,follow=noise_scale,every=10, as"):
        check_settings(began, now, Path("runs/x"))
