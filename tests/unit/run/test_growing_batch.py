"""A batch size that changes on the way: a plain loop's parameters, rates by the optimizer's rule, the same bits."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run
from tests.unit.run.checkpoints.test_going_on import stopped

SIZES = {0: 16, 300: 48, 1500: 96}


def model() -> torch.nn.Module:
    layers = (torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10))
    return torch.nn.Sequential(torch.nn.Flatten(), *layers).double()


def double(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].double() / 255}


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits", examples=600)
    data = st.Data(str(tmp_path / "digits"), transform=double)
    update: dict[str, Any] = {"optimizer": st.SGD(lr=0.02, momentum=0.9), "schedule": st.Schedule("cosine", 20)}
    sizes = st.BatchSize(SIZES)
    mode = st.Epochs(max_passes=5, patience=5)
    return st.Job(data, model, **update, batch_size=sizes, lanes=4, precision="float64", mode=mode, seed=3)


def walk(examples: int, lanes: int, passes: int) -> list[tuple[list[int], int, float]]:
    """Of every minibatch the examples, the size, and how far a batch of 16 would be: by taking them one by one."""
    long = examples % lanes
    ranges = [
        range(n * (examples // lanes) + min(n, long), (n + 1) * (examples // lanes) + min(n + 1, long))
        for n in range(lanes)
    ]
    found = []
    used = 0
    of_pass = math.ceil(len(ranges[0]) / 4)
    for pass_index in range(passes):
        taken = 0
        while taken < len(ranges[0]):
            size = [each for threshold, each in SIZES.items() if threshold <= used][-1]
            rows = [row for lane in ranges for row in lane[taken : taken + size // lanes]]
            found.append((rows, size, pass_index * of_pass + taken // 4))
            used += len(rows)
            taken += size // lanes
    return found


def test_promise_4_a_plain_loop_over_the_same_minibatches(job: st.Job, tmp_path: Path) -> None:
    result, fleet = run(job, tmp_path)
    plans = fleet.plans
    arrays = plans.reader("train").read(0, plans.order.examples)
    images = torch.from_numpy(arrays["image"]).double() / 255
    labels = torch.from_numpy(arrays["label"])
    minibatches = walk(len(labels), 4, 5)
    assert [update.loss.count for update in fleet.updates] == [len(rows) for rows, _, _ in minibatches]
    steps = 5 * math.ceil(math.ceil(len(labels) / 4) / 4)
    torch.manual_seed(job.seed)
    twin = model()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=0.9)
    best = result.chosen.step
    assert {size for _, size, _ in minibatches[:best]} == {16, 48, 96}
    for (rows, size, at), update in zip(minibatches[:best], fleet.updates, strict=False):
        factor = (at + 1) / 20 if at < 20 else (1 + math.cos(math.pi * (at - 20) / (steps - 21))) / 2
        optimizer.param_groups[0]["lr"] = 0.02 * size / 16 * factor
        assert update.learning_rate == pytest.approx(0.02 * size / 16 * factor, rel=1e-12)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(images[rows]), labels[rows]).backward()
        optimizer.step()
    for name, tensor in twin.state_dict().items():
        assert torch.allclose(result.parameters[name], tensor, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize(
    ("optimizer", "rule", "ratio"),
    [
        (st.AdamW(lr=1e-3), None, math.sqrt),
        (st.AdamW(lr=1e-3), "linear", float),
        (st.SGD(lr=0.1, lr_batch_size=32), "root", math.sqrt),
        (st.SGD(lr=0.1), "none", lambda _: 1.0),
    ],
)
def test_the_rate_goes_by_the_optimizers_rule_or_as_set(
    job: st.Job, tmp_path: Path, optimizer: st.Optimizer, rule: Any, ratio: Any
) -> None:
    sizes = st.BatchSize(SIZES, scale_lr=rule)
    changed = dataclasses.replace(job, optimizer=optimizer, schedule=st.Schedule(), batch_size=sizes)
    _, fleet = run(dataclasses.replace(changed, mode=st.Epochs(max_passes=4, patience=4)), tmp_path)
    first = optimizer.lr * (16 / 32 if optimizer.lr_batch_size else 1)
    expected = [first * ratio(size / 16) for _, size, _ in walk(fleet.plans.order.examples, 4, 4)]
    assert [update.learning_rate for update in fleet.updates] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", [st.Online(evaluate_every=100), st.Epochs(max_passes=4, patience=4)], ids=str)
def test_promise_5_stopped_and_resumed(job: st.Job, tmp_path: Path, mode: st.Online | st.Epochs) -> None:
    job = dataclasses.replace(job, mode=mode, checkpoints=st.Checkpoints(seconds=0.0))
    notebook = Notebook()
    expected, fleet = run(job, tmp_path, notebook)
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    stopped(job, tmp_path, checkpoints, None, stints=0 if isinstance(mode, st.Online) else 1)
    found, _ = run(job, tmp_path, keeper=Keeper(job, {}, checkpoints, checkpoints.newest()))
    assert found.evaluations == expected.evaluations
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    sizes = [fleet.plans.order.size(step) for step, _ in enumerate(fleet.updates)]
    assert max(sizes) > 16 and notebook.named("minibatch/examples")[-1][1] <= max(sizes)


def test_online_measures_by_examples_used(job: st.Job, tmp_path: Path) -> None:
    _, fleet = run(dataclasses.replace(job, mode=st.Online(evaluate_every=100)), tmp_path)
    result, _ = run(dataclasses.replace(job, mode=st.Online(evaluate_every=100)), tmp_path)
    assert [each.examples_used for each in result.evaluations] == [112, 224, 352, 480]
    assert [each.passes for each in result.evaluations] == [n / fleet.plans.order.used for n in (112, 224, 352, 480)]


REFUSED = {
    "expected sizes by examples used, found {}": ({},),
    "expected numbers of examples used that rise from 0, found [1]; put them in order": ({1: 64},),
    "expected numbers of examples used that rise from 0, found [0, 9, 5]": ({0: 64, 9: 128, 5: 256},),
    "batch_size, examples used: expected a whole number of at least 0, found -5": ({-5: 64, 0: 64},),
    "batch_size, once 9 examples are used: expected a whole number of at least 1, found 0": ({0: 64, 9: 0},),
    "batch_size.scale_lr: expected one of linear, root, none or None, found 'sqrt'; choose one": (
        {0: 64},
        None,
        None,
        50,
        "sqrt",
    ),
    "batch_size.most: expected none without follow, found 128": ({0: 64}, 128),
}


@pytest.mark.parametrize("words", REFUSED)
def test_promise_10_sizes_that_make_no_sense(words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        st.BatchSize(*REFUSED[words])
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_promise_10_a_size_that_is_no_multiple_of_the_lanes(job: st.Job) -> None:
    with pytest.raises(ConfigError, match="batch_size: expected a multiple of the 4 lanes, found 66; use 64 or 68"):
        dataclasses.replace(job, batch_size=st.BatchSize({0: 64, 5: 66, 10: 128}))
    with pytest.raises(ConfigError, match="aggregation.backup: expected none with a batch size that changes"):
        dataclasses.replace(job, aggregation=st.Synchronous(backup=1))
