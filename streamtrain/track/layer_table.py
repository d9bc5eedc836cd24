"""Layers of a run, as a table and a figure: norms of each parameter tensor's gradient and update, along the run.

A ResNet-50 has 161 tensors, whose curves would be 322 of some four hundred charts.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.store import write_whole
from streamtrain.values import Reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 32
"""Points of each tensor that are kept; half of them are dropped where there are more."""
QUANTITIES = {"layer_gradient_norm": "gradient norm", "layer_update_ratio": "update ratio"}
LABELS = 40
"""Tensors that the figure names, evenly chosen where there are more."""

Rows = dict[tuple[str, str], dict[int, float]]
"""``(tensor, quantity)`` -> step -> value, tensors in the model's order."""


class LayerTable:
    """Takes points of layers out of all points, and keeps a table of them.

    Args:
        file: the table, CSV; what an earlier process of the run wrote there is gone on with.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows = read_layers(file) if file.is_file() else {}

    def take(self, readings: Sequence[Reading]) -> bool:
        """Takes them in, and says whether any was new; a step that is there already is measured once more."""
        steps = self._steps()
        last = steps[-1] if steps else -1
        apart = min((later - step for step, later in itertools.pairwise(steps)), default=1)
        new = [each for each in readings if is_of_layer(each) and each.step >= last + apart]
        for each in new:
            quantity, _, tensor = each.name.partition("/")
            self._rows.setdefault((tensor, QUANTITIES[quantity]), {})[each.step] = each.value
        if len(steps := self._steps()) > MOST:
            kept = set(steps[::2])
            self._rows = {key: {step: row[step] for step in row if step in kept} for key, row in self._rows.items()}
        return bool(new)

    def write(self) -> None:
        """Writes the table, whole or not at all.

        Raises:
            OSError: it could not.
        """
        text = io.StringIO()
        steps = self._steps()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["tensor", "quantity", *(f"step {step}" for step in steps)])
        for key, row in self._rows.items():
            table.writerow([*key, *(f"{row[step]:.4g}" if step in row else "" for step in steps)])
        write_whole(self._file, text.getvalue().encode())

    def _steps(self) -> list[int]:
        return sorted({step for row in self._rows.values() for step in row})


def is_of_layer(reading: Reading) -> bool:
    """Whether it is a point of one parameter tensor."""
    return reading.name.partition("/")[0] in QUANTITIES


def read_layers(file: Path) -> Rows:
    """A table that `LayerTable` wrote."""
    with file.open(newline="") as opened:
        head, *lines = csv.reader(opened)
    steps = [int(column.removeprefix("step ")) for column in head[2:]]
    return {
        (tensor, quantity): {step: float(cell) for step, cell in zip(steps, cells, strict=True) if cell}
        for tensor, quantity, *cells in lines
    }


def layer_figure(rows: Rows) -> Figure:
    """Both quantities as a map: a row for each tensor, from the input down, a column for each kept point."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = sorted({step for row in rows.values() for step in row})
    tensors = list(dict.fromkeys(tensor for tensor, _ in rows))
    shown = range(0, len(tensors), math.ceil(len(tensors) / LABELS))
    figure = Figure(figsize=(11, 2 + 0.22 * len(shown)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, 2, sharey=True)
    for axes, quantity in zip(plots, QUANTITIES.values(), strict=True):
        found = [[rows.get((tensor, quantity), {}).get(step, math.nan) for step in steps] for tensor in tensors]
        values = np.array(found, float)
        with np.errstate(divide="ignore"):
            drawn = np.where(np.isfinite(values) & (values > 0), np.log10(values), np.nan)
        image = axes.imshow(drawn, aspect="auto", interpolation="nearest", cmap="viridis")
        figure.colorbar(image, ax=axes, label=f"{quantity}, power of ten")
        axes.set_xlabel("step")
        ticks = range(0, len(steps), math.ceil(len(steps) / 6))
        axes.set_xticks(list(ticks), [f"{steps[tick]:,}" for tick in ticks])
        axes.set_title(f"{quantity} of each tensor", fontsize=11, loc="left")
    plots[0].set_yticks(list(shown), [tensors[place][-40:] for place in shown], fontsize=8)
    return figure
