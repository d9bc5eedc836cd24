"""The disk fills, for a while or for good: the run goes on, and nothing half-written looks whole."""

import dataclasses
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import streamtrain as st
from streamtrain.errors import DataError, TrainingError
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints import keeper as keeping
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.shards import read_manifest
from streamtrain.track.journal import Journal, entries_of
from streamtrain.track.mlflow import MlflowTracker
from streamtrain.track.mlflow.sync import sync
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker, RunCard
from streamtrain.values import Reading, Update
from tests.support.datasets import pack_digits, save_digits
from tests.support.fleet import PlainFleet, run
from tests.support.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> st.Job:
    monkeypatch.setattr(keeping, "COST", 1e9)  # a checkpoint before every stint
    pack_digits(tmp_path / "digits")
    data, keep = st.Data(str(tmp_path / "digits"), transform=scaled), st.Checkpoints(seconds=0.0)
    mode, tracking = st.Epochs(max_passes=4, patience=9), st.Tracking(enabled=False)
    return st.Job(data, model, mode=mode, batch_size=50, lanes=2, checkpoints=keep, tracking=tracking)


class Filling(PlainFleet):
    """Fills the disk before one stint, and makes room before another."""

    disk: SmallDisk
    keeper: Keeper
    calls, full_at, free_at = 0, 2, 0

    def advance(self, step: int) -> list[Update]:
        self.calls += 1
        if self.keeper._writing is not None:
            self.keeper._writing.result()  # so that each is written, or not, in the stint before
        if self.calls == self.full_at:
            self.disk.fill()
        if self.calls == self.free_at:
            self.disk.free()
        return super().advance(step)


def trained(job: st.Job, disk: SmallDisk, free_at: int) -> tuple[list[str], CheckpointFiles, torch.Tensor | None]:
    """A run on the small disk: what it said but for its passes, its checkpoints, and its parameters or none."""
    plans, said, result = plan(job), io.StringIO(), None
    terminal = Terminal(said)
    files = CheckpointFiles(str(disk.folder / "kept"), 2, terminal.line)
    fleet = Filling(plans)
    fleet.disk, fleet.free_at = disk, free_at
    with Keeper(job, {}, files) as keeper:
        fleet.keeper = keeper
        controller = Controller(plans, fleet, NoTracker(), terminal, disk.folder, keeper)
        try:
            result = controller.run().parameters["1.weight"]
        except TrainingError as error:
            terminal.line(str(error))
    assert fleet.calls > 4 and "\n" not in str(said.getvalue().splitlines()[-1])
    return [line for line in said.getvalue().splitlines() if not line.startswith("pass")], files, result


def test_a_disk_that_is_full_for_a_while_costs_a_line_and_no_bit(job: st.Job, disk: SmallDisk, tmp_path: Path) -> None:
    said, files, parameters = trained(job, disk, free_at=4)
    expected = run(job, tmp_path)[0].parameters["1.weight"]
    assert parameters is not None and torch.equal(parameters, expected)
    lost, *others = [line for line in said if line.startswith("checkpoint")]
    assert "could not be written: OSError: [Errno 28] No space left on device; the run goes on" in lost
    assert len(others) == 1 and "is written; 0" in others[0], said
    assert len([line for line in said if "best.safetensors could not be written" in line]) <= 1
    assert files.newest() is not None and not list(disk.folder.rglob("*.partial"))


def test_a_disk_that_stays_full_ends_the_run_in_one_line_and_the_last_good_checkpoint_goes_on(
    job: st.Job, disk: SmallDisk, tmp_path: Path
) -> None:
    said, files, parameters = trained(job, disk, free_at=0)
    assert parameters is None
    assert said[-1].startswith(f"{disk.folder}/parameters.safetensors: expected to write it, found OSError: [Errno 28]")
    assert said[-1].endswith("make room; --resume goes on from the last checkpoint")
    assert len(said) == 3, "the checkpoint, best.safetensors, and the end"
    assert not list(disk.folder.rglob("*.partial")) and not (disk.folder / "parameters.safetensors").exists()
    last = files.newest()
    assert last is not None and last.step < 100
    disk.free()
    found, _ = run(job, disk.folder, keeper=Keeper(job, {}, files, last))
    assert torch.equal(found.parameters["1.weight"], run(job, tmp_path)[0].parameters["1.weight"])


def test_bad_examples_are_counted_where_their_list_cannot_be_written(job: st.Job, disk: SmallDisk) -> None:
    def no_nines(example: dict[str, object]) -> dict[str, object]:
        if example["label"] == 9:
            raise ValueError("a nine")
        return example

    data = dataclasses.replace(job.data, map=no_nines, on_bad_example="skip", max_bad_examples=5)
    plans, said = plan(dataclasses.replace(job, data=data)), io.StringIO()
    disk.fill()
    with pytest.raises(DataError, match="expected at most 5 bad examples"):
        Controller(plans, PlainFleet(plans), NoTracker(), Terminal(said), disk.folder, Keeper(plans.job, {})).run()


def test_what_the_journal_cannot_write_waits_and_is_there_once(disk: SmallDisk) -> None:
    journal = Journal(disk.folder)
    journal.append("begin", key=journal.key)
    disk.fill(room=4096)
    numbers = range(2000)
    for number in numbers:
        journal.append("readings", readings=[["x" * 10, 1.0, number, 1.0]])
    assert len(journal.waiting) > 10_000
    with (disk.folder / "journal.jsonl").open("rb") as written:
        assert not written.read().endswith(b"\n"), "the disk took a part of an entry"
    there = list(entries_of(journal.file))
    disk.free()
    journal.append("tags", tags={})
    journal.close()
    begin, *readings, tags = entries_of(journal.file)
    assert [entry["readings"][0][2] for entry in readings] == list(numbers) and len(there) < len(readings)
    assert begin["kind"] == "begin" and tags["kind"] == "tags"


def test_a_journal_that_ends_on_a_full_disk_says_so_and_can_be_continued(disk: SmallDisk) -> None:
    journal = Journal(disk.folder)
    journal.append("begin", key=journal.key)
    disk.fill()
    journal.append("tags", tags={"a": "b" * 9000})
    with pytest.raises(OSError, match="No space left"):
        journal.close()
    disk.free()
    again = Journal(disk.folder)
    again.append("tags", tags={"c": "d"})
    again.close()
    assert [entry.get("tags") for entry in entries_of(again.file)] == [None, {"c": "d"}]


def test_promise_8_what_a_full_mlflow_store_has_not_taken_is_delivered_later(
    disk: SmallDisk, empty_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (disk.folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracker = MlflowTracker(f"sqlite:///{disk.folder}/mlflow.db", flush_seconds=0.5)
    disk.fill(room=8192)
    tracker.begin(RunCard("name", "experiment", {}, {}, ()), tmp_path)
    for step in range(300):
        tracker.log([Reading("a", float(step), step, 1.0)])
    told = tracker.finish("finished", "") or ""
    assert "database or disk is full" in told and "nothing is lost" in told and "\n" not in told
    assert "Traceback" not in capfd.readouterr().err
    disk.free()
    deadline = time.monotonic() + 60
    while (synced := sync(tmp_path, None)).problem:  # the run's own last try may be under way
        assert time.monotonic() < deadline, synced.problem
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{disk.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "a")] == list(range(300))
    assert sync(tmp_path, None).delivered == 0


def test_a_pack_on_a_full_disk_leaves_no_data_set_and_goes_on_when_there_is_room(
    disk: SmallDisk, tmp_path: Path
) -> None:
    source = str(save_digits(tmp_path / "digits.npz"))
    disk.fill(room=150_000)
    with pytest.raises(
        DataError, match="No space left on device; free space, or .*; the same command then goes on where it"
    ):
        st.pack(source, disk.folder / "packed", st.PackOptions(seed=1))
    assert not (disk.folder / "packed").exists()
    disk.free()
    manifest = st.pack(source, disk.folder / "packed", st.PackOptions(seed=1))
    assert read_manifest(disk.folder / "packed").digest == manifest.digest
    assert manifest.digest == st.pack(source, tmp_path / "packed", st.PackOptions(seed=1)).digest
    assert not list(disk.folder.glob(".packed*"))
    assert json.loads((disk.folder / "packed" / "manifest.json").read_text())["order"] == "uniform"
