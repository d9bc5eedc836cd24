"""`st.Mixture` in whole runs: data sets' shares, the same bits from anywhere on any number of workers, true risks."""

import dataclasses
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.order import select_minibatch
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.outcome.report import table
from streamtrain.run.outcome.result import Evaluation
from streamtrain.shards import read_manifest
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.stream.loops.batches import Batches
from streamtrain.values import Position
from tests.support.datasets import digits
from tests.support.fleet import Notebook, run
from tests.support.same_run import (
    assert_same_bits_from_a_checkpoint,
    assert_same_bits_over_ray,
    noisy,
    train_as_if_stopped,
)
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
    assert_same_bits_from_a_checkpoint(job_on(folder, data={"augment": noisy}))


def test_the_same_bits_over_ray(folder: Path, local_ray: None) -> None:
    assert_same_bits_over_ray(job_on(folder), 3)


def test_a_run_goes_on_where_the_data_sets_lie_now_and_with_no_other_shares(folder: Path, tmp_path: Path) -> None:
    whole = st.train(job_on(folder, tmp_path / "whole"), inline=True, quiet=True)
    shorter = st.Epochs(max_passes=2, reshuffle="examples")
    train_as_if_stopped(job_on(folder, tmp_path, mode=shorter))
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


@pytest.mark.parametrize("reshuffle", ["stored", "examples"])
def test_loops_take_the_minibatches_of_a_run_and_go_on_from_anywhere(folder: Path, reshuffle: Any) -> None:
    mixture = st.Mixture({str(folder / name): share for name, share in SHARES.items()})
    plans = plan(job_on(folder, mode=st.Epochs(max_passes=2, reshuffle=reshuffle), seed=5))

    def batches(lane: int | None = None, streamers: int = 0) -> Batches:
        opened = st.open(mixture, augment=noisy, streamers=streamers)
        return opened.batches(48, lanes=4, lane=lane, reshuffle=reshuffle, seed=5)

    straight = batches()
    expected = [[batch["image"] for batch in straight] for _ in range(2)]
    reader = plans.reader("train")
    for step, image in enumerate([*expected[0], *expected[1]]):
        chosen = select_minibatch(plans.order, plans.pass_orders, plans.order.position(step))
        assert np.array_equal(image, reader.select(chosen, Augmentation(noisy, 5))["image"])
    streamed = batches(streamers=2)
    assert all(
        torch.equal(one, other["image"]) for images in expected for one, other in zip(images, streamed, strict=True)
    )
    halted = batches(lane=2)
    head = [batch["image"] for batch in islice(halted, 9)]
    rest = batches()
    rest.load_state_dict(halted.state_dict())
    assert all(map(torch.equal, head, (image[24:36] for image in expected[0])))
    assert all(map(torch.equal, (batch["image"] for batch in rest), expected[0][9:]))
    rest.seek(Position(1, 4))
    assert torch.equal(next(iter(rest))["image"], expected[1][4])
    other = st.open(st.Mixture({str(folder / "a"): 0.6, str(folder / "b"): 0.35, str(folder / "c"): 0.05})).batches(48)
    with pytest.raises(ConfigError, match="state, data: expected '.*/train/12,7,1', found '.*/train/14,5,1'; load it"):
        other.load_state_dict(rest.state_dict())


def test_opened_examples_are_numbered_part_after_part_and_need_no_other_split(folder: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "only.npz", image=np.full((20, 8, 8), 9, np.uint8), label=np.arange(20) % 10, more=np.arange(20)
    )
    pack(str(tmp_path / "only.npz"), tmp_path / "only", PackOptions((1, 0, 0), seed=1))
    opened = st.open(st.Mixture({str(tmp_path / "only"): 0.5, str(folder / "b"): 0.5}))
    assert len(opened) == 20 + len(st.open(folder / "b")) and sorted(opened[0]) == ["image", "label"]
    assert (opened[:20]["image"] == 9).all() and np.array_equal(opened[20]["image"], st.open(folder / "b")[0]["image"])
    assert len([*opened.samples()]) == len(opened)
    first = next(iter(opened.batches(20)))["image"]
    assert sum(bool((image == 9).all()) for image in first) == 10
    with pytest.raises(ConfigError, match=r"^st.Mixture: expected examples in the validation split of .*/only, found "):
        st.open(st.Mixture({str(tmp_path / "only"): 0.5, str(folder / "b"): 0.5}), "validation")
    for chosen in ({"reshuffle": "shards"}, {"by_length": "label"}):
        with pytest.raises(ConfigError, match="^batches, (reshuffle|by_length): expected .* of a mixture, found "):
            opened.batches(8, **chosen)  # type: ignore[arg-type]


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


def test_risks_and_gaps_of_each_part_are_those_on_its_own_examples(folder: Path, tmp_path: Path) -> None:
    """Of few updates, so that all examples that they took are looked at."""
    notebook = Notebook()
    job = job_on(folder, tmp_path, {"a": 0.6, "b": 0.4}, mode=st.Online(max_examples=96))
    result, fleet = run(job, tmp_path, notebook)
    network = model().eval()
    network.load_state_dict(result.parameters)

    def loss_on(arrays: dict[str, Any]) -> float:
        with torch.no_grad():
            output = network(torch.from_numpy(arrays["image"]).float() / 255)
        return float(torch.nn.functional.cross_entropy(output, torch.from_numpy(arrays["label"])))

    plans = fleet.plans
    chosen = [select_minibatch(plans.order, plans.pass_orders, plans.order.position(step)) for step in (0, 1)]
    used = np.sort(np.concatenate([each.each() for each in chosen]))
    of_a = int(np.searchsorted(used, len(st.open(folder / "a"))))
    parts = result.chosen.of_parts
    assert [part.name for part in parts] == ["a", "b"]
    for part, numbers in zip(parts, np.split(used, [of_a]), strict=True):
        assert part.empirical.loss.mean == pytest.approx(loss_on(plans.reader("train").take(numbers)), rel=1e-6)
        assert part.empirical.loss.count == len(numbers) and part.empirical.loss.standard_error == 0.0
        assert part.gap_of_loss.standard_error == part.generalization.loss.standard_error > 0
        readings = dict(notebook.named(f"parts/{part.name}/generalization_risk/loss"))
        assert readings[result.chosen.step - 1] == part.generalization.loss.mean
        assert notebook.named(f"parts/{part.name}/Gap/error")[-1] == (1, part.gap_of_error.value)
    held_out = [part.generalization.loss for part in parts]
    assert sum(each.count for each in held_out) == result.chosen.generalization.loss.count
    means = sum(each.mean * each.count for each in held_out) / sum(each.count for each in held_out)
    assert means == pytest.approx(result.chosen.generalization.loss.mean)
    fewer = held_out[1]
    arrays = st.open(folder / "b", "validation")[:]
    assert fewer.count <= len(arrays["label"]) and (
        fewer.count < len(arrays["label"]) or fewer.mean == pytest.approx(loss_on(arrays), rel=1e-6)
    )
    assert result.test is not None and result.test_parts.keys() == {"a", "b"}
    for name, test in result.test_parts.items():
        arrays = st.open(folder / name, "test")[:]
        there = len(arrays["label"])
        assert 0 < test.loss.count <= there
        assert test.loss.count < there or test.loss.mean == pytest.approx(loss_on(arrays), rel=1e-6)
        assert notebook.named(f"parts/{name}/stop/test/error") == [(result.chosen.step - 1, test.error.mean)]
    assert sum(test.loss.count for test in result.test_parts.values()) == result.test.loss.count
    assert any(test.loss.count == len(st.open(folder / name, "test")) for name, test in result.test_parts.items())
    summary = result.summary()
    assert summary["test_risk_of_parts"]["b"]["loss"] == result.test_parts["b"].loss.mean
    assert summary["risks_of_parts"]["b"]["generalization_risk"]["loss"] == fewer.mean
    assert summary["evaluations"][-1]["risks_of_parts"].keys() == {"a", "b"}
    assert (
        "loss, gaps of parts" in table({"run": result})
        and "error, test of parts" in table({"run": result})
        and "; b " in table({"run": result})
    )
    assert Evaluation.from_json(result.chosen.to_json()) == result.chosen


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
