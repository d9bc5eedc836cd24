"""Tables: numbers side by side as one vector ``features``, every other column a field of its own.

All rows are looked at once before (`survey`), so that types, vocabularies and what is missing are known and not
guessed. Then they are read in batches, so a table may be larger than memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Batch, Column, Example, Source, Values, values_at
from streamtrain.packing.sources.tables.arrow_forms import shown_type
from streamtrain.packing.sources.tables.cells import Cells, Leaf, as_lists, leaves_of, read_cells
from streamtrain.packing.sources.tables.layout import FEATURES, Layout, Single, field_name, lay_out
from streamtrain.packing.sources.tables.rows import Rows, Table
from streamtrain.packing.sources.tables.survey import survey
from streamtrain.shards.codec import Ragged
from streamtrain.shards.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa


def from_table(table: Table, options: PackOptions, like: Manifest | None = None) -> Source:
    """The table's rows as examples; ``like`` is the data set that they are added to.

    Raises:
        SourceError: no such column as an option names; a cell that no field keeps, or an empty one.
    """
    options, label = _resolved(table, options)
    left_out = dict(_left_out(table, options, label))
    leaves = [
        dataclasses.replace(leaf, filled=leaf.name == label)
        for column in table.schema
        if column.name not in left_out
        for leaf in leaves_of(column.name, column.type, options.type_of.get(column.name))
    ]
    if not leaves:
        found, do = "none that is taken", "change --columns or --drop"
        raise SourceError(complaint(table.name, expected="columns", found=found, do=do))
    summaries = survey(table.read(0, _schema(table, leaves)), leaves, label, table.classes)
    layout = lay_out(table, summaries, options, label, like)
    kept = None
    splits = table.splits
    if layout.drops:
        stops = _kept_before(table, layout, [stop for _, stop in table.splits])
        kept = stops[-1]
        splits = tuple((name, stop) for (name, _), stop in zip(table.splits, stops, strict=False))
    return Source(
        table.name,
        partial(_examples, table, layout),
        table.count if kept is None else kept,
        layout.label,
        layout.classes,
        batches=partial(_batches, table, layout),
        borders=table.borders if kept is None else (0,),
        bytes=table.bytes,
        files=table.files,
        notes=layout.notes,
        columns=tuple(_reported(table, layout, left_out)),
        splits=splits,
        column=partial(_column, table, layout),
    )


def _resolved(table: Table, options: PackOptions) -> tuple[PackOptions, str | None]:
    """The options with the columns' names as the table has them, and the label's.

    Raises:
        SourceError: no such column.
    """
    names = table.schema.names

    def named(name: str, option: str) -> str:
        alike = [column for column in names if column == name] or [c for c in names if field_name(c) == name]
        if len(alike) == 1:
            return str(alike[0])
        found = ", ".join(map(str, names))
        raise SourceError(complaint(table.name, expected=f"a column {name!r}", found=found, do=f"set --{option}"))

    usual = next((name for name in names if name == "label"), None) if options.tokens is None else None
    label = options.label or usual
    columns = tuple(named(name, "columns") for name in options.columns)
    types = {
        name if name == FEATURES and name not in names else named(name, "types"): kind
        for name, kind in options.type_of.items()
    }
    return (
        dataclasses.replace(
            options,
            columns=columns,
            drop=tuple(named(name, "drop") for name in options.drop),
            categories=None
            if options.categories is None
            else tuple(named(n, "categories") for n in options.categories),
            types=tuple(f"{name}={kind}" for name, kind in types.items()),
        ),
        None if label is None else named(label, "label"),
    )


def _left_out(table: Table, options: PackOptions, label: str | None) -> Iterator[tuple[str, str]]:
    """Columns that are not looked at, and why."""
    for name in table.schema.names:
        if name == label or name in options.columns:
            continue
        if name == options.split_column:
            yield name, "names each row's split (--split-column)"
        elif name in options.drop:
            yield name, "left out as asked (--drop)"
        elif options.columns:
            yield name, "left out as asked (--columns)"
        elif name in table.nameless:
            yield name, f"left out: {table.nameless[name]}"


def _reported(table: Table, layout: Layout, left_out: Mapping[str, str]) -> Iterator[Column]:
    """What became of all columns, in their order in the table."""
    for column in table.schema:
        if column.name in left_out:
            yield Column(column.name, shown_type(column.type), None, left_out[column.name])
        yield from (found for top, found in layout.columns if top == column.name)
    for marker in table.markers:
        yield Column(marker, "file", None, "left out: a marker without rows")


def _schema(table: Table, leaves: Sequence[Leaf]) -> pa.Schema:
    """The part of the schema that the columns need."""
    import pyarrow as pa

    names = dict.fromkeys(leaf.path[0] for leaf in leaves)
    return pa.schema([table.schema.field(name) for name in names])


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Rows that are taken: their cells, and their places."""

    cells: Mapping[Leaf, Cells]
    rows: Rows
    places: NDArray[np.int64]

    def place(self, number: int) -> str:
        """One of them, for errors."""
        return self.rows.place(int(self.places[number]))


def _chosen(table: Table, layout: Layout, start: int, only: tuple[Leaf, ...] | None = None) -> Iterator[_Chosen]:
    """The rows from example ``start`` on, some at a time, without those that are left out; ``only`` these columns."""
    leaves = (*layout.vector, *(single.leaf for single in layout.singles))
    if only is not None:
        leaves = tuple(dict.fromkeys((*layout.drops, *only)))
    schema = _schema(table, leaves)
    skip = start if layout.drops else 0
    for rows in table.read(0 if layout.drops else start, schema):
        cells = {leaf: read_cells(leaf, rows) for leaf in leaves}
        places = np.arange(rows.batch.num_rows)
        if layout.drops:
            places = np.flatnonzero(_whole(layout, cells, len(places)))
            taken = places[skip:]
            skip -= len(places) - len(taken)
            places = taken
        if len(places):
            yield _Chosen(cells, rows, places)


def _whole(layout: Layout, cells: Mapping[Leaf, Cells], count: int) -> NDArray[np.bool_]:
    """Which rows have all values whose absence leaves a row out."""
    whole = np.ones(count, bool)
    for leaf in layout.drops:
        gaps = cells[leaf].gaps
        whole &= ~cells[leaf].missing if gaps is None else ~cells[leaf].missing & (gaps == 0)
    return whole


def _kept_before(table: Table, layout: Layout, stops: Sequence[int]) -> list[int]:
    """How many of the rows before each of these, and of all, are taken."""
    parts = [
        _whole(layout, {leaf: read_cells(leaf, rows) for leaf in layout.drops}, rows.batch.num_rows)
        for rows in table.read(0, _schema(table, layout.drops))
    ]
    taken = np.cumsum(np.concatenate(parts), dtype=np.int64)
    return [int(taken[stop - 1]) if stop else 0 for stop in (*stops, len(taken))]


def _column(table: Table, layout: Layout, name: str) -> Iterator[NDArray[Any] | list[Any]]:
    """The values of one column, also of one that becomes no field.

    Raises:
        SourceError: no such column, or a row without a value in it.
    """
    known = [*layout.vector, *(single.leaf for single in layout.singles)]
    raw = (leaf for column in table.schema if column.name == name for leaf in leaves_of(name, column.type, None))
    leaf = next((leaf for leaf in known if leaf.name == name), None) or next(raw, None)
    if leaf is None:
        found, do = ", ".join(table.schema.names), "name one of them"
        raise SourceError(complaint(table.name, expected=f"a column {name!r}", found=found, do=do))
    for chosen in _chosen(table, layout, 0, only=(leaf,)):
        cells = chosen.cells[leaf]
        empty = np.flatnonzero(cells.missing[chosen.places])
        if len(empty):
            where, do = f"{chosen.place(int(empty[0]))}, column {name!r}", "fill it, or remove the row"
            raise SourceError(complaint(where, expected="a value to split by", found="an empty cell", do=do))
        yield _listed(_taken(chosen, leaf))


def _listed(values: Values) -> NDArray[Any] | list[Any]:
    """With Python's objects where they differ in size."""
    return list(values) if isinstance(values, Ragged) else values


def _taken(chosen: _Chosen, leaf: Leaf, fill: str | None = None) -> Values:
    """A column's values in the rows that are taken; ``fill`` stands for texts that are missing.

    Raises:
        SourceError: a text or bytes are missing that were there before.
    """
    import pyarrow as pa

    values = chosen.cells[leaf].values
    if not isinstance(values, pa.Array):
        return values_at(values, chosen.places)
    values = values.take(pa.array(chosen.places))
    values = values if fill is None else values.fill_null(fill)
    if values.null_count:
        raise _changed(chosen, leaf, int(np.argmax(np.asarray(values.is_null()))), "a value", "an empty cell")
    return Ragged.of_arrow(values)


def _changed(chosen: _Chosen, leaf: Leaf, at: int, expected: str, found: str) -> SourceError:
    where, do = f"{chosen.place(at)}, column {leaf.name!r}", "it changed while it was read: pack again"
    return SourceError(complaint(where, expected=expected, found=found, do=do))


def _columns(table: Table, layout: Layout, start: int) -> Iterator[tuple[dict[str, Values], Callable[[int], str]]]:
    """All fields of the rows from example ``start`` on, some at a time, and where they stand."""
    for chosen in _chosen(table, layout, start):
        values: dict[str, Values] = {}
        if layout.vector:
            values[FEATURES] = _vector(layout, chosen)
        for single in layout.singles:
            values[single.field] = _values(single, layout, chosen)
        for mask, leaves in layout.masks.items():
            missing = np.stack([chosen.cells[leaf].missing[chosen.places] for leaf in leaves], axis=1)
            values[mask] = missing[:, 0] if mask != f"{FEATURES}_missing" else missing
        yield values, chosen.place


def _vector(layout: Layout, chosen: _Chosen) -> NDArray[Any]:
    """The columns of numbers side by side, shape (rows, columns)."""
    vector = np.empty((len(chosen.places), len(layout.vector)), layout.dtype)
    for entry, leaf in enumerate(layout.vector):
        cells = chosen.cells[leaf]
        values = np.asarray(cells.values)
        with np.errstate(over="ignore"):  # where a narrower type was asked for, the encoder refuses what is infinite
            vector[:, entry] = values[chosen.places]
        if leaf in layout.fills:
            vector[cells.missing[chosen.places], entry] = np.nan
    return vector


def _values(single: Single, layout: Layout, chosen: _Chosen) -> Values:
    """One column's values as its field holds them."""
    if single.make == "class" and single.texts:
        return _codes(single, chosen)
    values = _taken(chosen, single.leaf, single.fill if isinstance(single.fill, str) else None)
    if single.make == "objects":
        return [as_lists(value) for value in values] if single.leaf.form.what == "array" else list(values)
    if isinstance(values, np.ndarray):
        if single.fill is not None and values.ndim == 1:
            values = np.where(chosen.cells[single.leaf].missing[chosen.places], single.fill, values)
        return _varied(values) if layout.notes[single.field].varies else values
    if single.make != "array" or layout.notes[single.field].varies:
        return values
    return np.stack(list(values))


def _varied(values: NDArray[Any]) -> Values:
    """Arrays that happen to be of one shape, where others are not."""
    if values.ndim != 2:
        return list(values)
    return Ragged(values.reshape(-1), np.full(len(values), values.shape[1], np.int64), "array")


def _codes(single: Single, chosen: _Chosen) -> NDArray[np.int64]:
    """The numbers of a column's texts in its vocabulary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells: Any = chosen.cells[single.leaf].values
    values = cells.take(pa.array(chosen.places))
    if single.fill is not None:
        values = values.fill_null(single.fill)
    codes = pc.index_in(values, value_set=pa.array(single.texts, values.type))
    if codes.null_count:
        at = int(np.argmax(np.asarray(codes.is_null())))
        raise _changed(chosen, single.leaf, at, "one of the texts found before", repr(values[at].as_py()))
    return np.asarray(codes.to_numpy(), np.int64)


def _examples(table: Table, layout: Layout, start: int) -> Iterator[Example]:
    for values, place in _columns(table, layout, start):
        for row in range(len(next(iter(values.values())))):
            yield place(row), {name: column[row] for name, column in values.items()}


def _batches(table: Table, layout: Layout, start: int, stop: int | None) -> Iterator[Batch]:
    for values, place in _columns(table, layout, start):
        taken = None if stop is None else stop - start
        yield Batch({name: _first(column, taken) for name, column in values.items()}, place)
        start += len(next(iter(values.values())))
        if stop is not None and start >= stop:
            return


def _first(values: Values, count: int | None) -> Values:
    """At most so many of a column's values."""
    if count is None or count >= len(values):
        return values
    return values.part(0, count) if isinstance(values, Ragged) else values[:count]
