"""A tracker that a user wrote by the contract of `st.Tracker` alone: one CSV file a curve."""

import csv
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from tests.support.datasets import pack_digits
from tests.support.fleet import run


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


class CsvTracker:
    """Inherits from nothing of the library's; a file a curve, and a list of all that it heard."""

    run_id = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard: list[str] = []
        self.threads: set[int] = set()

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self.threads.add(threading.get_ident())

    def begin(self, card: Any, folder: Path, run_id: str | None = None) -> None:
        self._hear(f"begin {card.name}")
        assert folder.is_dir() and run_id is None

    def log(self, readings: Sequence[Any]) -> None:
        self._hear("log")
        for each in readings:
            file = self.folder / f"{each.name}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", newline="") as rows:
                csv.writer(rows).writerow([each.step, each.value.hex() if type(each.value) is float else each.value])

    def artifact(self, file: Path, place: str) -> None:
        self._hear(f"artifact {place}")
        assert file.is_file()

    def tag(self, name: str, value: str) -> None:
        self._hear(f"tag {name}")

    def describe(self, markdown: str) -> None:
        self._hear("describe")

    def model(self, card: Any) -> None:
        self._hear("model")

    def finish(self, status: str, note: str) -> str | None:
        self._hear(f"finish {status}: {note}")
        return None

    def curve(self, name: str) -> list[tuple[int, float]]:
        with (self.folder / f"{name}.csv").open(newline="") as rows:
            return [(int(step), float.fromhex(value)) for step, value in csv.reader(rows)]


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    tracking = st.Tracking(log_every=7, folder=str(tmp_path / "runs"))
    return st.Job(data, lambda: torch.nn.Linear(64, 10), batch_size=50, mode=st.Online(), tracking=tracking, workers=1)


def test_a_users_tracker_has_what_the_result_has(job: st.Job, tmp_path: Path) -> None:
    tracker: st.Tracker = CsvTracker(tmp_path / "curves")
    result, fleet = run(job, tmp_path, tracker)
    assert isinstance(tracker, CsvTracker) and set(tracker.heard) == {"log", "tag bits"}
    held_out = [(e.step - 1, e.generalization.loss.mean) for e in result.evaluations]
    assert tracker.curve("generalization_risk/loss") == held_out and len(held_out) > 5
    assert all(type(e) is st.Evaluation for e in result.evaluations)
    assert [step for step, _ in tracker.curve("minibatch/loss")] == [6, 13, 20, 27, 28]
    assert tracker.curve("learning_rate")[-1] == (28, fleet.updates[-1].learning_rate)


def test_a_users_tracker_takes_a_whole_run_on_ray(job: st.Job, tmp_path: Path) -> None:
    tracker = CsvTracker(tmp_path / "curves")
    result = st.train(job, name="mine", quiet=True, tracker=tracker)
    assert tracker.heard[0] == "begin mine-online"
    assert tracker.heard[-1] == f"finish finished: {result.stop_reason}"
    between = set(tracker.heard[1:-1])
    assert {"log", "describe", "model", "tag verdict", "artifact parameters", "artifact result"} <= between
    assert not any(each.startswith(("begin", "finish")) for each in between)
    assert tracker.threads == {threading.get_ident()}
    assert tracker.curve("generalization_risk/loss")[-1][1] == result.chosen.generalization.loss.mean
    assert result.run_id is None
