"""The figures of a run as one HTML page, to hover over and zoom into; it opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamtrain.job import FRACTION
from streamtrain.store import write_whole
from streamtrain.track.figures import GAP, HELD_OUT, PROGRESSIVE, TRAINING, Which, axis_title
from streamtrain.values import Moments, Risk


def risk_page(
    along: Sequence[float],
    empirical: Sequence[Risk],
    generalization: Sequence[Risk],
    *,
    unit: str,
    progressive: Sequence[tuple[float, Risk]] = (),
    unbiased: int | None = None,
    title: str = "",
    error_unit: str = "",
) -> Any:
    """A plotly figure: risks above and gaps below, loss on the left and error on the right; see `risk_figure`.

    Args:
        error_unit: on the error's axes; ``%`` for a fraction, which is given in per cent.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(2, 2, shared_xaxes=True, row_heights=[2, 1], vertical_spacing=0.05)
    whiches: tuple[Which, ...] = ("loss", "error")
    for column, which in enumerate(whiches, 1):
        train, held_out = ([getattr(risk, which) for risk in risks] for risks in (empirical, generalization))
        curves = [
            ("training (empirical risk)", train, TRAINING),
            ("held out (generalization risk)", held_out, HELD_OUT),
        ]
        for name, moments, color in curves:
            figure.add_trace(_curve(name, along, *_of(moments), color, legend=column == 1), row=1, col=column)
        if progressive:
            places = [place for place, _ in progressive]
            before = [getattr(risk, which) for _, risk in progressive]
            name = "progressive" if unbiased is None else f"progressive (pass {unbiased}: new examples)"
            curve = _curve(name, places, *_of(before), PROGRESSIVE, legend=column == 1)
            if unbiased is not None:
                curve.marker = {"symbol": ["star" if n < unbiased else "circle" for n in range(len(places))], "size": 9}
            figure.add_trace(curve, row=1, col=column)
        (train_mean, train_error), (mean, error) = _of(train), _of(held_out)
        gap = _curve("gap", along, mean - train_mean, np.hypot(error, train_error), GAP, legend=column == 1)
        figure.add_trace(gap, row=2, col=column)
        figure.update_yaxes(title_text=axis_title(which, error_unit), row=1, col=column)
        if which == "error" and error_unit == FRACTION:
            figure.update_yaxes(tickformat=".1%", hoverformat=".2%", col=column)
        figure.update_xaxes(title_text=unit, row=2, col=column)
    figure.update_layout(title=f"{title} (bars: ± 1 standard error)", template="plotly_white", legend_orientation="h")
    return figure


def save_page(figure: Any, file: Path) -> None:
    """Writes a plotly figure with all that it needs, about 5 MB."""
    write_whole(file, figure.to_html(include_plotlyjs=True, full_html=True).encode())


def _curve(name: str, along: Sequence[float], mean: Any, error: Any, color: str, *, legend: bool) -> Any:
    from plotly.graph_objects import Scatter

    bars = {"type": "data", "array": np.nan_to_num(error), "thickness": 1}
    line = {"color": color}
    return Scatter(
        x=list(along),
        y=mean,
        error_y=bars,
        name=name,
        line=line,
        mode="lines+markers",
        showlegend=legend,
        hoverlabel={"namelength": -1},
    )


def _of(moments: Sequence[Moments]) -> tuple[Any, Any]:
    return np.array([m.mean for m in moments]), np.array([m.standard_error for m in moments])
