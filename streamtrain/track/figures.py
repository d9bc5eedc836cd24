"""Figures of a run: both risks and the gap, with bands of one standard error; and a page that shows them."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamtrain.job import FRACTION
from streamtrain.values import Moments, Risk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from streamtrain.measure.comparison import Difference, Point

TRAINING, HELD_OUT, GAP, PROGRESSIVE = "#2166ac", "#b2182b", "#4d4d4d", "#1b7837"
Which = Literal["loss", "error"]
MARGINS = {"left": 0.11, "right": 0.985, "top": 0.945, "bottom": 0.085, "hspace": 0.07}
"""Of two axes, one below the other, as shares: to find them takes matplotlib as long as to draw."""
STYLE = (
    "body{font-family:sans-serif;margin:1em}svg{width:49%;min-width:30em;height:auto}"
    "td,th{padding:.15em .8em;text-align:right}tr:nth-child(even){background:#f3f3f3}"
)


def risk_figure(
    along: Sequence[float],
    empirical: Sequence[Risk],
    generalization: Sequence[Risk],
    *,
    which: Which,
    unit: str,
    progressive: Sequence[tuple[float, Risk]] = (),
    unbiased: int | None = None,
    chosen: int | None = None,
    title: str = "",
    error_unit: str = "",
) -> Figure:
    """Risks above, gap below, against ``along``, which counts in ``unit`` ("passes", "examples used").

    Args:
        which: the surrogate loss or the error.
        progressive: where, and each minibatch's before its update: over the window, or the pass, that ends there.
        unbiased: so many of these come first and are unbiased, and are marked; all of them, without a mark, by default.
        chosen: index of the point whose parameters are kept.
        error_unit: on the error's axes; ``%`` for a fraction, which is given in per cent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 6), dpi=100)
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1), gridspec_kw=MARGINS)
    train, held_out = ([getattr(risk, which) for risk in risks] for risks in (empirical, generalization))
    _band(above, along, _means(train), _errors(train), TRAINING, "training examples (empirical risk)")
    _band(above, along, _means(held_out), _errors(held_out), HELD_OUT, "held-out examples (generalization risk)")
    if progressive:
        _progressive(above, progressive, which, unbiased)
    _band(below, along, _means(held_out) - _means(train), np.hypot(_errors(train), _errors(held_out)), GAP, "gap")
    below.axhline(0, color="black", linewidth=0.8)
    if chosen is not None:
        for axes in (above, below):
            axes.axvline(along[chosen], color="black", linewidth=0.8, linestyle=":")
        above.annotate(  # at the bottom, where no curve is yet: losses begin above 0
            "kept", (along[chosen], 0), xycoords=("data", "axes fraction"), xytext=(4, 4), textcoords="offset points"
        )
    above.set_ylabel(axis_title(which, error_unit))
    below.set_ylabel("gap")
    below.set_xlabel(unit)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if which == "error" and error_unit == FRACTION:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    if unit == "passes":
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.set_ylim(bottom=0)
    above.legend(frameon=False)
    above.set_title(f"{title} (bands: ± 1 standard error)", fontsize=11, loc="left")
    return figure


def axis_title(which: Which, error_unit: str) -> str:
    """The quantity, with its unit where the numbers beside it do not have it."""
    if which == "loss":
        return "surrogate loss"
    return "error" if error_unit in ("", FRACTION) else f"error, {error_unit}"


def _progressive(axes: Axes, points: Sequence[tuple[float, Risk]], which: Which, unbiased: int | None) -> None:
    along = [place for place, _ in points]
    before = [getattr(risk, which) for _, risk in points]
    _band(axes, along, _means(before), _errors(before), PROGRESSIVE, "each minibatch before its update (progressive)")
    if unbiased is not None:
        axes.plot(
            along[:unbiased],
            _means(before)[:unbiased],
            linestyle="none",
            color=PROGRESSIVE,
            marker="*",
            markersize=14,
            label="its first pass: no example came twice",
        )


def comparison_figure(found: Sequence[Difference], names: tuple[str, str], quantity: str) -> Figure:
    """A held-out risk of two runs above, their difference below, against the number of updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=100)
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1), gridspec_kw=MARGINS)
    steps = [difference.step for difference in found]
    for which, name, color in (("first", names[0], HELD_OUT), ("second", names[1], PROGRESSIVE)):
        points = [getattr(difference, which) for difference in found]
        _band(above, steps, _means(points), _errors(points), color, name)
    values = np.array([d.value for d in found])
    errors = np.array([d.standard_error for d in found])
    _band(below, steps, values, errors, GAP, "difference")
    below.axhline(0, color="black", linewidth=0.8)
    above.set_ylabel(f"held-out {quantity}")
    below.set_ylabel("difference")
    below.set_xlabel("updates")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False)
    above.set_title(f"{names[0]} against {names[1]} (bands: ± 1 standard error)", fontsize=11, loc="left")
    return figure


def class_figure(
    matrix: np.ndarray[Any, Any], names: Sequence[str], errors: Sequence[Moments | None], title: str
) -> Figure:
    """What each class was taken for, and beside it its error.

    Args:
        matrix: examples of a class (row) that were taken for each (column).
        names: of the classes. errors: theirs; ``None`` of one without examples.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    size = len(names)
    figure = Figure(figsize=(4 + 0.5 * size, 2 + 0.3 * size), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    examples = np.array([1 if error is None else error.count for error in errors])
    left.imshow(np.log1p(99 * matrix / examples[:, None]), aspect="auto", cmap="Blues", vmin=0, vmax=np.log(100))
    for row, column in zip(*np.nonzero(matrix), strict=True):
        dark = matrix[row, column] > examples[row] / 10
        color = "white" if dark else "black"
        left.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=color, fontsize=7)
    short = [name[:24] for name in names]
    left.set_xticks(range(size), short, rotation=90, fontsize=8)
    left.set_yticks(range(size), short, fontsize=8)
    left.set_xlabel("taken for")
    left.set_ylabel("class")
    left.set_title(f"held-out examples, {title}", fontsize=11, loc="left")
    known = [(place, error) for place, error in enumerate(errors) if error is not None]
    right.barh(
        [p for p, _ in known], [e.mean for _, e in known], xerr=[e.standard_error for _, e in known], color=HELD_OUT
    )
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set_xlim(left=0)
    right.set_xlabel("error\n(± 1 standard error)")
    right.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Writes the figure as PNG."""
    figure.savefig(file, format="png")


def risk_page(title: str, figures: Sequence[Figure], head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML that opens without a network: figures side by side above a table of their points."""
    drawn = "\n".join(map(_svg, figures))
    table = "\n".join(map(_row, rows))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{drawn}\n"
        f"<table>{_row(head, 'th')}\n{table}</table></body></html>\n"
    )


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):  # texts as texts, not as the outlines of their letters
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def _row(cells: Sequence[str], kind: str = "td") -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _means(moments: Sequence[Moments | Point]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([m.mean for m in moments])


def _errors(moments: Sequence[Moments | Point]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([m.standard_error for m in moments])


def _band(axes: Axes, along: Sequence[float], mean: Any, error: Any, color: str, label: str) -> None:
    axes.plot(along, mean, color=color, marker="o", markersize=3, label=label)
    axes.fill_between(along, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
