"""Measured beside training: the numbers, choices and bits of a run that waits, whenever a measurement is ready."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import streamtrain as st
from streamtrain.errors import Interrupted, JobError, WorkerLost
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.checkpoints.resuming import check_branch, fixed_settings
from streamtrain.run.controller import Controller
from streamtrain.run.outcome.result import Result
from streamtrain.run.watching.listening import Listeners
from streamtrain.run.watching.measuring import measurements
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from streamtrain.values import Update
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, PlainFleet, PlainSpare, run

ON_THE_WAY = st.Evaluate(every=300, examples=100)
MODES = {
    "online": st.Online(window=300),
    "early": st.Epochs(max_passes=6, patience_examples=900),
    "passes": st.Epochs(max_passes=2, patience=3),
}


def model() -> torch.nn.Module:
    net = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 32),
        torch.nn.BatchNorm1d(32),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(32, 10),
    )
    net[1].bias.requires_grad_(False)
    return net


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    return st.Job(data, model, optimizer=st.SGD(lr=0.5), batch_size=50, seed=1, evaluate=ON_THE_WAY, lanes=2)


class Gated(PlainFleet):
    """Says when it has trained on."""

    def __init__(self, plans: object) -> None:
        super().__init__(plans)  # type: ignore[arg-type]
        self.trained = threading.Event()

    def snapshot(self) -> dict[str, torch.Tensor]:
        self.trained.clear()
        return super().snapshot()

    def advance(self, step: int) -> list[Update]:
        try:
            return super().advance(step)
        finally:
            self.trained.set()


def beside(
    job: st.Job, folder: Path, keeper: Keeper | None = None, tracker: Notebook | None = None, *, late: bool = False
) -> tuple[Result, PlainFleet]:
    """As `run`, measured beside; where it is ``late``, only once the workers have trained further."""
    plans = plan(job)
    fleet, keeper = Gated(plans), keeper or Keeper(job, {})
    if keeper.start is not None:
        fleet.restart(keeper.start)
    gate: Callable[[], object] = (lambda: fleet.trained.wait(0.5)) if late else lambda: None
    spare = PlainSpare(plans, gate)
    tracker = tracker or Notebook()
    return Controller(plans, fleet, tracker, Terminal(quiet=True), folder, keeper, spare=spare).run(), fleet


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("mode", MODES)
def test_promise_5_beside_training_the_bits_and_the_choice_are_those_of_a_run_that_waits(
    job: st.Job, mode: str, late: bool, tmp_path: Path
) -> None:
    job = dataclasses.replace(job, mode=MODES[mode], average=st.Average(decay=0.9))
    waiting, others = Notebook(), Notebook()
    expected, _ = run(job, tmp_path, waiting)
    found, _ = beside(job, tmp_path, tracker=others, late=late)
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    assert found.evaluations == expected.evaluations and len(found.evaluations) > 3
    assert found.chosen == expected.chosen and found.stop_reason == expected.stop_reason
    assert found.test == expected.test and found.passes >= expected.passes
    for name in ("Gap/error", "generalization_risk/loss", "empirical_risk/error", "evaluation/passes"):
        assert others.named(name) == waiting.named(name), name
    if mode == "early":
        assert "no better validation error" in found.stop_reason and expected.chosen.passes < 6


class Heard(Terminal):
    """Keeps its lines, and says when one is of waiting."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.waits = threading.Event()

    def line(self, text: str) -> None:
        self.lines.append(text)
        if "waiting" in text:
            self.waits.set()


def test_long_waiting_is_told_once_with_what_is_waited_for(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(measurements, "PATIENCE", 0.01)
    plans = plan(dataclasses.replace(job, mode=st.Epochs(max_passes=1), evaluate=st.Evaluate(examples=100)))
    terminal = Heard()
    spare = PlainSpare(plans, lambda: terminal.waits.wait(60))
    Controller(plans, PlainFleet(plans), NoTracker(), terminal, tmp_path, Keeper(plans.job, {}), spare=spare).run()
    (line,) = [line for line in terminal.lines if "waiting" in line]
    assert line == (
        f"waiting for step {plans.order.steps} to be measured beside, by a plain measurer; "
        "to go on without, stop the run and --resume it with evaluate.beside off"
    )


def test_the_steps_of_a_run_that_ends_early_are_those_that_it_made(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=MODES["early"])
    waiting, _ = run(job, tmp_path)
    assert waiting.summary()["steps"] == waiting.evaluations[-1].step
    found, fleet = beside(job, tmp_path, late=True)
    summary = found.summary()
    assert summary["chosen_step"] == waiting.summary()["chosen_step"] == found.chosen.step
    assert summary["steps"] == fleet.updates[-1].step + 1 > found.evaluations[-1].step, (
        "it trained on while the last one was measured"
    )
    assert (
        summary["examples_used"]
        == found.examples_used
        == plan(job).order.examples_before(plan(job).order.position(summary["steps"]))
    )


def test_what_is_measured_is_told_before_the_next_place(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listeners hear at the next place; the tracker as soon as it is there, between two stints."""
    monkeypatch.setattr("streamtrain.run.controller.STINT_SECONDS", 0.0)
    job = dataclasses.replace(job, mode=st.Online(), evaluate=st.Evaluate(every=1000, examples=100), batch_size=10)
    told: dict[int, int] = {}
    notebook = Notebook()

    class Patient(Gated):
        def advance(self, step: int) -> list[Update]:
            done = super().advance(step)
            told[step] = len(notebook.named("Gap/error"))
            if step > 100:
                making = controller._measurements._beside
                assert making is not None and (making._making is None or making.ready(30))
            return done

    plans = plan(job)
    fleet = Patient(plans)
    spare = PlainSpare(plans)
    controller = Controller(plans, fleet, notebook, Terminal(quiet=True), tmp_path, Keeper(job, {}), spare=spare)
    controller.run()
    assert [step for step, _ in notebook.named("Gap/error")] == [99, 143]
    steps = sorted(step for step in told if step > 100)
    assert told[100] == told[steps[0]] == 0 and told[steps[1]] == 1


@pytest.mark.parametrize("mode", MODES)
def test_promise_3_stopped_while_one_is_waited_for_at_the_place_of_the_next(
    job: st.Job, mode: str, tmp_path: Path
) -> None:
    job = dataclasses.replace(job, mode=MODES[mode])
    expected, _ = run(job, tmp_path)
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    plans = plan(job)
    keeper = Keeper(job, fixed_settings(plans), checkpoints)
    released = threading.Event()
    fleet = Asking(plans, keeper, 12)
    with pytest.raises(Interrupted, match="stopped by a test after step 12"):
        Controller(
            plans,
            fleet,
            NoTracker(),
            Terminal(quiet=True),
            tmp_path,
            keeper,
            spare=PlainSpare(plans, released.wait),
        ).run()
    released.set()
    last = checkpoints.newest()
    assert last is not None and last.progress["outstanding"]["step"] == 6
    found, _ = beside(job, tmp_path, Keeper(job, {}, checkpoints, last))
    assert found.evaluations == expected.evaluations and found.chosen == expected.chosen
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("mode", MODES)
def test_promise_3_stopped_with_a_measurement_outstanding_and_resumed(
    job: st.Job, mode: str, late: bool, tmp_path: Path
) -> None:
    job = dataclasses.replace(job, mode=MODES[mode])
    expected, _ = run(job, tmp_path)
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    outstanding = 0
    for stop_at in (8, 14, 20):
        plans = plan(job)
        last = checkpoints.newest()
        keeper = Keeper(job, fixed_settings(plans), checkpoints, last)

        fleet = Asking(plans, keeper, stop_at)
        fleet.restart(keeper.start)
        gate: Callable[[], object] = (lambda fleet=fleet: fleet.trained.wait(0.5)) if late else lambda: None
        spare = PlainSpare(plans, gate)
        with pytest.raises(Interrupted, match="stopped by a test"):
            Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, spare=spare).run()
        last = checkpoints.newest()
        assert last is not None
        outstanding += bool(last.part("measured"))
        assert bool(last.part("measured")) == (last.progress["outstanding"] is not None)
    found, _ = beside(job, tmp_path, Keeper(job, {}, checkpoints, checkpoints.newest()), late=late)
    assert outstanding
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())
    assert found.evaluations == expected.evaluations and found.chosen == expected.chosen


class Asking(Gated):
    """Asks to stop once it has made so many steps."""

    def __init__(self, plans: object, keeper: Keeper, at: int) -> None:
        super().__init__(plans)
        self._keeper = keeper
        self._at_step = at

    def advance(self, step: int) -> list[Update]:
        if step >= self._at_step:
            self._keeper.ask_to_stop("stopped by a test")
        return super().advance(step)


def test_all_workers_lost_with_a_measurement_outstanding(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=MODES["passes"])
    expected, _ = run(job, tmp_path)
    calls: list[int] = []

    class Unlucky(Gated):
        def advance(self, step: int) -> list[Update]:
            calls.append(step)
            if len(calls) in (3, 6):
                raise WorkerLost("all workers are gone")
            return super().advance(step)

    plans = plan(job)
    fleet = Unlucky(plans)
    keeper = Keeper(dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=0.0)), {})
    found = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, spare=PlainSpare(plans)).run()
    assert found.evaluations == expected.evaluations and len(calls) > 6
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in expected.parameters.items())


def test_a_measurement_that_fails_ends_the_run(job: st.Job, tmp_path: Path) -> None:
    class Failing(PlainSpare):
        def at(self, *_: object) -> object:  # type: ignore[override]
            raise JobError("metrics.f failed: a reason")

    plans = plan(job)
    with pytest.raises(JobError, match="a reason"):
        run(job, tmp_path, spare=Failing(plans))


@pytest.mark.parametrize("mode", ["online", "passes"])
def test_a_listener_ends_the_run_at_the_next_place(job: st.Job, mode: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=MODES[mode])
    expected, _ = run(job, tmp_path)
    plans = plan(job)
    listeners = Listeners((lambda evaluation: evaluation.step == 12,))
    result = Controller(
        plans,
        PlainFleet(plans),
        NoTracker(),
        Terminal(quiet=True),
        tmp_path,
        Keeper(job, {}),
        listeners,
        PlainSpare(plans),
    ).run()
    steps = [each.step for each in result.evaluations]
    assert steps == ([6, 12, 18] if mode == "online" else [6, 12])
    assert list(result.evaluations) == list(expected.evaluations[: len(steps)])
    assert "ended it" in result.stop_reason
    assert result.examples_used == 18 * 50, "it has trained as far as to the next place"


def test_bad_examples_that_are_met_beside_are_counted(job: st.Job, tmp_path: Path) -> None:
    data = dataclasses.replace(job.data, map=no_nines, on_bad_example="skip", max_bad_examples=400)
    job = dataclasses.replace(job, data=data, mode=MODES["passes"])
    names = ("waiting", "beside")
    for name in names:
        (tmp_path / name).mkdir()
    expected, _ = run(job, tmp_path / "waiting")
    found, _ = beside(job, tmp_path / "beside")
    assert found.evaluations == expected.evaluations
    listed = [max((tmp_path / each).glob("skipped_*"), key=lambda f: f.stat().st_size) for each in names]
    assert listed[0].read_bytes() == listed[1].read_bytes()


def no_nines(example: dict[str, object]) -> dict[str, object]:
    if example["label"] == 9:
        raise ValueError("a nine")
    return example


def test_a_run_that_goes_on_without_it_says_what_is_not_measured(
    job: st.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = dataclasses.replace(job, mode=MODES["passes"])
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    plans = plan(job)
    keeper = Keeper(job, fixed_settings(plans), checkpoints)
    fleet = Asking(plans, keeper, 8)
    released = threading.Event()
    spare = PlainSpare(plans, released.wait)
    with pytest.raises(Interrupted):
        Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, spare=spare).run()
    released.set()
    last = checkpoints.newest()
    assert last is not None and last.part("measured")
    result, _ = run(job, tmp_path, keeper=Keeper(job, {}, checkpoints, last), quiet=False)
    assert "step 6 is not measured: evaluate.beside is off since then" in capsys.readouterr().err
    assert result.evaluations[0].step == 12


def test_promise_3_a_better_number_that_was_only_told_uses_up_no_patience(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops between a measurement and the place where it decides goes on as if it had not stopped."""
    monkeypatch.setattr("streamtrain.run.controller.FIRST_STINT", 2)
    monkeypatch.setattr("streamtrain.run.controller.STINT_SECONDS", 0.0)
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2, patience_examples=300))
    expected, _ = run(job, tmp_path)
    assert len(expected.evaluations) > 3
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, print)
    plans = plan(job)
    keeper = Keeper(job, fixed_settings(plans), checkpoints)

    class Patient(Asking):
        def advance(self, step: int) -> list[Update]:
            done = super().advance(step)
            making = controller._measurements._beside
            assert making is not None and (making._making is None or making.ready(30))
            return done

    fleet = Patient(plans, keeper, 14)
    controller = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, spare=PlainSpare(plans))
    with pytest.raises(Interrupted, match="after step 14"):
        controller.run()
    last = checkpoints.newest()
    assert last is not None and last.progress["outstanding"]["step"] == last.progress["evaluations"][-1]["step"] == 12
    check_branch(last, plans)
    found, _ = beside(job, tmp_path, Keeper(job, {}, checkpoints, last))
    assert found.evaluations == expected.evaluations and found.stop_reason == expected.stop_reason


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_the_rate_is_that_of_the_run(
    job: st.Job, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where each stint takes a second: whenever a measurement is told."""
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), time=time.time)
    monkeypatch.setattr("streamtrain.run.controller.time", clock)
    job = dataclasses.replace(job, mode=MODES["passes"])
    plans = plan(job)
    fleet = Gated(plans)
    gate: Callable[[], object] = (lambda: fleet.trained.wait(0.5)) if late else lambda: None
    Controller(plans, fleet, NoTracker(), Terminal(), tmp_path, Keeper(job, {}), spare=PlainSpare(plans, gate)).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if "examples/s" in line]
    assert lines and {line.rpartition("  ")[2] for line in lines[:3]} == {"300 examples/s"}
