"""`st.Balanced` in whole runs: classes' shares, the same bits from anywhere on any number of workers, true risks."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.order import Weights, select_minibatch
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from tests.support.same_run import (
    assert_same_bits_from_a_checkpoint,
    assert_same_bits_over_ray,
    noisy,
    train_as_if_stopped,
)
from tests.support.small_job import digest, model, scaled
from tests.support.uneven import RARE, pack_uneven


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_uneven(tmp_path_factory.mktemp("uneven") / "digits")


def plain() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def job_on(folder: Path, runs: Path | None = None, **settings: Any) -> st.Job:
    data = {"transform": scaled, "balance": st.Balanced("label"), **settings.pop("data", {})}
    settings.setdefault("mode", st.Epochs(max_passes=3, reshuffle="examples"))
    tracking = st.Tracking(enabled=False, folder=str(runs or folder.parent / "runs"))
    return st.Job(
        st.Data(str(folder), **data), model, optimizer=st.SGD(lr=0.2, momentum=0.9), batch_size=48, lanes=4,
        tracking=tracking, checkpoints=st.Checkpoints(seconds=0.001), **settings,
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [True, False])
def test_each_class_has_its_share_of_all_first_minibatches(tmp_path: Path, blocks: bool) -> None:
    plans = plan(job_on(pack_uneven(tmp_path / "digits", blocks=blocks)))
    reader = plans.reader("train")
    had: Counter[int] = Counter()
    for step in range(plans.total_steps):
        chosen = select_minibatch(plans.order, plans.pass_orders, plans.order.position(step))
        had.update(reader.select(chosen)["label"].tolist())
        assert all(abs(had[label] - sum(had.values()) / 10) < 1 for label in range(10)), step
    assert sum(had.values()) == 3 * len(reader)


def test_the_same_bits_from_a_checkpoint_in_one_process(folder: Path, tmp_path: Path) -> None:
    assert_same_bits_from_a_checkpoint(job_on(folder, tmp_path, data={"augment": noisy}))


def test_the_same_bits_over_ray(folder: Path, local_ray: None) -> None:
    assert_same_bits_over_ray(job_on(folder), 4)


def test_a_run_goes_on_from_a_checkpoint_and_no_other_balance(folder: Path, tmp_path: Path) -> None:
    whole = st.train(job_on(folder, tmp_path / "whole"), inline=True, quiet=True)

    shorter = st.Epochs(max_passes=2, reshuffle="examples")
    train_as_if_stopped(job_on(folder, tmp_path, mode=shorter))
    with pytest.raises(ConfigError, match=r"--resume, data.balance: expected label, as the run began, found None"):
        st.train(job_on(folder, tmp_path, data={"balance": None}), inline=True, quiet=True, resume=True)
    result = st.train(job_on(folder, tmp_path), inline=True, quiet=True, resume=True)
    assert digest(result.parameters) == digest(whole.parameters)
    assert result.chosen.gap_of_loss == whole.chosen.gap_of_loss


def test_the_empirical_risk_is_of_the_examples_that_were_used_each_once(folder: Path, tmp_path: Path) -> None:
    """Online no example comes twice; here as few were used as are held out, so that all of them are measured."""
    job = job_on(folder, tmp_path, mode=st.Online(max_examples=96))
    plans = plan(job)
    result = st.train(job, inline=True, quiet=True)
    chosen = [select_minibatch(plans.order, plans.pass_orders, plans.order.position(step)) for step in (0, 1)]
    used = np.concatenate([each.each() for each in chosen])
    assert len(used) == len(set(used.tolist())) == 96
    arrays = plans.reader("train").take(used)
    network = model().eval()
    network.load_state_dict(result.parameters)
    with torch.no_grad():
        output = network(torch.from_numpy(arrays["image"]).float() / 255)
    losses = torch.nn.functional.cross_entropy(output, torch.from_numpy(arrays["label"]), reduction="none")
    found = result.chosen.empirical.loss
    assert found.count == 96 and found.mean == pytest.approx(float(losses.mean()), rel=1e-6)


def test_online_ends_when_the_smallest_class_is_used_up(folder: Path, tmp_path: Path) -> None:
    job = job_on(folder, tmp_path, mode=st.Online())
    smallest = min(plan(job).manifest.splits["train"].class_counts.values())
    result = st.train(dataclasses.replace(job, model=plain), inline=True, quiet=True)
    assert result.stop_reason == "a class is used up"
    assert 10 * smallest <= result.examples_used < 10 * smallest + 10


def test_rare_classes_err_less_with_it(folder: Path, tmp_path: Path) -> None:
    """The reason for it all."""
    errors = []
    for balance in (None, st.Balanced("label")):
        job = job_on(folder, tmp_path, data={"balance": balance}, mode=st.Epochs(max_passes=2, patience=2))
        result = st.train(dataclasses.replace(job, optimizer=st.SGD(lr=0.05)), inline=True, quiet=True)
        arrays = plan(job).reader("test").read(0, 100)
        network = model().eval()
        network.load_state_dict(result.parameters)
        with torch.no_grad():
            said = network(torch.from_numpy(arrays["image"]).float() / 255).argmax(1).numpy()
        rare = arrays["label"] >= RARE
        errors.append(float((said != arrays["label"])[rare].mean()))
    assert errors[1] < errors[0]


def test_by_weights_examples_come_as_often_as_they_weigh(folder: Path, tmp_path: Path) -> None:
    job = job_on(folder, tmp_path, data={"balance": st.Balanced(weights="weight"), "augment": noisy})
    assert_same_bits_from_a_checkpoint(job)
    plans = plan(job)
    weights = np.concatenate([plans.reader("train").read(0, plans.order.examples)["label"] >= RARE]) * 3.5 + 0.5
    assert isinstance(plans.parts, Weights)
    assert np.allclose(plans.parts.expected, weights / weights.mean())
    numbers = [
        select_minibatch(plans.order, plans.pass_orders, plans.order.position(step)).each()
        for step in range(plans.total_steps)
    ]
    came = np.bincount(np.concatenate(numbers), minlength=plans.order.examples)
    assert came.sum() == 3 * plans.order.examples and np.abs(came - 3 * plans.parts.expected).max() < 3
    result = st.train(dataclasses.replace(job, max_steps=4), inline=True, quiet=True)
    assert result.chosen.empirical.loss.count <= len(np.unique(np.concatenate(numbers[:4]))) < 4 * 48
    tags = card_of(plans, "d").tags
    assert tags["risk.minimized"].startswith("examples weighted by weight, each 0.")
    assert tags["risk.minimized"].endswith(" times a pass; risks and gap are of the examples as they are")
    assert tags["progressive.estimates"].endswith("not as it is evaluated: weighted examples, augmentation")


def test_tags_say_what_is_minimized(folder: Path) -> None:
    tags = card_of(plan(job_on(folder)), "d").tags
    found = tags["risk.minimized"]
    assert found.startswith("10 classes of label with equal shares, an example 0.8")
    assert found.endswith(" times a pass; risks and gap are of the examples as they are")
    assert tags["progressive.estimates"].endswith("not as it is evaluated: balanced classes")
    assert "risk.minimized" not in card_of(plan(job_on(folder, data={"balance": None})), "d").tags
