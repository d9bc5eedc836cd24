"""Which field each column of a table becomes, told from all its values; see the README of `packing` for the rules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.options import WHOLE, PackOptions
from streamtrain.packing.sources.source import Column
from streamtrain.packing.sources.tables.arrow_forms import plain_type, shown_type
from streamtrain.packing.sources.tables.cells import Leaf
from streamtrain.packing.sources.tables.missing import Missing, check_kept
from streamtrain.packing.sources.tables.rows import Table
from streamtrain.packing.sources.tables.survey import Summary
from streamtrain.packing.sources.tables.vector import Numbers, vector_of
from streamtrain.shards.codec import FieldNotes
from streamtrain.shards.manifest import Manifest

FEATURES = "features"
ROWS_A_CATEGORY = 100
"""How often the texts of a column come, on average, that becomes a category by itself."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*")

NUMPY_OF = {"boolean": "uint8", "decimal": "float64", "time": "int64"}
Make = Literal["number", "class", "text", "bytes", "array", "objects"]


@dataclass(frozen=True)
class Single:
    """A column that is a field of its own.

    Attributes:
        leaf: the column.
        field: the field's name.
        make: what its values are.
        texts: the values that stand for 0, 1, …, of a class column of texts or bytes.
        fill: what stands for a missing value.
    """

    leaf: Leaf
    field: str
    make: Make
    texts: tuple[str | bytes, ...] = ()
    fill: Any = None


@dataclass(frozen=True)
class Layout:
    """Fields of a table.

    Attributes:
        vector: columns side by side in the field ``features``, of the type ``dtype``.
        fills: columns with missing values there, for which NaN stands.
        singles: the other columns.
        masks: fields that tell which values of these columns were missing.
        drops: columns whose missing values leave their row out.
        label: the label's field.
        classes, notes: as of `Source`.
        columns: what became of each column, after the name of the column that it is a part of.
    """

    vector: tuple[Leaf, ...]
    dtype: str
    fills: frozenset[Leaf]
    singles: tuple[Single, ...]
    masks: Mapping[str, tuple[Leaf, ...]]
    drops: tuple[Leaf, ...]
    label: str | None
    classes: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, FieldNotes]
    columns: tuple[tuple[str, Column], ...]


def field_name(name: str) -> str:
    """A column's name as a field's, which becomes an extension in the tars."""
    return re.sub("[^a-z0-9_-]+", "_", name.lower()).strip("_")[:64] or "column"


def lay_out(
    table: Table, summaries: Mapping[Leaf, Summary], options: PackOptions, label: str | None, like: Manifest | None
) -> Layout:
    """The layout of a table.

    Args:
        table: the table.
        summaries: of the columns that are taken.
        options: of `pack`.
        label: name of the label's column.
        like: the data set that the rows are added to, whose fields stand.

    Raises:
        SourceError: values that no field can keep, or missing ones, unless the options say what is to be done.
    """
    return _Planner(table, summaries, options, label, like).layout()


class _Planner:
    """The decisions about one table, column by column."""

    def __init__(
        self,
        table: Table,
        summaries: Mapping[Leaf, Summary],
        options: PackOptions,
        label: str | None,
        like: Manifest | None,
    ) -> None:
        self._table = table
        self._summaries = summaries
        self._options = options
        self._label = label
        self._like = None if like is None else {field.name: field for field in like.fields}
        self._missing = Missing(table, options.missing, label)
        self._names: dict[Leaf, str] = {}

    def layout(self) -> Layout:
        """All of it."""
        kept = []
        for leaf, summary in self._summaries.items():
            check_kept(self._table, leaf, summary)
            if summary.present or leaf.name == self._label:  # what holds nothing has nothing to keep
                kept.append(leaf)
                self._missing.decide(leaf, summary)
        self._missing.check(self._summaries)
        if not kept:
            found, do = "columns without any value", "check the source, or take other columns"
            raise SourceError(complaint(self._table.name, expected="values", found=found, do=do))
        dtype, members = self._vector({leaf: self._numbers(leaf) for leaf in kept if self._may_join(leaf)})
        self._name_fields([leaf for leaf in kept if leaf not in members], has_vector=bool(members))
        singles = tuple(self._single(leaf) for leaf in kept if leaf not in members)
        classes = {single.field: names for single in singles if (names := self._class_names(single)) is not None}
        label = next((single.field for single in singles if single.leaf.name == self._label), None)
        fills = frozenset(self._missing.fills) & frozenset(members)
        notes = {single.field: self._notes(single) for single in singles}
        if members:
            entries = tuple(number for number, leaf in enumerate(members) if leaf in fills)
            means = entries if self._options.missing == "mean" else ()
            notes[FEATURES] = FieldNotes(tuple(leaf.name for leaf in members), missing=bool(fills), means=means)
        masks = self._masks(members, singles, notes)
        reported = tuple(self._columns(members, dtype, singles, classes))
        drops = tuple(self._missing.drops)
        return Layout(members, dtype, fills, singles, masks, drops, label, classes, notes, reported)

    def _numbers(self, leaf: Leaf) -> Numbers:
        summary = self._summaries[leaf]
        dtype = leaf.asked or NUMPY_OF.get(leaf.form.what) or _numpy_name(leaf)
        low, high = summary.low or 0, summary.high or 0
        return Numbers(
            dtype, low, high, leaf in self._missing.fills, self._table.text and leaf.asked is None, summary.single
        )

    def _may_join(self, leaf: Leaf) -> bool:
        """Whether the column may be an entry of the vector."""
        if leaf.name == self._label or leaf.asked in WHOLE or self._summaries[leaf].names is not None:
            return False
        what = leaf.form.what
        joins = what in ("number", "decimal") or (what == "boolean" and leaf in self._missing.fills)
        if self._like is None:
            return joins
        return joins and FEATURES in self._like and leaf.name in (self._like[FEATURES].columns or ())

    def _vector(self, candidates: Mapping[Leaf, Numbers]) -> tuple[str, tuple[Leaf, ...]]:
        """Type and columns of the vector; those of the data set that is added to, where there is one."""
        asked = None if FEATURES in self._table.schema.names else self._options.type_of.get(FEATURES)
        if not candidates:
            return "float32", ()
        dtype, members = vector_of(candidates, asked)
        if self._like is None:
            return dtype, members
        field = self._like[FEATURES]
        holds = np.dtype(str(field.dtype))
        wide = [leaf.name for leaf in candidates if not np.can_cast(vector_of({leaf: candidates[leaf]})[0], holds)]
        if (wide or len(members) < len(candidates)) and asked is None:
            where, found = f"{self._table.name}, column {(wide or ['?'])[0]!r}", f"{dtype} needed"
            expected = f"numbers that {field.dtype} holds exactly, as of the data set"
            do = f"set --types {FEATURES}={field.dtype} to round them, or pack all of it again"
            raise SourceError(complaint(where, expected=expected, found=found, do=do))
        order = {name: number for number, name in enumerate(field.columns or ())}
        return str(field.dtype), tuple(sorted(candidates, key=lambda leaf: order[leaf.name]))

    def _name_fields(self, leaves: Sequence[Leaf], *, has_vector: bool) -> None:
        """A name for each column's own field, made of the column's."""
        taken: set[str] = set()
        for leaf in leaves:
            name = field_name(leaf.field)
            if has_vector and name == FEATURES:
                expected = f"no column {FEATURES!r} beside columns of numbers, which get that name together"
                do = "rename it or drop the others"
                raise SourceError(complaint(self._table.name, expected=expected, found="one", do=do))
            if name in taken:
                name = next(f"{name}_{n}" for n in itertools.count(2) if f"{name}_{n}" not in taken)
            taken.add(name)
            self._names[leaf] = name

    def _single(self, leaf: Leaf) -> Single:
        """The column as a field of its own."""
        summary = self._summaries[leaf]
        field = self._names[leaf]
        what = leaf.form.what
        fill = self._missing.fills.get(leaf)
        if what in ("number", "boolean", "decimal", "time"):
            whole = np.dtype(self._numbers(leaf).dtype).kind != "f"
            if fill is not None and whole:
                where, do = (
                    f"{summary.first_missing}, column {leaf.name!r}",
                    f"set --missing drop, or --drop {leaf.name}",
                )
                expected = "a value, since no decimal holds these whole numbers exactly"
                raise SourceError(complaint(where, expected=expected, found="an empty cell", do=do))
            return Single(leaf, field, "class" if summary.names is not None else "number", fill=fill)
        if what in ("text", "bytes") and self._is_class(leaf):
            found = {*(summary.texts or ()), *(() if fill is None else (fill,))}
            return Single(leaf, field, "class", tuple(sorted(found)), fill)
        if what in ("array", "tensor", "interval"):
            return Single(leaf, field, "objects" if summary.shapeless else "array", fill=fill)
        return Single(leaf, field, "text" if what == "text" else "bytes" if what == "bytes" else "objects", fill=fill)

    def _is_class(self, leaf: Leaf) -> bool:
        """Whether a column of texts or bytes becomes numbers of a vocabulary."""
        summary = self._summaries[leaf]
        asked = self._options.categories
        if leaf.name == self._label:
            return True
        if leaf.form.what != "text":
            return False
        if self._like is not None:
            known = self._like.get(self._names[leaf])
            return known is not None and known.classes is not None
        if leaf.asked is not None or asked is not None:
            return leaf.asked == "category" or leaf.name in (asked or ())
        texts = summary.texts
        if texts is None or len(texts) < 2 or len(texts) * ROWS_A_CATEGORY > summary.present:
            return False
        return not all(DATE.fullmatch(text) for text in texts if isinstance(text, str) and text)

    def _class_names(self, single: Single) -> tuple[str, ...] | None:
        if single.make == "array":  # of classes' numbers, as of several labels
            return self._table.classes.get(single.leaf.path[0])
        if single.make != "class":
            return None
        if not single.texts:
            return self._table.classes[single.leaf.path[0]]
        try:
            return tuple(text if isinstance(text, str) else text.decode() for text in single.texts)
        except UnicodeDecodeError as error:
            where, do = f"{self._table.name}, column {single.leaf.name!r}", "convert it to text or numbers"
            found = one_line(error)
            raise SourceError(complaint(where, expected="labels in UTF-8", found=found, do=do)) from None

    def _masks(
        self, members: tuple[Leaf, ...], singles: Sequence[Single], notes: dict[str, FieldNotes]
    ) -> dict[str, tuple[Leaf, ...]]:
        """Fields that tell what was missing, where they are asked for."""
        if not self._options.mask:
            return {}
        masks: dict[str, tuple[Leaf, ...]] = {}
        taken = set(self._names.values())
        wanted = [(single.field, (single.leaf,)) for single in singles if single.fill is not None]
        entries = members if any(leaf in self._missing.fills for leaf in members) else ()
        for field, leaves in [*wanted, *([(FEATURES, entries)] if entries else [])]:
            name = f"{field}_missing"
            if name in taken:
                expected, do = f"no column {name!r} beside the mask of that name", "rename it, or leave --mask out"
                raise SourceError(complaint(self._table.name, expected=expected, found="one", do=do))
            masks[name] = leaves
        if entries:
            notes[f"{FEATURES}_missing"] = FieldNotes(tuple(leaf.name for leaf in entries))
        return masks

    def _notes(self, single: Single) -> FieldNotes:
        summary = self._summaries[single.leaf]
        wide = isinstance(summary.high, int) and summary.high > np.iinfo(np.int64).max
        known = None if self._like is None else self._like.get(single.field)
        varies = summary.varies or (known is not None and known.dtype is not None and known.shape is None)
        may_be_nan = isinstance(single.fill, float)
        means = (0,) if may_be_nan and single.make == "number" and self._options.missing == "mean" else ()
        varies = varies and single.make == "array"
        return FieldNotes(None, single.leaf.form.unit, may_be_nan, varies, means, wide)

    def _columns(
        self,
        members: Sequence[Leaf],
        dtype: str,
        singles: Sequence[Single],
        classes: Mapping[str, tuple[str, ...]],
    ) -> Iterator[tuple[str, Column]]:
        """What became of every column that was looked at, after the name of the column that it is a part of."""
        own = {single.leaf: single for single in singles}
        for leaf, summary in self._summaries.items():
            kind = "text" if self._table.text and str(leaf.kind) == "string" else shown_type(leaf.kind)
            if leaf in members:
                field = FEATURES
                became = f"{dtype}, entry {list(members).index(leaf)}"
            elif leaf in own:
                field = own[leaf].field
                became = self._became(own[leaf], classes.get(own[leaf].field))
            else:
                column = Column(leaf.name, kind, None, "left out: it holds nothing", missing=summary.missing)
                yield leaf.path[0], column
                continue
            note = self._note(leaf, summary, dtype if leaf in members else None)
            column = Column(leaf.name, kind, field, became, summary.low, summary.high, summary.missing, note)
            yield leaf.path[0], column

    def _became(self, single: Single, names: tuple[str, ...] | None) -> str:
        if names is not None and single.make == "class":
            return f"{len(names):,} {'classes' if single.leaf.name == self._label else 'categories'}"
        if single.make == "array":
            shape = self._summaries[single.leaf].shape
            varies = self._summaries[single.leaf].varies
            return "array of varying shape" if varies else f"array of shape {shape or (3,)}"
        unit = single.leaf.form.unit
        return {"objects": "JSON"}.get(single.make, single.make) + ("" if unit is None else f", {unit}")

    def _note(self, leaf: Leaf, summary: Summary, dtype: str | None) -> str:
        """What was done to a column; ``dtype`` is the vector's, where it is an entry of that."""
        count = summary.missing + summary.gaps
        fill = self._missing.fills.get(leaf)
        notes = []
        if leaf in self._missing.drops:
            notes.append(f"{count:,} missing: their rows were left out")
        elif fill is not None:
            became = "the training rows' mean" if self._options.missing == "mean" else "NaN"
            notes.append(f"{count:,} missing became {'the empty text' if fill == '' else became}")
        if summary.empty:
            notes.append(f"{summary.empty:,} empty")
        if dtype is not None and not np.can_cast(vector_of({leaf: self._numbers(leaf)})[0], dtype):
            notes.append(f"rounded to {dtype}, as asked")
        return "; ".join(notes)


def _numpy_name(leaf: Leaf) -> str:
    """Numpy's name of an Arrow type of numbers."""
    return str(np.dtype(plain_type(leaf.kind).to_pandas_dtype()).name)
