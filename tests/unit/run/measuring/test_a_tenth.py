"""By default, measuring takes about a tenth of the work: on how many examples, and which."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.measure.gap import paired
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.outcome.result import Evaluation
from streamtrain.run.watching.listening import Listeners
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from tests.support.fleet import PlainFleet, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 training examples, 7,000 for validation and 1,000 for tests."""
    folder = tmp_path_factory.mktemp("lines")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 4)).astype(np.float32)
    np.savez(folder / "raw.npz", x=x, label=(x.sum(1) + rng.normal(size=20_000) > 0).astype(np.int64))
    st.pack(str(folder / "raw.npz"), folder / "packed", st.PackOptions(splits=(0.6, 0.35, 0.05), seed=1))
    return folder / "packed"


def model() -> torch.nn.Module:
    return torch.nn.Linear(4, 2)


def job_on(data: Path, **settings: object) -> st.Job:
    evaluate = settings.pop("evaluate", st.Evaluate())
    return st.Job(st.Data(str(data), inputs=("x",)), model, batch_size=200, evaluate=evaluate, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "evaluate", "expected"),
    [
        # an update costs three forwards an example: 2 · n forwards are a tenth of 3 · interval + 2 · n
        (st.Epochs(max_passes=2), st.Evaluate(), 2000),
        (st.Epochs(max_passes=2), st.Evaluate(splits=("validation", "test")), 1333),
        (st.Epochs(max_passes=2), st.Evaluate(every=9000), 1500),
        (st.Epochs(max_passes=2), st.Evaluate(every=600), 1000),
        (st.Epochs(max_passes=2), st.Evaluate(every=60_000), 7000),
        (st.Epochs(max_passes=2), st.Evaluate(examples=3000), 3000),
        (st.Epochs(max_passes=2), st.Evaluate(until=0.001), 7000),
        (st.Online(), st.Evaluate(), 1000),
        (st.Online(evaluate_every=10_000), st.Evaluate(), 1666),
    ],
)
def test_measuring_takes_a_tenth_of_the_work(
    data: Path, mode: st.Epochs | st.Online, evaluate: st.Evaluate, expected: int
) -> None:
    plans = plan(job_on(data, mode=mode, evaluate=evaluate))
    assert plans.held_out() == expected
    assert plans.held_out(whole=True) == (evaluate.examples or 7000)


def counts(evaluations: tuple[Evaluation, ...]) -> list[tuple[int, int]]:
    return [(each.empirical.loss.count, each.generalization.loss.count) for each in evaluations]


def test_a_run_in_one_pass_is_measured_on_all_where_it_ends(data: Path, tmp_path: Path) -> None:
    result, _ = run(job_on(data, mode=st.Online(evaluate_every=4000)), tmp_path)
    assert counts(result.evaluations) == [(1000, 1000), (1000, 1000), (7000, 7000)]
    parts = [each.held_out for each in result.evaluations]
    assert all(part is not None and sum(part.examples) == 1000 for part in parts), "of the same examples each time"
    first, last = parts[0], parts[-1]
    assert first is not None and last is not None
    assert paired(first.weights_of("loss"), first.means["loss"], last.means["loss"]) is not None
    assert result.by_class is not None
    assert sum(error.count for error in result.by_class.errors.values()) == 7000
    stopped, _ = run(job_on(data, mode=st.Online(evaluate_every=4000), max_steps=30), tmp_path)
    assert counts(stopped.evaluations)[-1] == (6000, 7000), "of 6,000 training examples that were used"


def test_passes_are_all_measured_on_the_same_part(data: Path, tmp_path: Path) -> None:
    job = job_on(data, mode=st.Epochs(max_passes=2))
    result, _ = run(job, tmp_path)
    assert counts(result.evaluations) == [(2000, 2000)] * 2
    whole, _ = run(dataclasses.replace(job, evaluate=st.Evaluate(examples=7000)), tmp_path)
    assert counts(whole.evaluations) == [(7000, 7000)] * 2
    assert all(torch.equal(whole.parameters[name], each) for name, each in result.parameters.items())


def test_it_is_said_on_how_many(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = st.Tracking(enabled=False, folder=str(tmp_path))
    st.train(job_on(data, mode=st.Epochs(max_passes=1), tracking=off), inline=True, name="lines")
    said = "lines-epochs: risks are measured on 2,000 of 7,000 validation examples, about a tenth of the work; eval"
    assert said in capsys.readouterr().err
    explicit = st.Evaluate(examples=500)
    st.train(job_on(data, mode=st.Epochs(max_passes=1), tracking=off, evaluate=explicit), inline=True, name="lines")
    assert "a tenth of the work" not in capsys.readouterr().err


def test_errors_by_class_are_of_the_examples_that_the_last_measurement_had(data: Path, tmp_path: Path) -> None:
    """A single pass that a listener ends where it is measured on a part."""
    plans = plan(job_on(data, mode=st.Online(evaluate_every=4000)))
    listeners = Listeners((lambda evaluation: True,))
    fleet, keeper = PlainFleet(plans), Keeper(plans.job, {})
    result = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), tmp_path, keeper, listeners).run()
    assert counts(result.evaluations) == [(1000, 1000)] and result.by_class is not None
    assert sum(error.count for error in result.by_class.errors.values()) == 1000
