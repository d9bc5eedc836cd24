"""`st.Mixture` in whole runs: data sets' shares, the same bits from anywhere on any number of workers, true risks."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.order import select_minibatch
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.shards import read_manifest
from tests.support.datasets import digits
from tests.support.fleet import PlainFleet
from tests.support.small_job import digest, model, scaled

SHARES = {"a": 0.7, "b": 0.25, "c": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets, in blocks and not; images of the second are brighter, those of the third are 0."""
    folder = tmp_path_factory.mktemp("parts")
    images, labels = digits()
    for name, rows, blocks, level in (("a", slice(0, 900), True, 0), ("b", slice(900, 1500), False, 3)):
        np.savez(folder / f"{name}.npz", image=images[rows] | level, label=labels[rows])
        pack(str(folder / f"{name}.npz"), folder / name, PackOptions(seed=3, shard_examples=300, blocks=blocks))
    np.savez(folder / "c.npz", image=images[1500:1600] * 0, label=labels[1500:1600])
    pack(str(folder / "c.npz"), folder / "c", PackOptions(seed=3, blocks=True))
    return folder


def job_on(folder: Path, runs: Path | None = None, shares: dict[str, float] = SHARES, **settings: Any) -> st.Job:
    mixture = st.Mixture({str(folder / name): share for name, share in shares.items()})
    data = {"transform": scaled, **settings.pop("data", {})}
    settings.setdefault("mode", st.Epochs(max_passes=3, reshuffle="examples"))
    return st.Job(
        st.Data(mixture, **data),
        model,
        optimizer=st.SGD(lr=0.2, momentum=0.9),
        batch_size=48,
        lanes=4,
        tracking=st.Tracking(enabled=False, folder=str(runs or folder / "runs")),
        checkpoints=st.Checkpoints(seconds=0.001),
        **settings,
    )


def noisy(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**example, "image": example["image"] ^ rng.integers(0, 8, example["image"].shape, np.uint8)}


def parts_read(plans: Plan, step: int) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Of which part each example of a minibatch is, and its image."""
    chosen = select_minibatch(plans.order, plans.pass_orders, plans.order.position(step))
    assert plans.parts is not None
    numbers = np.searchsorted(plans.parts.starts, chosen.each(), "right") - 1
    return numbers.tolist(), plans.reader("train").select(chosen)["image"]


def test_each_data_set_has_its_share_of_all_first_minibatches_and_gives_its_own_examples(folder: Path) -> None:
    plans = plan(job_on(folder))
    own = [set(map(bytes, st.open(folder / name, "train")[:]["image"])) for name in SHARES]
    had: Counter[int] = Counter()
    for step in range(plans.total_steps):
        numbers, images = parts_read(plans, step)
        had.update(numbers)
        assert all(abs(had[i] - share * had.total()) < 1 for i, share in enumerate(SHARES.values())), step
        assert all(image.tobytes() in own[part] for part, image in zip(numbers, images, strict=True))
    assert had.total() == 3 * sum(read_manifest(folder / name).splits["train"].examples for name in SHARES)


def test_the_same_bits_from_a_checkpoint_in_one_process(folder: Path) -> None:
    job = job_on(folder, data={"augment": noisy})
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(60)
        expected = digest(fleet.snapshot())
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(31)
        kept = fleet.save(), 31
    with PlainFleet(plan(dataclasses.replace(job, workers=4))) as fleet:
        fleet.restart(kept)
        fleet.advance(60)
        assert digest(fleet.snapshot()) == expected


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_the_same_bits_over_ray(folder: Path, local_ray: None) -> None:
    job = job_on(folder)
    found = []
    for workers in (1, 3):
        with RayFleet(plan(dataclasses.replace(job, workers=workers))) as fleet:
            fleet.advance(40)
            found.append(digest(fleet.snapshot()))
    with PlainFleet(plan(job)) as plain:
        plain.advance(40)
        assert found == [digest(plain.snapshot())] * 2


def test_a_run_goes_on_where_the_data_sets_lie_now_and_with_no_other_shares(folder: Path, tmp_path: Path) -> None:
    whole = st.train(job_on(folder, tmp_path / "whole"), inline=True, quiet=True)
    shorter = st.Epochs(max_passes=2, reshuffle="examples")
    ended = st.train(job_on(folder, tmp_path, mode=shorter), inline=True, quiet=True)
    (Path(ended.folder) / "result.json").unlink()  # as if it had been stopped before it wrote that
    other = job_on(folder, tmp_path, {"a": 0.6, "b": 0.35, "c": 0.05})
    expected = "--resume, data.url, shares: expected 0.7, 0.25, 0.05, as the run began, found 0.6, 0.35, 0.05"
    with pytest.raises(ConfigError, match=expected):
        st.train(other, inline=True, quiet=True, resume=True)
    with pytest.raises(ConfigError, match="--resume, dataset: expected "):
        st.train(job_on(folder, tmp_path, {"b": 0.7, "a": 0.25, "c": 0.05}), inline=True, quiet=True, resume=True)
    for name in SHARES:
        shutil.copytree(folder / name, tmp_path / "moved" / name)
    result = st.train(job_on(tmp_path / "moved", tmp_path), inline=True, quiet=True, resume=True)
    assert digest(result.parameters) == digest(whole.parameters)
    assert result.chosen.gap_of_loss == whole.chosen.gap_of_loss


def test_risks_have_the_shares_of_the_mixture(folder: Path, tmp_path: Path) -> None:
    """Here all held-out examples of each part are looked at, since they are there in proportion to the shares."""
    sizes = {name: read_manifest(folder / name).splits["validation"].examples for name in ("a", "b")}
    shares = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    job = job_on(folder, tmp_path, shares, mode=st.Online(max_examples=96))
    result = st.train(job, inline=True, quiet=True)
    network = model().eval()
    network.load_state_dict(result.parameters)

    def loss_on(arrays: dict[str, Any]) -> float:
        with torch.no_grad():
            output = network(torch.from_numpy(arrays["image"]).float() / 255)
        return float(torch.nn.functional.cross_entropy(output, torch.from_numpy(arrays["label"])))

    expected = sum(share * loss_on(st.open(folder / name, "validation")[:]) for name, share in shares.items())
    held_out = result.chosen.generalization.loss
    assert held_out.count == sum(sizes.values()) and held_out.mean == pytest.approx(expected, rel=1e-6)
    plans = plan(job)
    used = np.concatenate(
        [select_minibatch(plans.order, plans.pass_orders, plans.order.position(i)).each() for i in (0, 1)]
    )
    empirical = result.chosen.empirical.loss
    assert empirical.count == len(set(used.tolist())) == 96
    assert empirical.mean == pytest.approx(loss_on(plans.reader("train").take(used)), rel=1e-6)
    assert empirical.standard_error == 0.0, "all that were used were looked at"


def test_a_part_with_few_held_out_examples_bounds_those_of_the_others(folder: Path, tmp_path: Path) -> None:
    job = job_on(folder, tmp_path, {"a": 0.5, "c": 0.5}, mode=st.Epochs(max_passes=1))
    result = st.train(job, inline=True, quiet=True)
    of_c = read_manifest(folder / "c").splits["validation"].examples
    assert 2 * of_c <= result.chosen.generalization.loss.count <= 2 * of_c + 1
    assert result.test is None or result.test.loss.count < 2 * read_manifest(folder / "c").splits["test"].examples + 2


def test_online_ends_when_a_part_is_used_up(folder: Path, tmp_path: Path) -> None:
    def plain() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    job = job_on(folder, tmp_path, {"a": 0.5, "c": 0.5}, mode=st.Online(evaluate_every=100))
    result = st.train(dataclasses.replace(job, model=plain), inline=True, quiet=True)
    of_c = read_manifest(folder / "c").splits["train"].examples
    assert result.stop_reason == "a part is used up" and 2 * of_c <= result.examples_used <= 2 * of_c + 1


def test_tags_say_what_is_minimized_and_every_data_set_has_its_card(folder: Path) -> None:
    card = card_of(plan(job_on(folder)), "d")
    found = card.tags["risk.minimized"]
    assert found.startswith(f"0.7 of {folder / 'a'}, 0.25 of {folder / 'b'}, 0.05 of {folder / 'c'}, an example 0.")
    assert found.endswith(" times a pass; risks and gap have these shares too")
    assert {each.name for each in card.datasets} >= {"a/train", "b/train", "c/validation"}
    assert card.params["data.url"] == f"{folder / 'a'}: 0.7, {folder / 'b'}: 0.25, {folder / 'c'}: 0.05"
