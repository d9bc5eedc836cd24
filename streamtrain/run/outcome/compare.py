"""`st.compare`: finished runs at equal numbers of updates, as a table, a figure and a run in MLflow."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, complaint
from streamtrain.measure.comparison import Difference, Point, differences, group_differences
from streamtrain.run.folder import RESULT, RunFolder
from streamtrain.run.outcome.passes_worth import PassesWorth, passes_worth
from streamtrain.run.outcome.result import Result
from streamtrain.run.outcome.wording import WHY_NOT_KNOWN, with_error
from streamtrain.values import Reading, known

Run = Result | str | Path


@dataclass(frozen=True)
class Comparison:
    """Held-out risks of two runs, or of two groups of them, at equal numbers of updates.

    Attributes:
        names: of the runs.
        differences: first minus second; none where there is no common number of updates, but what passes were worth;
            by quantity: ``soft_error`` where both have it, ``error``, ``loss``, ….
        notes: what a reader must know, in a line each.
        runs: how many each is the mean of.
        worth: what more passes were worth, where many passes are compared with one.
    """

    names: tuple[str, str]
    differences: dict[str, list[Difference]]
    notes: tuple[str, ...]
    runs: tuple[int, int] = (1, 1)
    worth: PassesWorth | None = None

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        rows = {
            name: [
                {"step": d.step, "first": _figures(d.first), "second": _figures(d.second)}
                | {"difference": known(d.value), "standard_error": known(d.reach)}
                | ({} if d.runs is None else {"standard_deviations_of_runs": d.runs.deviations})
                for d in found
            ]
            for name, found in self.differences.items()
        }
        worth = None if self.worth is None else self.worth.summary()
        return {"runs": self.names, "differences": rows, "notes": self.notes, "says": self.says, "passes_worth": worth}

    @property
    def says(self) -> str:
        """The last common point in words; what passes were worth where there is none."""
        if not self.differences and self.worth is not None:
            return self.worth.kept.words
        name, found = next(iter(self.differences.items()))
        last = found[-1]
        what = name.replace("_", " ")
        means = zip(self.names, (last.first.mean, last.second.mean), strict=True)
        unknown = " and ".join(run for run, mean in means if not math.isfinite(mean))
        if unknown:
            return f"held-out {what}: no comparison after {last.step:,} updates, {unknown} is not finite"
        amount = f"{_difference(last)} after {last.step:,} updates"
        if math.isnan(last.standard_error):
            return f"held-out {what}: no comparison ({self.names[0]} − {self.names[1]}: {amount}); {WHY_NOT_KNOWN}"
        if not last.is_clear:
            return f"held-out {what}: no clear difference ({amount}); {self._scope}"
        better = self.names[1] if last.value > 0 else self.names[0]
        return f"held-out {what}: {better} is better ({self.names[0]} − {self.names[1]}: {amount}); {self._scope}"

    @property
    def _scope(self) -> str:
        """What the ± speaks of."""
        if self.runs == (1, 1):
            return "the ± is of these two vectors of parameters; other seeds give others: compare groups of runs"
        runs = next(iter(self.differences.values()))[-1].runs
        spread = "" if runs is None else f"; one run is off by {runs.deviations[0]:.2g} and {runs.deviations[1]:.2g}"
        return f"means over {self.runs[0]} and {self.runs[1]} runs, with the spread over them in the ±{spread}"

    @property
    def table(self) -> str:
        """The first quantity at each common point, in Markdown."""
        worth = [] if self.worth is None else ["", self.worth.table]
        if not self.differences:
            return "\n".join([*self.notes, *worth])
        name, found = next(iter(self.differences.items()))
        head = f"| updates | {self.names[0]} | {self.names[1]} | difference of the {name.replace('_', ' ')} |"
        rows = [f"| {d.step:,} | {_shown(d.first)} | {_shown(d.second)} | {_difference(d)} |" for d in found]
        return "\n".join([head, "| --- | --- | --- | --- |", *rows, "", self.says, *self.notes, *worth])


def compare(first: Run | Sequence[Run], second: Run | Sequence[Run], *, uri: str | None = None) -> Comparison:
    """Compares finished runs after equal numbers of updates: two, or two groups, e.g. of the same job with other seeds.

    Of many passes and one pass it also says what the passes were worth; several one-pass runs may then stand beside one
    of many passes, of which the longest is compared.

    Args:
        first, second: results, runs' folders, or MLflow's run ids; or a list of them.
        uri: where MLflow's run ids are looked up.

    Raises:
        ConfigError: no such run, a group of one against several, or runs that were never measured at common numbers of
            updates.
    """
    groups = [[_summary(run, uri) for run in _listed(given)] for given in (first, second)]
    worth = passes_worth(*groups)
    if worth is not None and 1 in map(len, groups):
        groups = [[max(group, key=lambda run: run["steps"])] for group in groups]
    sizes = len(groups[0]), len(groups[1])
    if min(sizes) < 1 or (min(sizes) == 1 and sizes != (1, 1)):
        do = "name at least two runs in each group, or one in each"
        found = f"{sizes[0]} and {sizes[1]}"
        raise ConfigError(complaint("compare", expected="two groups of runs", found=found, do=do))
    names = _names(*groups)
    curves = [[_curves(run) for run in group] for group in groups]
    every = [each for group in curves for each in group]
    common = [name for name in ("soft_error", "error", "loss") if all(name in each for each in every)]
    common += sorted(name for name in every[0] if all(name in each for each in every) and name not in common)
    differing = {name: _differences([[each[name] for each in group] for group in curves]) for name in common}
    known = worth if isinstance(worth, PassesWorth) else None
    if not differing["loss"] and known is None:
        ranges = " and ".join(f"{each['loss'][0].step:,} to {each['loss'][-1].step:,}" for each in every)
        do = "measure more often (mode.evaluate_every) or train longer"
        expected = "measurements at common numbers of updates"
        raise ConfigError(complaint(" and ".join(names), expected=expected, found=ranges, do=do))
    notes = [*_notes(groups), worth.note if isinstance(worth, PassesWorth) else worth]
    return Comparison(names, differing if differing["loss"] else {}, tuple(filter(None, notes)), sizes, known)


def _listed(given: Run | Sequence[Run]) -> list[Run]:
    return [given] if isinstance(given, Result | str | Path) else list(given)


def _differences(groups: list[list[list[Point]]]) -> list[Difference]:
    first, second = groups
    return differences(first[0], second[0]) if len(first) == len(second) == 1 else group_differences(first, second)


def _notes(groups: list[list[dict[str, Any]]]) -> tuple[str, ...]:
    ends = [run["evaluations"][-1] for group in groups for run in group]
    sizes = [end["examples_used"] / end["step"] for end in ends]
    if max(sizes) / min(sizes) < 1.02:
        return ()
    return (f"their minibatches differ: {', '.join(f'{size:.0f}' for size in dict.fromkeys(sizes))}",)


def log_comparison(comparison: Comparison, folder: RunFolder, uri: str, experiment: str) -> str | None:
    """Draws the figures into ``folder``, which exists, and logs all to MLflow; a line about what that has not taken."""
    from streamtrain.track.figures import comparison_figure, save
    from streamtrain.track.mlflow import MlflowTracker
    from streamtrain.track.tracker import RunCard

    tracker = MlflowTracker(uri)
    first, second = comparison.names
    tags = {"comparison.first": first, "comparison.second": second}
    tracker.begin(RunCard(f"{first} against {second}", experiment, {}, tags, ()), folder.path)
    for name, found in comparison.differences.items():
        now = time.time()
        for suffix in ("", "_standard_error"):
            tracker.log(
                [Reading(f"comparison/{name}{suffix}", d.reach if suffix else d.value, d.step, now) for d in found]
            )
        file = folder.comparison_figure(name)
        save(comparison_figure(found, comparison.names, name.replace("_", " ")), file)
        tracker.artifact(file, "figures")
    tracker.describe(comparison.table)
    return tracker.finish("finished", comparison.says)


def _summary(run: Result | str | Path, uri: str | None) -> dict[str, Any]:
    if isinstance(run, Result):
        return run.summary()
    file = RunFolder(Path(run)).result
    if not file.is_file():
        from streamtrain.track.mlflow.fetch import fetch

        found = fetch(str(run), f"result/{RESULT}", uri)
        if found is None:
            do = "name a finished run's folder or its MLflow run id"
            raise ConfigError(complaint(str(run), expected=f"a run with {RESULT}", found="none", do=do))
        return dict(json.loads(found))
    return dict(json.loads(file.read_text()))


def _names(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[str, str]:
    """The modes, where they differ, else the folders."""
    modes = [{run["mode"] for run in group} for group in (first, second)]
    if all(len(mode) == 1 for mode in modes) and modes[0] != modes[1]:
        return modes[0].pop(), modes[1].pop()
    return _name(first), _name(second)


def _name(group: list[dict[str, Any]]) -> str:
    name = Path(group[0]["folder"]).name
    return name if len(group) == 1 else f"{name} and {len(group) - 1} more"


def _curves(run: dict[str, Any]) -> dict[str, list[Point]]:
    """Held-out risks by quantity."""
    curves: dict[str, list[Point]] = {}
    for evaluation in run["evaluations"]:
        risk = evaluation["generalization_risk"]
        parts = evaluation.get("generalization_risk_parts")
        for name in risk:
            if f"{name}_standard_error" in risk:
                mean, error = (
                    math.nan if each is None else each for each in (risk[name], risk[f"{name}_standard_error"])
                )
                point = Point(evaluation["step"], mean, error)
                if parts is not None and name in parts["means"]:  # of a metric of the whole set there are none
                    part = tuple(parts["means"][name])
                    weights = parts.get("weights", {}).get(name, parts["examples"])
                    point = dataclasses.replace(point, examples=tuple(weights), parts=part)
                curves.setdefault(name, []).append(point)
    return curves


def _figures(point: Point) -> dict[str, float | None]:
    return {"mean": known(point.mean), "standard_error": known(point.standard_error)}


def _difference(found: Difference) -> str:
    return with_error(found.value, found.reach, sign=True)


def _shown(point: Point) -> str:
    return with_error(point.mean, point.standard_error)
