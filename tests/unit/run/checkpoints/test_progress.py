"""What a run has used, and settings that may change when it goes on: those of the job, not of the checkpoint."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import Interrupted
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import NOTHING, Keeper, Saves
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Moments, Risk, Skip, Update
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    return st.Job(data, lambda: torch.nn.Linear(64, 10), batch_size=50, lanes=2, seed=1)


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


def update(step: int, *, skipped: bool = False, late: tuple[tuple[int, int], ...] = ()) -> Update:
    moments = Moments(50 - 25 * len(late), 1.0, 0.0)
    return Update(step, moments, moments, 0.1, 1.0, 1.0, skipped=skipped, late=late)


def numbers_of(plans: Plan, step: int, lanes: tuple[int, ...] = (0, 1)) -> set[int]:
    parts = plans.order.minibatch(plans.order.position(step)).parts
    pass_index = plans.order.position(step).pass_index
    chosen = [plans.pass_orders.stored(pass_index, parts[lane].start, parts[lane].stop).each() for lane in lanes]
    return set(np.concatenate(chosen).tolist())


def used(progress: Progress, plans: Plan) -> set[int]:
    return {number for each in progress.used_examples(plans) for number in range(each.start, each.stop)}


def test_online_what_was_passed_over_or_late_or_bad_is_never_used(job: st.Job) -> None:
    plans = plan(dataclasses.replace(job, mode=st.Online()))
    progress = Progress.of(plans.job)
    progress.bad = {("train", min(numbers_of(plans, 0))): Skip("a", "bad"), ("validation", 1): Skip("b", "bad")}
    progress.note_use([update(0), update(1, skipped=True), update(2, late=((2, 1),)), update(3)], plans)
    progress.step = 4
    offered = [numbers_of(plans, step) for step in (0, 3)]
    expected = set.union(*offered, numbers_of(plans, 2, (0,))) - {min(numbers_of(plans, 0))}
    assert used(progress, plans) == expected and progress.used == 50 + 25 + 50


@pytest.mark.parametrize("reshuffle", ["stored", "examples"])
def test_of_many_passes_only_what_none_took_is_unused(job: st.Job, reshuffle: str) -> None:
    plans = plan(dataclasses.replace(job, mode=st.Epochs(reshuffle=reshuffle)))  # type: ignore[arg-type]
    progress, steps = Progress.of(plans.job), plans.order.steps
    missed: list[set[int]] = []
    for passes in range(3):
        first = passes * steps
        skipped = {first + 1, first + 2 + passes} | ({first + 3} if passes < 2 else set())
        updates = [update(step, skipped=step in skipped, late=((step, 0),)) for step in range(first, first + steps)]
        progress.note_use(updates, plans)
        progress.step = first + steps
        missed.append(set.union(*(numbers_of(plans, step) for step in skipped)))
        everything = set(range(plans.order.examples))
        assert used(progress, plans) == everything - set.intersection(*missed), "late parts come again in the pass"


def test_the_training_risk_is_that_of_used_examples_where_minibatches_were_passed_over(tmp_path: Path) -> None:
    """A table that knows an example once it was used: its training loss is 0."""
    examples, calls = 1000, list[int]()
    np.savez(tmp_path / "d.npz", x=np.arange(examples), label=np.random.default_rng(0).integers(0, 2, examples))
    st.pack(str(tmp_path / "d.npz"), str(tmp_path / "d"), st.PackOptions(splits=(0.8, 0.2, 0.0), seed=1))

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(examples, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table[x]

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.extend([0] * output.requires_grad)
        losses = torch.nn.functional.cross_entropy(output, target, reduction="none")
        return losses * (float("nan") if output.requires_grad and len(calls) % 3 == 0 else 1.0)

    data = st.Data(str(tmp_path / "d"), inputs=("x",))
    job = st.Job(data, Table, loss=loss, error="zero_one", mode=st.Online(), batch_size=20)
    job = dataclasses.replace(job, optimizer=st.SGD(lr=1e4), nonfinite="skip")
    result, fleet = run(job, tmp_path)
    assert sum(each.skipped for each in fleet.updates) == len(fleet.updates) // 3
    assert max(each.empirical.loss.mean for each in result.evaluations) < 1e-3
    assert result.examples_used == sum(each.loss.count for each in fleet.updates if not each.skipped)


def evaluation(passes: int, error: float) -> Evaluation:
    risk = Risk(Moments(10, error, 1.0), Moments(10, error, 1.0))
    return Evaluation(29 * passes, 1438 * passes, risk, risk, passes=float(passes))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (st.Epochs(patience=7), (7, 2, 4)),
        (st.Epochs(patience=2), (2, 2, 4)),
        (st.Epochs(patience_examples=5000), (5000, 2876, 5752)),
    ],
)
def test_early_stopping_goes_on_with_the_jobs_patience(
    job: st.Job, mode: st.Epochs, expected: tuple[int, int, int]
) -> None:
    progress = Progress.of(dataclasses.replace(job, mode=st.Epochs(patience=3)))
    for passes, error in enumerate((0.5, 0.3, 0.4, 0.4), 1):
        progress.evaluations.append(evaluation(passes, error))
        progress.stopping = progress.stopping.after(passes, error)
        progress.best = progress.evaluations[1] if passes > 1 else progress.evaluations[0]
    found = Progress.from_json(progress.to_json()).under(dataclasses.replace(job, mode=mode)).stopping
    assert (found.patience, found.best_at, found.at) == expected and found.best_error == 0.3
    assert found.should_stop == (mode.patience == 2)
    back = progress.under(dataclasses.replace(job, mode=mode)).under(
        dataclasses.replace(job, mode=st.Epochs(patience=3))
    )
    assert (back.stopping.patience, back.stopping.best_at, back.stopping.at) == (3, 2, 4)


def test_patience_of_a_run_that_was_never_finite_stays_unused(job: st.Job) -> None:
    progress = Progress.of(job)
    progress.evaluations.append(evaluation(1, math.nan))
    progress.stopping = progress.stopping.after(1, math.nan)
    progress.best = progress.evaluations[0]
    assert progress.under(job).stopping.best_at == 0


def test_a_run_that_goes_on_logs_and_measures_as_the_job_says_now(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=1), checkpoints=st.Checkpoints(seconds=0.0))

    class Stopped(Keeper):
        def keep(
            self,
            fleet: Saves,
            progress: Progress,
            best: Mapping[str, torch.Tensor],
            measured: Mapping[str, torch.Tensor] = NOTHING,
        ) -> None:
            if progress.step:
                self.ask_to_stop("in the middle")
            super().keep(fleet, progress, best, measured)

    keeper = Stopped(job, {})
    with pytest.raises(Interrupted):
        run(job, tmp_path, keeper=keeper)
    at = keeper.step
    changed = dataclasses.replace(
        job, tracking=st.Tracking(log_every=3), evaluate=st.Evaluate(max_fraction_of_time=0.5)
    )
    later = Keeper(changed, {}, last=keeper._last)
    measures = later.begin()[0].measures
    assert (measures.minibatch.every, measures.diagnostics.trajectory.every) == (3, 3)
    assert (measures.evaluating.most, measures.probing.most) == (0.5, 0.5)
    notebook = Notebook()
    run(changed, tmp_path, notebook, later)
    steps = [step for step, _ in notebook.named("minibatch/loss")]
    assert 0 < at < 29 and steps == [*range(at + (2 - at) % 3, 29, 3), *([28] if 28 % 3 != 2 else [])]
