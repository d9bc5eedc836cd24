"""`max_steps` and `max_seconds`: a run that reaches one ends as any other does, also over resumes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.errors import Interrupted
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.checkpoints.resuming import check_settings, fixed_settings
from streamtrain.run.fleet.inline import InlineFleet
from streamtrain.run.outcome import limits
from tests.support.datasets import pack_digits
from tests.support.fleet import run
from tests.support.small_job import digest
from tests.unit.run.test_controller import model, scaled


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    mode = st.Epochs(max_passes=5, patience=5)
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    tracking = st.Tracking(enabled=False, folder=str(tmp_path / "runs"))
    return st.Job(data, model, mode=mode, optimizer=st.SGD(lr=0.5), batch_size=50, lanes=2, tracking=tracking)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that pass only where a test says so."""
    now = [1000.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    yield now


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return digest(one) == digest(other)


def stopped(job: st.Job, folder: Path, files: CheckpointFiles) -> None:
    """A run that is asked to stop before its first step, and leaves a checkpoint."""
    with Keeper(job, {}, files) as keeper:
        keeper.ask_to_stop("asked")
        with pytest.raises(Interrupted):
            run(job, folder, keeper=keeper)


@pytest.mark.parametrize(
    ("mode", "at"), [(st.Epochs(max_passes=5), [29, 40]), (st.Online(evaluate_every=1000), [20, 28])], ids=str
)
def test_max_steps_ends_a_run_with_a_last_evaluation(job: st.Job, tmp_path: Path, mode: Any, at: list[int]) -> None:
    job = dataclasses.replace(job, mode=mode, max_steps=at[-1])
    result, fleet = run(job, tmp_path)
    assert len(fleet.updates) == at[-1]
    assert result.stop_reason == f"max_steps = {at[-1]} reached"
    assert [evaluation.step for evaluation in result.evaluations] == at
    assert result.test is not None and (tmp_path / "parameters.safetensors").exists()


def test_a_batch_that_grows_ends_at_the_same_step(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, batch_size=st.BatchSize(64, most=256, follow="noise_scale"), max_steps=37)
    result, fleet = run(job, tmp_path)
    assert len(fleet.updates) == 37 and result.evaluations[-1].step == 37


def test_max_steps_are_those_of_a_longer_run_and_go_on_where_it_is_raised(job: st.Job, tmp_path: Path) -> None:
    """Also after a resume: at the step where it ended, and with another number."""
    short = dataclasses.replace(job, max_steps=45)
    files = CheckpointFiles(str(tmp_path / "checkpoints"), 2, print)
    with Keeper(short, {}, files) as keeper:
        ended, _ = run(short, tmp_path, keeper=keeper)
    with InlineFleet(plan(job)) as longer:
        longer.advance(45)
        at_45 = longer.snapshot()
    last = files.newest()
    assert last is not None and last.step == 45
    assert same(last.part("parameters"), at_45)
    again, fleet = run(short, tmp_path, keeper=Keeper(short, {}, None, last))
    assert not fleet.updates and again.stop_reason == ended.stop_reason
    assert [each.step for each in again.evaluations] == [29, 45] and same(again.parameters, ended.parameters)


def test_a_run_that_is_behind_max_steps_when_it_goes_on_ends_at_once(job: st.Job, tmp_path: Path) -> None:
    files = CheckpointFiles(str(tmp_path / "checkpoints"), 2, print)
    stopped(job, tmp_path, files)
    last = files.newest()
    assert last is not None
    fleet = InlineFleet(plan(job))
    fleet.advance(20)
    ahead = dataclasses.replace(
        last, tensors=fleet.save(), progress={**last.progress, "step": 20, "used": 1000, "seconds": 1.0}
    )
    result, fleet_on = run(dataclasses.replace(job, max_steps=10), tmp_path, keeper=Keeper(job, {}, None, ahead))
    assert not fleet_on.updates and [each.step for each in result.evaluations] == [20]
    assert result.stop_reason == "max_steps = 10 reached"


def test_max_seconds_ends_a_run_and_counts_over_resumes(job: st.Job, tmp_path: Path, clock: list[float]) -> None:
    class Slow(InlineFleet):
        def advance(self, step: int) -> list[Any]:
            clock[0] += 4.0
            return super().advance(step)

    job = dataclasses.replace(job, max_seconds=10.0)
    files = CheckpointFiles(str(tmp_path / "checkpoints"), 2, print)
    result, updates = _run_with(Slow, job, tmp_path, Keeper(job, {}, files))
    assert result.stop_reason == "max_seconds = 10 reached" and clock[0] == 1012.0
    assert result.evaluations[-1].step == updates, "measured where it ended"
    files = CheckpointFiles(str(tmp_path / "others"), 2, print)
    stopped(job, tmp_path, files)
    last = files.newest()
    assert last is not None
    spent = dataclasses.replace(last, progress={**last.progress, "spent": 7.0})
    clock[0] = 5000.0
    _run_with(Slow, job, tmp_path, Keeper(job, {}, None, spent))
    assert clock[0] == 5004.0, "3 s were left"


def _run_with(kind: type[InlineFleet], job: st.Job, folder: Path, keeper: Keeper) -> tuple[st.Result, int]:
    from streamtrain.run.controller import Controller
    from streamtrain.track.terminal import Terminal
    from streamtrain.track.tracker import NoTracker

    with kind(plan(job), keeper.start) as fleet, keeper:
        result = Controller(plan(job), fleet, NoTracker(), Terminal(quiet=True), folder, keeper).run()
    return result, result.evaluations[-1].step


def test_a_run_without_time_makes_one_step_and_is_measured(job: st.Job, tmp_path: Path) -> None:
    result, fleet = run(dataclasses.replace(job, max_seconds=1e-9), tmp_path)
    assert len(fleet.updates) == 1 and [each.step for each in result.evaluations] == [1]


def test_limits_that_cannot_be_are_refused(job: st.Job) -> None:
    with pytest.raises(st.ConfigError, match=r"^max_steps: expected .* at least 1, found 0"):
        dataclasses.replace(job, max_steps=0)
    with pytest.raises(st.ConfigError, match=r"^max_seconds: expected .*, found -1"):
        dataclasses.replace(job, max_seconds=-1.0)


def test_a_schedule_ends_at_max_steps_which_is_fixed_then(job: st.Job, tmp_path: Path) -> None:
    ends = dataclasses.replace(job, schedule=st.Schedule("cosine"), max_steps=40)
    assert plan(ends).scheduled_steps == 40
    other = dataclasses.replace(ends, max_steps=50)
    with pytest.raises(st.ConfigError, match="--resume, max_steps: expected 40, as the run began, found 50"):
        check_settings(fixed_settings(plan(ends)), fixed_settings(plan(other)), tmp_path)
    free = dataclasses.replace(other, schedule=st.Schedule())
    check_settings(fixed_settings(plan(job)), fixed_settings(plan(free)), tmp_path)
