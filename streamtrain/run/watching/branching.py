"""Whether a run's batch size is right, found out the expensive way: branches that go on from one of its checkpoints.

Half, the same and twice the batch each go on over the same examples, again and again over other ones, at the rates that
the batch size's rule gives them. What a branch gains is the held-out loss at the checkpoint minus that at its end. The
noise scale predicts this under a model of the loss; this measures it, for the price of training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.checks import require
from streamtrain.errors import ConfigError, complaint
from streamtrain.job import BatchSize, Job
from streamtrain.measure.diagnostics.batch_efficiency import MOST_COST
from streamtrain.measure.gap import Parts, paired
from streamtrain.order import Order
from streamtrain.plus_minus import student_factor
from streamtrain.prepare.plan import Plan, plan, resized
from streamtrain.run.checkpoints.checkpoint_files import Checkpoint, CheckpointFiles
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.run.checkpoints.resuming import check_settings, fixed_settings
from streamtrain.run.fleet.inline import InlineFleet, alone
from streamtrain.run.folder import RunFolder
from streamtrain.run.watching.measuring.looked_at import slices_of
from streamtrain.values import Lane, Risk, known

MINIBATCHES = 16
"""Of twice the batch, that a branch goes on for where no number of examples is given."""
CLEARLY = 2.0
"""Standard errors."""


@dataclass(frozen=True)
class Branch:
    """What minibatches of one size make of the same examples.

    Attributes:
        batch_size, steps: of the minibatches, and how many they are, over all repeats.
        progress: how much lower the held-out loss is for each example used, mean over the repeats.
        standard_error: of it, from the spread over the repeats and over the held-out examples; NaN if not known.
        cost: the part of the present batch size's progress that this one makes less; 0 for that itself.
        cost_error: of it, with the repeats and the held-out examples paired; NaN if not known.
    """

    batch_size: int
    steps: int
    progress: float
    standard_error: float
    cost: float
    cost_error: float


@dataclass(frozen=True)
class BatchProbe:
    """Branches from one checkpoint, the smallest batch first.

    Attributes:
        step, examples_used: at the checkpoint. batch_size: there.
        examples: that each branch used, over all repeats; repeats: how many.
    """

    step: int
    examples_used: int
    batch_size: int
    examples: int
    repeats: int
    branches: tuple[Branch, ...]

    @property
    def verdict(self) -> str:
        """What is said of twice the batch; only where the numbers bear it."""
        same, twice = (self._branch(times) for times in (1, 2))
        if not same.progress > CLEARLY * same.standard_error:
            return "no progress that is told from its error: give more examples, or an earlier checkpoint"
        if twice.cost + CLEARLY * twice.cost_error < MOST_COST:
            return f"twice the batch costs less than {MOST_COST:.0%} of the progress per example: it may double"
        if twice.cost - CLEARLY * twice.cost_error > MOST_COST:
            return f"twice the batch costs more than {MOST_COST:.0%} of the progress per example: leave it"
        return f"not told from {MOST_COST:.0%}: give more examples or repeats"

    def _branch(self, times: int) -> Branch:
        return next(each for each in self.branches if each.batch_size == times * self.batch_size)

    def summary(self) -> dict[str, Any]:
        """For JSON; errors that are not known are null."""
        whole = dataclasses.asdict(self) | {"verdict": self.verdict}
        errors = ("standard_error", "cost", "cost_error")
        whole["branches"] = [
            {name: known(value) if name in errors else value for name, value in dataclasses.asdict(each).items()}
            for each in self.branches
        ]
        return whole

    @property
    def words(self) -> str:
        """A line for each branch, and what follows."""
        first = (
            f"after {self.step:,} updates and {self.examples_used:,} examples, {self.examples:,} more in "
            f"{self.repeats} branches of each size"
        )
        lines = [
            f"batch {each.batch_size:>6,}: {each.steps:>6,} steps, progress {each.progress:.4g} ± "
            f"{each.standard_error:.2g} per example"
            + ("" if each.batch_size == self.batch_size else f", costs {each.cost:+.1%} ± {each.cost_error:.1%}")
            for each in self.branches
        ]
        return "\n".join([first, *lines, self.verdict])


def probe_batch_size(job: Job, run: Path, *, examples: int | None = None, repeats: int = 4) -> BatchProbe:
    """Branches from a run's last checkpoint, or from the one that is named.

    Args:
        job: of the run.
        run: its folder, or a checkpoint's ``.safetensors`` in it.
        examples: that a branch uses each time, rounded up to minibatches of twice the batch.
        repeats: how often, each time over other examples.

    Raises:
        ConfigError: no such checkpoint, one of another job, or no examples left. DataError: the data set is damaged.
    """
    folder = RunFolder.of(run)
    checkpoint = _checkpoint(job, run, folder)
    job = alone(dataclasses.replace(job, lanes=int(checkpoint.settings["lanes"])))
    plans = plan(job)
    check_settings(checkpoint.settings, fixed_settings(plans), folder.path)
    progress = Progress.from_json(dict(checkpoint.progress))
    plans = dataclasses.replace(plans, left_out=progress.left_out)
    if progress.growth.later:
        plans = resized(plans, progress.growth.later)
    order = plans.order
    do = "probe a run whose data do not grow"
    require(isinstance(order, Order), "probe --batch-size", "a run without mode.follow", "one with it", do)
    size = order.size(checkpoint.step)
    used = order.examples_before(order.position(checkpoint.step))
    stretches = _stretches(plans, used, 2 * size, examples or MINIBATCHES * 2 * size, repeats)
    halves = [size // 2] if size % (2 * order.lanes) == 0 else []
    sizes = [*halves, size, 2 * size]
    tensors = checkpoint.state
    with InlineFleet(plans, (tensors, checkpoint.step)) as fleet:
        before = _held_out(fleet, plans)
    ended: dict[int, list[list[Risk]]] = {each: [] for each in sizes}
    steps = dict.fromkeys(sizes, 0)
    for start, stop in stretches:
        for each in sizes:
            branch = _branched(plans, used, start, each)
            first, last = branch.order.step_reaching(start), branch.order.step_reaching(stop)
            with InlineFleet(branch, (tensors, first)) as fleet:
                fleet.advance(last)
                ended[each].append(_held_out(fleet, branch))
            steps[each] += last - first
    lengths = [stop - start for start, stop in stretches]
    gains = {each: _gains(before, ended[each], lengths) for each in sizes}
    branches = tuple(_branch(each, steps[each], gains[each], gains[size]) for each in sizes)
    return BatchProbe(checkpoint.step, used, size, sum(lengths), len(stretches), branches)


@dataclass(frozen=True)
class Gains:
    """What branches of one size gain for each example used.

    Attributes:
        repeats: each one's.
        parts: on each part of the held-out examples, mean over the repeats.
        weights: of these parts.
    """

    repeats: tuple[float, ...]
    parts: tuple[float, ...]
    weights: tuple[float, ...]

    def minus(self, other: Gains, factor: float) -> Gains:
        """Less ``factor`` times another's, on the same examples."""
        repeats = tuple(mine - factor * its for mine, its in zip(self.repeats, other.repeats, strict=True))
        parts = tuple(mine - factor * its for mine, its in zip(self.parts, other.parts, strict=True))
        return Gains(repeats, parts, self.weights)

    @property
    def mean(self) -> float:
        """Over the repeats."""
        return math.fsum(self.repeats) / len(self.repeats)

    @property
    def standard_error(self) -> float:
        """Of the mean: of training on other examples, and of measuring on others; the first only of two repeats."""
        of_parts = paired(self.weights, [0.0] * len(self.parts), self.parts)
        held_out = math.nan if of_parts is None else of_parts.standard_error
        count = len(self.repeats)
        if count < 2:
            return held_out
        squares = math.fsum((each - self.mean) ** 2 for each in self.repeats)
        return math.hypot(held_out, student_factor(count) * math.sqrt(squares / (count - 1) / count))


def _gains(before: Sequence[Risk], ended: Sequence[Sequence[Risk]], lengths: Sequence[int]) -> Gains:
    start = Parts.of(before)
    ends = [Parts.of(each) for each in ended]
    weights = start.weights_of("loss")
    by_part = [
        [(a - b) / length for a, b in zip(start.means["loss"], end.means["loss"], strict=True)]
        for end, length in zip(ends, lengths, strict=True)
    ]
    whole = sum(weights)
    repeats = [math.fsum(w * d for w, d in zip(weights, row, strict=True)) / whole for row in by_part]
    parts = [math.fsum(column) / len(by_part) for column in zip(*by_part, strict=True)]
    return Gains(tuple(repeats), tuple(parts), weights)


def _branch(size: int, steps: int, gains: Gains, same: Gains) -> Branch:
    """With its cost ``c = 1 − x/x₀`` against the present size, whose error is that of ``x − (1 − c)·x₀`` over x₀."""
    ratio = gains.mean / same.mean if same.mean else math.nan
    error = gains.minus(same, ratio).standard_error / abs(same.mean) if same.mean else math.nan
    return Branch(size, steps, gains.mean, gains.standard_error, 1 - ratio, error)


def _branched(plans: Plan, used: int, start: int, size: int) -> Plan:
    """The plan whose minibatches change no more after ``used`` examples, but have this size from ``start`` on.

    The rate goes with the size by the job's rule; with `st.Torch`, whose rule is not known, it stays.
    """
    job = plans.job
    batch_size = job.batch_size
    if isinstance(batch_size, int):
        of_library = job.optimizer is not None and job.optimizer.together == "model"
        batch_size = BatchSize({0: batch_size}, scale_lr="none" if of_library else None)
    later = [each for each in plans.order.later if each[0] <= used]
    branched = dataclasses.replace(plans, job=dataclasses.replace(job, batch_size=batch_size))
    return resized(branched, [*later, (start, size)])


def _stretches(plans: Plan, used: int, twice: int, examples: int, repeats: int) -> list[tuple[int, int]]:
    """What the branches use each time, as examples used before and after: all sizes can begin and end there.

    A stretch is a number of the largest minibatches, or goes to the end of a pass and so many into another.

    Raises:
        ConfigError: the longest possible run has too few examples left.
    """
    order = plans.order
    last = plans.passes * order.used
    found = []
    start = used
    for _ in range(repeats):
        end_of_pass = (start // order.used + 1) * order.used
        wanted = start + -(-examples // twice) * twice
        if wanted > end_of_pass:
            passes, rest = divmod(wanted - end_of_pass, order.used)
            wanted = end_of_pass + passes * order.used + rest // twice * twice
        if wanted > last:
            break
        found.append((start, wanted))
        start = wanted
    if not found:
        do = "name an earlier checkpoint, give fewer --examples, or raise mode.max_passes"
        expected = f"{-(-examples // twice) * twice:,} examples left to go on with"
        raise ConfigError(complaint("probe --batch-size", expected=expected, found=f"{last - used:,}", do=do))
    return found


def _held_out(fleet: InlineFleet, plans: Plan) -> list[Risk]:
    """On all of the validation split, slice by slice."""
    examples = plans.manifest.splits["validation"].examples
    return fleet.evaluate("validation", slices_of(plans, "validation", [Lane(0, 0, examples)], examples, 0))


def _checkpoint(job: Job, run: Path, folder: RunFolder) -> Checkpoint:
    """The one that is named by its file, or the last one."""
    warnings: list[str] = []
    is_file = run.suffix == ".safetensors"
    place = str(run.parent) if is_file else RunFolder(folder.path.absolute()).checkpoints(job.checkpoints.folder)
    files = CheckpointFiles(place, 1, warnings.append)
    found = files.at(run.stem) if is_file else files.newest()
    if found is None:
        expected, do = "a checkpoint to go on from", "name a run that has one, or the .safetensors of one"
        raise ConfigError(complaint(str(run), expected=expected, found="; ".join(warnings) or "none", do=do))
    return found
