"""What the passes of finished runs were worth in data of one pass, out of their summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.measure.comparison import Point, Reuse, reuse, reuse_of_runs
from streamtrain.measure.comparison.power_law import LEAST_POINTS
from streamtrain.run.outcome.wording import of_pass

Summary = Mapping[str, Any]
ON_THE_WAY = (
    "what passes were worth takes measurements on the way of one pass for shorter runs: right with a constant learning "
    f"rate; with a schedule give {LEAST_POINTS} one-pass runs of different lengths"
)
NO_PARTS = "what passes were worth is not told: it takes runs measured on as many held-out examples"


@dataclasses.dataclass(frozen=True)
class PassesWorth:
    """After each pass that was measured; ``kept`` is the one whose parameters were kept. ``note``: on what it rests."""

    each: tuple[Reuse, ...]
    kept: Reuse
    note: str | None

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        each = [dataclasses.asdict(one) for one in self.each]
        return {"each": each, "kept": dataclasses.asdict(self.kept), "says": self.kept.words}

    @property
    def table(self) -> str:
        """In Markdown, the sentence first."""
        rows = [f"| {of_pass(one.passes)} | {one.times:.2f} ± {one.standard_error:.2f} |" for one in self.each]
        return "\n".join([self.kept.words, "", "| passes | times the data in one pass |", "| --- | --- |", *rows])


def passes_worth(first: Sequence[Summary], second: Sequence[Summary]) -> PassesWorth | str | None:
    """Of runs of many passes in one group against one-pass runs in the other, whichever is which.

    Returns:
        ``None`` where the groups are not of these kinds; a note where it cannot be told.
    """
    groups = {frozenset(run["mode"] for run in group): group for group in (first, second)}
    many = groups.get(frozenset({"epochs"}))
    one = groups.get(frozenset({"online"}))
    if many is None or one is None or max(run["passes"] for run in many) < 2:
        return None
    points, on_the_way = _of_one_pass(one)
    steps = [evaluation["step"] for evaluation in many[0]["evaluations"]]
    found = {step: each for step in steps if (each := _after(step, many, points)) is not None}
    if not found or many[0]["chosen_step"] not in found:
        return NO_PARTS
    return PassesWorth(tuple(found.values()), found[many[0]["chosen_step"]], ON_THE_WAY if on_the_way else None)


def _of_one_pass(runs: Sequence[Summary]) -> tuple[list[Point], bool]:
    """Risk by examples: at the ends of runs of enough lengths, else also on their way."""
    ends = [_point(run["evaluations"][-1], run["evaluations"][-1]["examples_used"]) for run in runs]
    if len({point.step for point in ends}) >= LEAST_POINTS:
        return ends, False
    return [_point(each, each["examples_used"]) for run in runs for each in run["evaluations"]], True


def _after(step: int, runs: Sequence[Summary], points: Sequence[Point]) -> Reuse | None:
    """The mean over the runs of many passes that were measured there."""
    found = []
    for run in runs:
        for each in run["evaluations"]:
            if each["step"] == step:
                examples = round(each["examples_used"] / each["passes"])
                found.append(reuse(each["passes"], examples, _point(each, step), points))
    known = [each for each in found if each is not None]
    return reuse_of_runs(known) if known and len(known) == len(found) else None


def _point(evaluation: Summary, place: int) -> Point:
    risk = evaluation["generalization_risk"]
    parts = evaluation.get("generalization_risk_parts")
    error = risk["loss_standard_error"]
    sizes, means = ((), ())
    if parts is not None:
        sizes = tuple(parts.get("weights", {}).get("loss", parts["examples"]))
        means = tuple(parts["means"]["loss"])
    return Point(place, risk["loss"], float("nan") if error is None else error, sizes, means)
