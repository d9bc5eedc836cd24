"""A run that loses its workers or its process goes on from a checkpoint: the same bits, each measure once."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import streamtrain as st
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.errors import Interrupted, WorkerLost
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.checkpoint_files import Checkpoint, CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.checkpoints.resuming import fixed_settings
from streamtrain.run.controller import Controller
from streamtrain.track.mlflow import MlflowTracker
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import RunCard
from streamtrain.values import Update
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, PlainFleet, run
from tests.unit.run.test_controller import scaled


def model() -> torch.nn.Module:
    layers = (torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.2))
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(32, 10))


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    optimizer = st.SGD(lr=0.1, momentum=0.9, dampening=0.1)
    update: dict[str, Any] = {"optimizer": optimizer, "average": st.Average(0.99), "clip": st.Clip(norm=1.0)}
    keep = st.Checkpoints(seconds=0.0)
    return st.Job(data, model, **update, batch_size=50, lanes=2, seed=1, checkpoints=keep)


class Unlucky(PlainFleet):
    """Loses its one worker in the stints that begin with the given calls."""

    def __init__(self, plans: Plan, unlucky_calls: set[int]) -> None:
        super().__init__(plans)
        self.calls, self.unlucky_calls = 0, unlucky_calls

    def advance(self, step: int) -> list[Update]:
        self.calls += 1
        if self.calls in self.unlucky_calls:
            self.worker.advance(step)
            raise WorkerLost("worker 0 died")
        return super().advance(step)


MODES = {"online": st.Online(window=300), "epochs": st.Epochs(max_passes=4, patience=2)}


@pytest.mark.parametrize("mode", MODES)
def test_promise_3_all_workers_lost_again_and_again(job: st.Job, mode: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=MODES[mode])
    undisturbed, disturbed = Notebook(), Notebook()
    expected, _ = run(job, tmp_path, undisturbed)
    plans = plan(job)
    fleet = Unlucky(plans, {1, 3, 4, 6})
    found = Controller(plans, fleet, disturbed, Terminal(quiet=True), tmp_path, Keeper(job, {})).run()
    assert fleet.calls > 8
    for name, tensor in expected.parameters.items():
        assert torch.equal(found.parameters[name], tensor), name
    assert found.evaluations == expected.evaluations and found.stop_reason == expected.stop_reason
    assert found.progressive == expected.progressive and found.examples_used == expected.examples_used
    timed = ("throughput", "step_time", "loader", "system", "evaluation", "gradient/skipped")
    names = {r.name for r in undisturbed.readings if not r.name.startswith(timed)}
    for name in names:
        assert sorted(set(disturbed.named(name))) == undisturbed.named(name), name  # the tracker drops the repeated


def test_losses_without_progress_end_the_run(job: st.Job, tmp_path: Path) -> None:
    plans = plan(job)
    fleet = Unlucky(plans, set(range(2, 100)))
    with pytest.raises(WorkerLost, match=r"all workers were lost 8 times after step 16, so it is not chance"):
        Controller(plans, fleet, Notebook(), Terminal(quiet=True), tmp_path, Keeper(job, {})).run()
    assert fleet.calls == 9


def test_who_was_asked_to_stop_begins_not_again_when_all_workers_are_lost(job: st.Job, tmp_path: Path) -> None:
    plans = plan(job)
    keeper = Keeper(job, {}, CheckpointFiles(str(tmp_path / "kept"), 2, print))

    class Stopping(Unlucky):
        def advance(self, step: int) -> list[Update]:
            if self.calls == 2:
                keeper.ask_to_stop("stopped by a test")
            return super().advance(step)

    fleet = Stopping(plans, {3})
    with pytest.raises(Interrupted, match="stopped by a test, and all workers were lost; --resume goes on from the ch"):
        Controller(plans, fleet, Notebook(), Terminal(quiet=True), tmp_path, keeper).run()
    assert fleet.calls == 3 and list((tmp_path / "kept").glob("*.json"))


def stopped(job: st.Job, folder: Path, checkpoints: CheckpointFiles, last: object, stints: int) -> None:
    """Trains some stints and is stopped like by SIGTERM."""
    plans = plan(job)
    keeper = Keeper(job, fixed_settings(plans), checkpoints, last)  # type: ignore[arg-type]

    class Stopping(PlainFleet):
        def advance(self, step: int) -> list[Update]:
            if len(self.updates) >= 16 * stints:
                keeper.ask_to_stop("stopped by a test")
            return super().advance(step)

    fleet = Stopping(plans)
    fleet.restart(keeper.start)
    with pytest.raises(Interrupted, match="stopped by a test after step"):
        Controller(plans, fleet, Notebook(), Terminal(quiet=True), folder, keeper).run()


@pytest.mark.parametrize("mode", MODES)
def test_promise_3_stopped_and_resumed_twice(job: st.Job, mode: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=MODES[mode])
    expected, _ = run(job, tmp_path)
    warnings: list[str] = []
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, warnings.append)
    assert checkpoints.newest() is None
    stopped(job, tmp_path, checkpoints, None, 0)
    first = checkpoints.newest()
    assert first is not None and 0 < first.step < 29
    if mode == "epochs":
        stopped(job, tmp_path, checkpoints, first, 1)
    last = checkpoints.newest()
    assert last is not None and len(list((tmp_path / "kept").glob("0*"))) <= 4
    found, _ = run(job, tmp_path, keeper=Keeper(job, {}, checkpoints, last))
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    assert found.evaluations == expected.evaluations and found.test == expected.test
    assert warnings == []


@pytest.mark.parametrize("mode", MODES)
def test_promise_3_and_7_what_is_late_is_in_the_checkpoint(
    job: st.Job, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has taken lane 1 of every minibatch, and never brings it; but for the last of a pass."""
    take = Pool._take

    def after_a_laggard(pool: Pool, until: int) -> object:
        claims, step = pool._claims(pool.step), pool.step
        if claims[2, 0] != step + 1 and not (pool._pass_steps and (step + 1) % pool._pass_steps == 0):
            claims[2] = step + 1, 1, 0, step
        return take(pool, until)

    monkeypatch.setattr(Pool, "_take", after_a_laggard)
    job = dataclasses.replace(job, mode=MODES[mode], aggregation=st.Synchronous(backup=1))
    expected, fleet = run(job, tmp_path)
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    stopped(job, tmp_path, checkpoints, None, 0)
    last = checkpoints.newest()
    assert last is not None and last.tensors["put_back"].tolist() == ([last.step, 1] if mode == "epochs" else [0, 0])
    tracker = Notebook()
    found, _ = run(job, tmp_path, tracker, Keeper(job, {}, checkpoints, last))
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    order, late = fleet.plans.order, [part for update in fleet.updates for part in update.late]
    assert len(late) == tracker.named("late/lanes")[-1][1] >= order.steps - 1
    if mode == "epochs":
        assert found.examples_used == found.passes * order.used and not found.examples_unused
    else:
        assert found.examples_used + found.examples_unused == order.used and found.examples_unused > order.used // 3
        assert tracker.named("late/unused_examples")[-1][1] == found.examples_unused


def no_nines(example: dict[str, Any]) -> dict[str, Any]:
    if example["label"] == 9:
        raise ValueError("a nine")
    return example


def test_promise_3_who_goes_on_passes_over_the_same_examples(job: st.Job, tmp_path: Path) -> None:
    data = dataclasses.replace(job.data, map=no_nines, on_bad_example="skip", max_bad_examples=300)
    job = dataclasses.replace(job, data=data, mode=MODES["online"])
    for name in ("straight", "stopped", "resumed"):
        (tmp_path / name).mkdir()
    expected, _ = run(job, tmp_path / "straight")
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, lambda _: None)
    stopped(job, tmp_path / "stopped", checkpoints, None, 1)
    last = checkpoints.newest()
    assert last is not None and 0 < last.step < 29 and last.progress["bad"]
    found, _ = run(job, tmp_path / "resumed", keeper=Keeper(job, {}, checkpoints, last))
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    assert found.examples_used == expected.examples_used < 1438
    listed = [
        max((tmp_path / each).glob("skipped_*"), key=lambda f: f.stat().st_size) for each in ("straight", "resumed")
    ]
    assert listed[0].name == listed[1].name and listed[0].read_bytes() == listed[1].read_bytes()


def test_a_checkpoint_cut_short_or_altered_is_refused_by_name(job: st.Job, tmp_path: Path) -> None:
    folder, warnings = tmp_path / "kept", []  # type: ignore[var-annotated]
    checkpoints = CheckpointFiles(str(folder), 3, warnings.append)
    fleet, progress = PlainFleet(plan(job)), Progress.of(job)
    for progress.step in (16, 29):
        fleet.advance(progress.step)
        assert checkpoints.write(Checkpoint(fleet.save(), progress.to_json(), {"lanes": "2"}))
    older, newest = sorted(folder.glob("*.json"))
    for damage in (cut, altered, gone):
        for file in (newest, newest.with_suffix(".safetensors")):
            before = file.read_bytes()
            damage(file)
            found = checkpoints.newest()
            assert found is not None and found.step == int(older.stem)
            assert len(warnings) == (0 if damage is gone and file == newest else 1), damage
            if warnings:
                assert warnings.pop().startswith(f"checkpoint {folder}/{newest.name} is passed over: ")
            file.write_bytes(before)
    found = checkpoints.newest()
    assert found is not None and found.step == int(newest.stem) and found.settings == {"lanes": "2"}


def test_the_best_parameters_are_kept_by_name_beside_the_last_checkpoints(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=40, patience=3), optimizer=st.SGD(lr=2.0, momentum=0.9))
    folder = tmp_path / "kept"
    with Keeper(job, {}, CheckpointFiles(str(folder), 2, print)) as keeper:
        result, _ = run(job, tmp_path, keeper=keeper)
    assert result.passes > result.chosen.step // 29 > 0, "the best pass is not the last one"
    best = load_file(folder / "best.safetensors")
    assert best.keys() == result.parameters.keys()
    assert all(torch.equal(best[name], tensor) for name, tensor in result.parameters.items())
    about = json.loads((folder / "best.json").read_text())
    assert about["step"] == result.chosen.step and about["examples_used"] == result.chosen.examples_used
    assert about["held_out_error"] == result.chosen.generalization.error.mean
    assert about["tensors"]["sha256"] == hashlib.sha256((folder / "best.safetensors").read_bytes()).hexdigest()
    numbers = {file.stem for file in folder.iterdir()} - {"best"}
    assert 1 <= len(numbers) <= 2, "which of them follows from how long the disk took for the one before"


def test_the_best_until_then_is_there_when_a_run_stops(job: st.Job, tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    stopped(dataclasses.replace(job, mode=MODES["epochs"]), tmp_path, checkpoints, None, 3)
    last = checkpoints.newest()
    assert last is not None and last.part("best")
    best = load_file(tmp_path / "kept" / "best.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in last.part("best").items())


class Faulty(CheckpointFiles):
    """Fails as nobody expects."""

    def write(self, checkpoint: Checkpoint) -> bool:
        raise MemoryError("no room to serialize")


def test_what_the_last_write_did_not_expect_is_seen(job: st.Job, tmp_path: Path) -> None:
    plans = plan(job)
    progress: Any = SimpleNamespace(step=1, to_json=dict, best=None)

    def keep_one(interrupted: bool) -> None:
        with Keeper(job, {}, Faulty(str(tmp_path / "kept"), 1, lambda _: None)) as keeper:
            keeper.keep(PlainFleet(plans), progress, {})
            if interrupted:
                raise Interrupted("by a test")

    with pytest.raises(MemoryError, match="no room to serialize"):
        keep_one(interrupted=False)
    with pytest.raises(Interrupted, match="by a test"):
        keep_one(interrupted=True)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def gone(file: Path) -> None:
    file.unlink()


def test_a_full_disk_stops_no_run(job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 1, warnings.append)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamtrain.store.remote.write_whole", full)
    with Keeper(job, {}, checkpoints) as keeper:
        result, _ = run(job, tmp_path, keeper=keeper)
    assert result.passes > 1 and "could not be written" in warnings[0] and "No space left" in warnings[0]
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_stop_on_a_full_disk_does_not_promise_a_checkpoint(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamtrain.store.remote.write_whole", full)
    keeper = Keeper(job, {}, CheckpointFiles(str(tmp_path / "kept"), 1, lambda _: None))
    keeper.ask_to_stop("stopped by a test")
    with pytest.raises(Interrupted, match="its checkpoint could not be written"):
        run(job, tmp_path, keeper=keeper)


def test_what_the_writer_did_not_expect_ends_the_run(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a defect")

    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 1, lambda _: None)
    monkeypatch.setattr(checkpoints, "write", broken)
    with pytest.raises(KeyError, match="a defect"):
        run(job, tmp_path, keeper=Keeper(job, {}, checkpoints))


def test_what_a_run_knows_is_the_same_after_json(job: st.Job, tmp_path: Path) -> None:
    keeper = Keeper(dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=0)), {})
    run(job, tmp_path, keeper=keeper)
    progress, best = keeper.begin()
    assert progress.to_json() == Progress.from_json(progress.to_json()).to_json() and best
    with pytest.raises(ValueError, match="not a checkpoint's Measures"):
        Progress.from_json({**progress.to_json(), "measures": {"Path": {"x": 1}}})
    with pytest.raises(ValueError, match="not a checkpoint's value"):
        Progress.from_json({**progress.to_json(), "step": "3"})
    with pytest.raises(ValueError, match="not a checkpoint's Progress"):
        Progress.from_json({"step": 3})


def test_promise_8_points_that_a_curve_has_are_not_logged_again(tmp_path: Path) -> None:
    from streamtrain.values import Reading

    card = RunCard("name", "experiment", {}, {}, ())
    for attempt in range(2):
        tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
        tracker.begin(card, tmp_path)
        for step in range(2 * attempt, 2 * attempt + 4):
            tracker.log([Reading("a", float(step), step, 1.0 + attempt)])
        tracker.finish("finished", "")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert tracker.run_id is not None
    assert [point.step for point in client.get_metric_history(tracker.run_id, "a")] == list(range(6))
