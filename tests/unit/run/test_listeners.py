"""Listeners: what ends a run and why, what they may answer, and what becomes of what they raise."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import Interrupted, WorkerLost
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.watching.listening import Listeners
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet, run


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack_digits(folder)
    return folder


@pytest.fixture
def job(digits: Path) -> st.Job:
    return st.Job(st.Data(str(digits), transform=scaled), model, optimizer=st.SGD(lr=0.5), batch_size=50, seed=1)


def quiet(folder: Path) -> st.Tracking:
    """The run's folder there, and no MLflow."""
    return st.Tracking(enabled=False, folder=str(folder / "runs"))


@pytest.fixture(scope="module")
def evaluation(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> st.Evaluation:
    job = st.Job(st.Data(str(digits), transform=scaled), model, mode=st.Online(max_examples=100), batch_size=50)
    return run(job, tmp_path_factory.mktemp("run"))[0].chosen


@pytest.mark.parametrize("mode", [st.Epochs(max_passes=5), st.Online(evaluate_every=300)], ids=["epochs", "online"])
def test_a_listener_hears_each_evaluation_and_ends_the_run(
    job: st.Job, tmp_path: Path, mode: st.Epochs | st.Online
) -> None:
    heard = list[st.Evaluation]()

    def told(evaluation: st.Evaluation) -> str | None:
        heard.append(evaluation)
        return "enough" if len(heard) == 2 else None

    result = st.train(dataclasses.replace(job, mode=mode, listeners=(told,), tracking=quiet(tmp_path)), inline=True)
    assert tuple(heard) == result.evaluations and len(heard) == 2
    assert result.stop_reason.startswith("listener ") and result.stop_reason.endswith("told ended it: enough")
    assert result.chosen in heard


def test_a_listener_that_raises_is_told_with_its_place(
    job: st.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: st.Evaluation) -> None:
        raise ValueError("no room")

    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2), listeners=[broken], tracking=quiet(tmp_path))
    said = (
        r"listener .*broken failed: ValueError: no room \(.*test_listeners.py:\d+\); repair it, and go on by --resume"
    )
    with pytest.raises(st.JobError, match=said):
        st.train(job, inline=True)
    result = st.train(dataclasses.replace(job, on_listener_error="go_on"), inline=True)
    assert len(result.evaluations) == 2
    assert capsys.readouterr().err.count("--resume; the run goes on\n") == 2
    with pytest.raises(st.ConfigError, match="listeners: expected functions, found 3; give a tuple"):
        dataclasses.replace(job, listeners=3)


@pytest.mark.parametrize(
    ("mode", "fails_at"),
    [(st.Epochs(max_passes=2, patience=1), 2), (st.Online(evaluate_every=600), 1)],
    ids=["epochs", "online"],
)
def test_a_run_goes_on_from_where_a_listener_failed(
    job: st.Job, tmp_path: Path, mode: st.Epochs | st.Online, fails_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """It hears of the same once more; nothing is trained or measured again, and the choice is the same."""
    heard: list[int] = []

    def fragile(evaluation: st.Evaluation) -> None:
        heard.append(evaluation.step)
        if len(heard) == fails_at:
            raise ValueError("no room")

    job = dataclasses.replace(job, mode=mode, tracking=quiet(tmp_path))
    expected = st.train(job, inline=True, quiet=True)
    listens = dataclasses.replace(job, listeners=(fragile,))
    with pytest.raises(st.JobError, match="no room"):
        st.train(listens, inline=True, name="fragile")
    assert "removed" not in capsys.readouterr().err
    result = st.train(listens, inline=True, name="fragile", resume=True)
    steps = [each.step for each in expected.evaluations]
    assert heard == [*steps[:fails_at], *steps[fails_at - 1 :]]
    assert result.evaluations == expected.evaluations and result.chosen == expected.chosen
    assert result.stop_reason == expected.stop_reason
    assert all(torch.equal(result.parameters[name], each) for name, each in expected.parameters.items())


class Mute:
    """Whose truth nobody can tell, as that of an array of several."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


async def awaited(_: st.Evaluation) -> None: ...


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda _: np.array([True, False]), "ndarray"),
        (lambda _: torch.tensor([1.0, 2.0]), "Tensor"),
        (lambda _: Mute(), "Mute"),
        (lambda _: 12, "int"),  # as a file's write returns
        (lambda evaluation: (evaluation for _ in "a"), "generator"),
        (awaited, "coroutine"),
    ],
)
def test_a_listener_that_answers_neither_reason_nor_truth_is_told_so(
    job: st.Job, tmp_path: Path, answer: Any, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=1), listeners=(answer,), tracking=quiet(tmp_path))
    said = f"listener .*: expected None, True, False or a reason, found .*{found}.*; return one of these"
    with pytest.raises(st.JobError, match=said):
        st.train(job, inline=True)
    result = st.train(dataclasses.replace(job, on_listener_error="go_on"), inline=True)
    assert result.stop_reason == "mode.max_passes = 1 reached"
    assert re.search(said + r".*; the run goes on\n", capsys.readouterr().err)


@pytest.mark.parametrize("wish", [np.bool_(True), True])
@pytest.mark.parametrize("other", [np.bool_(False), False, None, "", " \n"])
def test_a_listener_answers_by_truth_or_by_a_reason_on_one_line(
    evaluation: st.Evaluation, wish: object, other: object
) -> None:
    listeners = (lambda _: other, lambda _: wish, lambda _: "too late")
    assert Listeners(listeners).hear(evaluation).endswith("ended it")  # type: ignore[union-attr]
    assert Listeners((lambda _: other,)).hear(evaluation) is None
    said = Listeners((lambda _: "worse\nthan \x1b[31mbefore\x1b[0m\t\r\n",)).hear(evaluation)
    assert said is not None and said.endswith("<lambda> ended it: worse than before")


@pytest.mark.parametrize("error", [st.DataError("no such set"), WorkerLost("worker 3 is gone")])
def test_an_error_of_ours_in_a_listener_is_the_listeners(
    job: st.Job, tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a listener that opens a data set, or trains."""

    def broken(_: st.Evaluation) -> None:
        raise error

    job = dataclasses.replace(job, mode=st.Epochs(max_passes=1), listeners=(broken,), tracking=quiet(tmp_path))
    with pytest.raises(st.JobError, match=f"listener .*broken failed: .*{error}.*; repair it"):
        st.train(job, inline=True)
    st.train(dataclasses.replace(job, on_listener_error="go_on"), inline=True)
    assert capsys.readouterr().err.count("the run goes on\n") == 1


def test_a_run_that_goes_on_behind_its_last_pass_is_measured_where_it_is(job: st.Job, tmp_path: Path) -> None:
    """It was never measured, and the passes were lowered at the resume."""
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=3), evaluate=st.Evaluate(every=10**6))
    keeper = Keeper(job, {})
    plans = plan(job)
    fleet = PlainFleet(plans)
    fleet.advance(40)
    progress = keeper.begin()[0]
    progress.step, progress.used, progress.seconds = 40, 1988, 1.0
    keeper.ask_to_stop("now")
    with pytest.raises(Interrupted):
        keeper.keep(fleet, progress, {})
    result, _ = run(dataclasses.replace(job, mode=st.Epochs(max_passes=1)), tmp_path, keeper=keeper)
    assert [each.step for each in result.evaluations] == [40] and result.chosen is result.evaluations[0]
    assert result.stop_reason == "mode.max_passes = 1 reached"


@pytest.mark.parametrize("mode", [st.Epochs(max_passes=3), st.Online(evaluate_every=300)], ids=["epochs", "online"])
def test_a_run_that_a_listener_has_ended_is_not_begun_again(
    job: st.Job, tmp_path: Path, mode: st.Epochs | st.Online
) -> None:
    """All workers are lost then: it goes on from the checkpoint of its end."""
    job = dataclasses.replace(job, mode=mode)
    heard = list[int]()
    lost = list[int]()

    class Mortal(PlainFleet):
        def restore(self, parameters: Any) -> None:
            if not lost:
                lost.append(1)
                raise WorkerLost("all workers are gone")
            super().restore(parameters)

    def told(evaluation: st.Evaluation) -> bool:
        heard.append(evaluation.step)
        return len(heard) == 2

    plans = plan(job)
    fleet = Mortal(plans)
    listeners = Listeners((told,))
    keeper = Keeper(job, {})
    result = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, listeners).run()
    assert lost and len(heard) == 2
    assert [each.step for each in result.evaluations] == heard and "told ended it" in result.stop_reason
