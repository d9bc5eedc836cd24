"""A first look at all rows of a table: what every column holds, so that its field can be told and nothing is guessed.

It costs one more reading of the source; what is refused is refused here, before anything is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import one_line
from streamtrain.packing.sources.tables.arrow_forms import plain
from streamtrain.packing.sources.tables.cells import Cells, Leaf, exact_decimals, read_cells
from streamtrain.packing.sources.tables.rows import Rows
from streamtrain.shards.codec import Ragged

if TYPE_CHECKING:
    import pyarrow as pa

MOST_TEXTS = 1000
"""Different texts of a column that may become a category by themselves."""


@dataclass
class Summary:
    """What a column holds.

    Attributes:
        rows, missing: cells, and those without a value, NaN among them.
        first_missing: where the first of them is.
        low, high: of numbers and times that are finite.
        strange: where the first cell is that cannot be kept as it is, and what it is.
        single: whether all numbers are float32's too.
        outside: labels that are none of the classes' numbers, by the part of the source.
        texts: different texts and how often each comes; ``None`` where they are too many.
        shape: of the first array; ``varies`` where another has another one, ``shapeless`` where one has none.
        gaps, first_gap: rows with places without a value inside of lists.
        empty: texts without a character.
    """

    all_texts: bool = False
    names: int | None = None
    rows: int = 0
    missing: int = 0
    first_missing: str = ""
    low: int | float | None = None
    high: int | float | None = None
    strange: tuple[str, str] | None = None
    single: bool = True
    outside: Counter[str] = field(default_factory=Counter)
    texts: Counter[str | bytes] | None = field(default_factory=Counter)
    shape: tuple[int, ...] | None = None
    varies: bool = False
    shapeless: bool = False
    gaps: int = 0
    first_gap: str = ""
    empty: int = 0

    @property
    def present(self) -> int:
        """Cells with a value."""
        return self.rows - self.missing

    def add(self, cells: Cells, rows: Rows, what: str) -> None:
        """Takes in the cells of some rows."""
        self.rows += len(cells.missing)
        found = int(np.count_nonzero(cells.missing))
        if found and not self.missing:
            self.first_missing = rows.place(int(np.argmax(cells.missing)))
        self.missing += found
        if cells.gaps is not None and cells.gaps.any():
            self.first_gap = self.first_gap or rows.place(int(np.argmax(cells.gaps > 0)))
            self.gaps += int(np.count_nonzero(cells.gaps))
        there = ~cells.missing
        if what in ("array", "tensor"):
            self._add_arrays(cells, there, rows)
        elif isinstance(cells.values, np.ndarray) and cells.values.ndim == 1:
            self._add_numbers(cells.values, there, rows)
        elif what in ("text", "bytes"):
            self._add_texts(cells.values)
        elif what == "objects":
            self._add_objects(cells, rows)

    def _add_numbers(self, values: NDArray[Any], there: NDArray[np.bool_], rows: Rows) -> None:
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            self._note_strange(values, there & ~finite, rows)
            there = there & finite
        if not there.any():
            return
        known = values if there.all() else values[there]
        low, high = known.min().item(), known.max().item()
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        if self.single and values.dtype == np.float64:
            with np.errstate(over="ignore"):
                self.single = bool((known.astype(np.float32) == known).all())
        if self.names is not None and (low < 0 or high >= self.names):
            outside = there & ((values < 0) | (values >= self.names))
            self._note_strange(values, outside, rows)
            self.outside[rows.part] += int(np.count_nonzero(outside))

    def _add_texts(self, values: pa.Array) -> None:
        import pyarrow.compute as pc

        self.empty += pc.sum(pc.equal(pc.binary_length(values), 0)).as_py() or 0
        if self.texts is None:
            return
        found = values.drop_null().value_counts()
        texts = found.field("values")
        counts = found.field("counts")
        if len(self.texts) + len(texts) > MOST_TEXTS and not self.all_texts:
            known = len({*self.texts, *texts.to_pylist()})
            if known > MOST_TEXTS:
                self.texts = None
                return
        for text, count in zip(texts.to_pylist(), counts.to_pylist(), strict=True):
            self.texts[text] += count

    def _add_arrays(self, cells: Cells, there: NDArray[np.bool_], rows: Rows) -> None:
        if isinstance(cells.values, np.ndarray):
            self._see_shape(cells.values.shape[1:])
            if cells.values.dtype.kind == "f":
                infinite = np.isinf(cells.values).reshape(len(there), -1).any(axis=1)
                self._note_infinite(infinite & there, rows)
            return
        if isinstance(cells.values, Ragged):
            for length in dict.fromkeys(cells.values.lengths[there].tolist()):
                self._see_shape((length,))
            if cells.values.content.dtype.kind == "f":
                self._note_infinite(cells.values.rows_of(np.isinf(cells.values.content)) & there, rows)
            return
        for value in (value for value, known in zip(cells.values, there.tolist(), strict=True) if known):
            if isinstance(value, np.ndarray):
                self._see_shape(value.shape)
            else:
                self.shapeless = True
        self._note_infinite(np.array([_has_infinity(value) for value in cells.values], bool) & there, rows)

    def _note_infinite(self, infinite: NDArray[np.bool_], rows: Rows) -> None:
        if self.strange is None and infinite.any():
            self.strange = rows.place(int(np.argmax(infinite))), "an infinite number"

    def _see_shape(self, shape: tuple[int, ...]) -> None:
        if self.shape is None:
            self.shape = shape
        self.varies = self.varies or self.shape != shape or 0 in shape  # what has no entries has no form to share

    def _add_objects(self, cells: Cells, rows: Rows) -> None:
        for row, value in enumerate(cells.values):
            try:
                json.dumps(value, allow_nan=False).encode()
            except (ValueError, UnicodeEncodeError) as error:
                if self.strange is None:
                    self.strange = rows.place(row), one_line(error)

    def _note_strange(self, values: NDArray[Any], which: NDArray[np.bool_], rows: Rows) -> None:
        if self.strange is None and which.any():
            row = int(np.argmax(which))
            self.strange = rows.place(row), str(values[row])


def survey(
    table_rows: Iterable[Rows], leaves: Sequence[Leaf], label: str | None, classes: Mapping[str, tuple[str, ...]]
) -> dict[Leaf, Summary]:
    """All columns' summaries, after one reading of ``table_rows``."""
    summaries = {
        leaf: Summary(all_texts=leaf.name == label or leaf.asked == "category", names=_count(classes, leaf))
        for leaf in leaves
    }
    for rows in table_rows:
        for leaf, summary in summaries.items():
            summary.add(read_cells(leaf, rows), rows, leaf.form.what)
            if leaf.form.what == "decimal" and summary.strange is None:
                _see_decimals(leaf, rows, summary)
    return summaries


def _see_decimals(leaf: Leaf, rows: Rows, summary: Summary) -> None:
    import pyarrow.compute as pc

    array = plain(rows.batch.column(leaf.path[0]))
    for part in leaf.path[1:]:
        array = plain(pc.struct_field(array, part))
    exact = exact_decimals(array)
    if not exact.all():
        row = int(np.argmin(exact))
        summary.strange = rows.place(row), f"{array[row].as_py()}, of more digits"


def _has_infinity(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and bool(np.isinf(value).any())
    return isinstance(value, list) and any(_has_infinity(item) for item in value)


def _count(classes: Mapping[str, tuple[str, ...]], leaf: Leaf) -> int | None:
    names = classes.get(leaf.path[0]) if len(leaf.path) == 1 else None
    return None if names is None else len(names)
