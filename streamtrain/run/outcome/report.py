"""Results for people: a table of risks, gaps and standard errors, and the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.measure.diagnostics.noise_scale import CLEARLY, Noise
from streamtrain.measure.verdict import largest_gap
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.wording import (
    gap_with_error,
    has_error,
    in_two_sentences,
    in_unit,
    mean_with_error,
    why_not_known,
)
from streamtrain.store import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from streamtrain.run.outcome.result import Evaluation, Result
    from streamtrain.track.figures import Which
    from streamtrain.values import Risk

WHICHES: tuple[Which, ...] = ("loss", "error")
MUCH = 0.25
"""Part of the time from which on it is said what lowers it; a short run's measurements take more than the tenth that
they are made for, since each has its own few milliseconds."""
HARDLY_LESS = 0.9
"""Of the error of one who always says the most frequent class: from here on a classifier's is hardly less."""
MOST_POINTS = 300
"""Measurements on the page of figures."""

ROWS: dict[str, Callable[[Result], str]] = {
    "passes": lambda r: f"{r.passes}",
    "examples used": lambda r: f"{r.examples_used:,}",
    "examples unused": lambda r: f"{r.examples_unused:,}" if r.examples_unused else "",
    "examples/s": lambda r: f"{r.examples_per_second:,.0f}",
    "measuring": lambda r: f"{r.measuring:.2f} of the time",
    "parameters kept": lambda r: f"after {r.chosen.examples_used:,} examples",
    "loss, training": lambda r: mean_with_error(r.chosen.empirical.loss),
    "loss, held out": lambda r: mean_with_error(r.chosen.generalization.loss) + ("" if _has_error(r) else _choice(r)),
    "loss, other sets": lambda r: "" if _has_error(r) else _errors(r.chosen.others, r),
    "loss, gap": lambda r: gap_with_error(r.chosen.gap_of_loss),
    "loss, gaps of parts": lambda r: "; ".join(
        f"{part.name} {gap_with_error(part.gap_of_loss)}" for part in r.chosen.of_parts
    ),
    "loss, test": lambda r: "" if _has_error(r) or r.test is None else mean_with_error(r.test.loss),
    "loss, test of parts": lambda r: "" if _has_error(r) else _errors(r.test_parts, r),
    "loss, gap on test": lambda r: "" if r.gap_on_test is None else gap_with_error(r.gap_on_test),
    "loss, progressive": lambda r: _progressive(r),
    "error, training": lambda r: _error(r, r.chosen.empirical),
    "error, held out": lambda r: _error(r, r.chosen.generalization) + (_choice(r) if _has_error(r) else ""),
    "error, other sets": lambda r: _errors(r.chosen.others, r) if _has_error(r) else "",
    "error, always one class": lambda r: _always(r),
    "error, gap": lambda r: gap_with_error(r.chosen.gap_of_error, r.error_unit) if _has_error(r) else "",
    "error, test": lambda r: _error(r, r.test),
    "error, test of parts": lambda r: _errors(r.test_parts, r) if _has_error(r) else "",
    "verdict": lambda r: _verdict(r),
    "standard errors": lambda r: _standard_errors(r),
    "gradient norm, kept": lambda r: _gradient_norm(r.chosen.noise),
    "of minibatches, at stop": lambda r: "" if _gradient_norm(r.chosen.noise) else f"{r.gradient_norm_at_stop:.3f}",
}


def table(results: Mapping[str, Result]) -> str:
    """One column for each named result, figures as mean ± standard error; why each run ended below."""
    head = ["", *results]
    rows = [[label, *(figure(result) for result in results.values())] for label, figure in ROWS.items()]
    rows = [row for row in rows if any(row[1:])]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    why = [f"{name}: {_ending(result)}" for name, result in results.items()]
    return "\n".join([*lines, "", *why, *dict.fromkeys(filter(None, map(_notes, results.values())))])


def _has_error(result: Result) -> bool:
    return has_error(result.chosen, result.error_unit)


def _error(result: Result, risk: Risk | None) -> str:
    """Of a risk, where there is one, and an error beside its loss."""
    return "" if risk is None or not _has_error(result) else mean_with_error(risk.error, result.error_unit)


def _choice(result: Result) -> str:
    """That the held-out error is the lowest of several, which makes it optimistic."""
    several = result.measurements_chosen_from
    return f", lowest of {several} (optimistic)" if several > 1 and result.chosen_by == "error" else ""


def _errors(risks: Mapping[str, Risk], result: Result) -> str:
    """The error on each of several sets, by their names."""
    return "; ".join(f"{name} {mean_with_error(risk.error, result.error_unit)}" for name, risk in risks.items())


def _always(result: Result) -> str:
    """What one errs who always says the most frequent class, where the model errs hardly less, or more."""
    if result.by_class is None or not len(result.by_class.pairs):
        return ""
    number, error = result.by_class.most_frequent
    own = result.chosen.generalization.error.mean
    if own < HARDLY_LESS * error:
        return ""
    return f"{in_unit(error, result.error_unit)} by {result.by_class.name(number)}: the model is hardly better"


def _gradient_norm(noise: Noise | None) -> str:
    """Of the risk's gradient over the last steps before the kept parameters, without the minibatches' noise."""
    if noise is None or math.isnan(noise.squared_error):
        return ""
    norm, error = noise.gradient_norm
    told = noise.squared_gradient > CLEARLY * noise.squared_error
    return f"{norm:.3f} ± {error:.3f}" if told else f"below {norm + CLEARLY * error:.2g}: not told from 0"


def _progressive(result: Result) -> str:
    """Over the last window of one pass; over the first of many, since examples come again after it."""
    passes = result.progressive_passes
    found = passes[0] if passes else result.chosen.progressive
    if found is None:
        return ""
    known = result.takes_examples_for_independent
    shown = mean_with_error(found.loss) if known else f"{in_unit(found.loss.mean)} (order unknown: no ±)"
    return f"{shown} in pass 1" if passes else shown


def _standard_errors(result: Result) -> str:
    """What a reader must know of them; nothing where examples are independent and come at random."""
    found = [] if result.takes_examples_for_independent else [result.standard_errors]
    if result.by_length is not None:
        found.append(f"too small of progressive means and of the gradient's noise: neighbours by {result.by_length}")
    return "; ".join(found)


def _verdict(result: Result) -> str:
    """Where no gap is seen, with the size that it would have to have."""
    if result.verdict != "no gap seen":
        return result.verdict
    last = result.evaluations[-1]
    below = largest_gap(last.empirical.loss, last.generalization.loss)
    return "no gap seen" if math.isnan(below) else f"no gap seen (below {below:.2g})"


def _notes(result: Result) -> str:
    """What a reader of the figures must know."""
    return why_not_known((result.chosen.empirical, result.chosen.generalization, result.test))


def _ending(result: Result) -> str:
    """Why it ended; and what measuring took, where that is much."""
    took = f"; measuring the risks took {result.measuring:.2f} of the time: evaluate.examples or .until lowers it"
    return result.stop_reason + (took if result.measuring > MUCH else "")


def description(name: str, result: Result) -> str:
    """The run's description: whether it generalizes, why it ended, and the table of one result, in Markdown."""
    rows = "\n".join(f"| {label} | {figure(result)} |" for label, figure in ROWS.items() if figure(result))
    says = in_two_sentences(result)
    text = f"{says}\n\n**{result.mode}**, ended: {_ending(result)}\n\n| | {name} |\n| --- | --- |\n{rows}\n"
    return f"{text}\n{_notes(result)}\n" if _notes(result) else text


def figures(result: Result) -> Iterator[Path]:
    """Draws both risks and the gap, for loss and error, into the run's folder; the files, PNGs and one page."""
    from streamtrain.track.figures import risk_page, save

    folder = RunFolder(result.folder)
    whiches = WHICHES if _has_error(result) else WHICHES[:1]
    for which in whiches:
        save(_figure(result, which, result.evaluations), file := folder.risk_figure(which))
        yield file
    points = _some(result)
    place = "examples used" if result.mode == "online" else "pass"
    head = [place, *(f"{which}, {of}" for which in whiches for of in ("training", "held out", "gap"))]
    drawn = [_figure(result, which, points) for which in whiches]
    page = risk_page(f"Generalization gap, {result.mode}", drawn, head, [_numbers(result, point) for point in points])
    write_whole(folder.risk_page, page.encode())
    yield folder.risk_page


def _some(result: Result) -> Sequence[Evaluation]:
    """Of a run's measurements so many that a page stays small: evenly chosen, with the kept and the last one."""
    found = result.evaluations
    apart = math.ceil(len(found) / MOST_POINTS)
    wanted = {result.chosen.step, found[-1].step}
    return [each for number, each in enumerate(found, 1) if number % apart == 0 or each.step in wanted]


def _numbers(result: Result, point: Evaluation) -> list[str]:
    """A row of the page's table."""
    place = f"{point.examples_used:,}" if result.mode == "online" else f"{point.passes:.4g}"
    loss = [
        place + (" (kept)" if point.step == result.chosen.step else ""),
        mean_with_error(point.empirical.loss),
        mean_with_error(point.generalization.loss),
        gap_with_error(point.gap_of_loss),
    ]
    if not _has_error(result):
        return loss
    return [
        *loss,
        mean_with_error(point.empirical.error, result.error_unit),
        mean_with_error(point.generalization.error, result.error_unit),
        gap_with_error(point.gap_of_error, result.error_unit),
    ]


def _figure(result: Result, which: Which, points: Sequence[Evaluation]) -> Figure:
    """Both risks and their gap at these points."""
    from streamtrain.track.figures import risk_figure

    online = result.mode == "online"
    along = [point.examples_used if online else point.passes for point in points]
    progressive = [(float(number), risk) for number, risk in enumerate(result.progressive_passes, 1)]
    if online:  # a window's mean is of its middle
        placed = zip(along, points, strict=True)
        progressive = [(at - p.progressive.loss.count / 2, p.progressive) for at, p in placed if p.progressive]
    return risk_figure(
        along,
        [point.empirical for point in points],
        [point.generalization for point in points],
        which=which,
        unit="examples used" if online else "passes",
        progressive=progressive,
        unbiased=None if online else 1,
        chosen=[point.step for point in points].index(result.chosen.step),
        title=f"Generalization gap of the {'surrogate loss' if which == 'loss' else 'error'}, {result.mode}",
        error_unit=result.error_unit,
    )
