"""`st.compare`: two finished runs at equal numbers of updates, as a table, a figure and a run in MLflow."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, complaint
from streamtrain.measure.comparison import Difference, Point, differences
from streamtrain.run.folder import RESULT, RunFolder
from streamtrain.run.outcome.result import Result
from streamtrain.values import Reading

CLEARLY = 2.0


@dataclass(frozen=True)
class Comparison:
    """Held-out risks of two runs at equal numbers of updates.

    Attributes:
        names: of the runs.
        differences: first minus second, by quantity: ``soft_error`` where both have it, ``error``, ``loss``, ….
        notes: what a reader must know, in a line each.
    """

    names: tuple[str, str]
    differences: dict[str, list[Difference]]
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        rows = {
            name: [
                {"step": d.step, "first": _figures(d.first), "second": _figures(d.second)}
                | {"difference": d.value, "standard_error": d.standard_error}
                for d in found
            ]
            for name, found in self.differences.items()
        }
        return {"runs": self.names, "differences": rows, "notes": self.notes, "says": self.says}

    @property
    def says(self) -> str:
        """The last common point in words."""
        name, found = next(iter(self.differences.items()))
        last, what = found[-1], name.replace("_", " ")
        amount = f"{last.value:+.4f} ± {last.standard_error:.4f} after {last.step:,} updates"
        if abs(last.value) <= CLEARLY * last.standard_error:
            return f"held-out {what}: no clear difference ({amount})"
        better = self.names[1] if last.value > 0 else self.names[0]
        return f"held-out {what}: {better} is better ({self.names[0]} − {self.names[1]}: {amount})"

    @property
    def table(self) -> str:
        """The first quantity at each common point, in Markdown."""
        name, found = next(iter(self.differences.items()))
        head = f"| updates | {self.names[0]} | {self.names[1]} | difference of the {name.replace('_', ' ')} |"
        rows = [
            f"| {d.step:,} | {_shown(d.first)} | {_shown(d.second)} | {d.value:+.4f} ± {d.standard_error:.4f} |"
            for d in found
        ]
        return "\n".join([head, "| --- | --- | --- | --- |", *rows, "", self.says, *self.notes])


def compare(first: Result | str | Path, second: Result | str | Path, *, uri: str | None = None) -> Comparison:
    """Compares two finished runs after equal numbers of updates.

    Args:
        first, second: results, runs' folders, or MLflow's run ids.
        uri: where MLflow's run ids are looked up.

    Raises:
        ConfigError: no such run, or the two were never measured at common numbers of updates.
    """
    a, b = (_summary(run, uri) for run in (first, second))
    names = _names(a, b)
    curves = [_curves(run) for run in (a, b)]
    common = [name for name in ("soft_error", "error", "loss") if all(name in c for c in curves)]
    common += sorted(name for name in curves[0] if name in curves[1] and name not in common)
    found = {name: differences(curves[0][name], curves[1][name]) for name in common}
    if not found["loss"]:
        ranges = " and ".join(f"{c['loss'][0].step:,} to {c['loss'][-1].step:,}" for c in curves)
        do = "measure more often (mode.evaluate_every) or train longer"
        expected = "measurements at common numbers of updates"
        raise ConfigError(complaint(" and ".join(names), expected=expected, found=ranges, do=do))
    sizes = [run["evaluations"][-1]["examples_used"] / run["steps"] for run in (a, b)]
    notes = (
        () if abs(sizes[0] / sizes[1] - 1) < 0.02 else (f"their minibatches differ: {sizes[0]:.0f}, {sizes[1]:.0f}",)
    )
    return Comparison(names, found, notes)


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
                [
                    Reading(f"comparison/{name}{suffix}", d.standard_error if suffix else d.value, d.step, now)
                    for d in found
                ]
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


def _names(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, str]:
    """The modes, where they differ, else the folders."""
    if a["mode"] != b["mode"]:
        return a["mode"], b["mode"]
    return Path(a["folder"]).name, Path(b["folder"]).name


def _curves(run: dict[str, Any]) -> dict[str, list[Point]]:
    """Held-out risks by quantity."""
    curves: dict[str, list[Point]] = {}
    for evaluation in run["evaluations"]:
        risk, parts = evaluation["generalization_risk"], evaluation.get("generalization_risk_parts")
        for name in risk:
            if f"{name}_standard_error" in risk:
                error = risk[f"{name}_standard_error"]
                point = Point(evaluation["step"], risk[name], float("nan") if error is None else error)
                if parts is not None:
                    part = tuple(parts["means"][name])
                    point = dataclasses.replace(point, examples=tuple(parts["examples"]), parts=part)
                curves.setdefault(name, []).append(point)
    return curves


def _figures(point: Point) -> dict[str, float]:
    return {"mean": point.mean, "standard_error": point.standard_error}


def _shown(point: Point) -> str:
    return f"{point.mean:.4f} ± {point.standard_error:.4f}"
