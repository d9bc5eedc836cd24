"""Cells that a field cannot keep as they are: refused by row and column, or, where nothing is there, as was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.sources.tables.arrow_forms import shown_type
from streamtrain.packing.sources.tables.cells import Leaf
from streamtrain.packing.sources.tables.rows import Table
from streamtrain.packing.sources.tables.survey import Summary


def check_kept(table: Table, leaf: Leaf, summary: Summary) -> None:
    """Raises `SourceError` for what no field keeps."""
    if leaf.form.what == "refused":
        found, do = shown_type(leaf.kind), f"leave it out with --drop {leaf.path[0]}, or convert it"
        where = f"{table.name}, column {leaf.name!r}"
        raise SourceError(complaint(where, expected="a type that has a field's form", found=found, do=do))
    if summary.strange is None:
        return
    place, found = summary.strange
    where = f"{place}, column {leaf.name!r}"
    if summary.names is not None:
        parts = ", ".join(f"{count} in {part}" for part, count in summary.outside.items())
        found = f"{found}, which marks examples without a label ({parts})" if found.startswith("-") else found
        expected, do = f"the number of one of {summary.names} classes", "pack the parts with labels, e.g. NAME#train"
        raise SourceError(complaint(where, expected=expected, found=found, do=do))
    if leaf.form.what == "decimal":
        expected, do = "decimals that float64 tells apart", f"set --types {leaf.name}=text, or --drop {leaf.name}"
    elif leaf.form.what == "objects":
        expected, do = "what JSON can hold", f"leave it out with --drop {leaf.path[0]}, or convert it"
    else:
        kind = leaf.asked or ("float64" if table.text else "number" if leaf.form.what == "array" else str(leaf.kind))
        expected, do = f"a finite number ({kind})", f"correct the row, or set --types {leaf.name}=text"
    raise SourceError(complaint(where, expected=expected, found=found, do=do))


@dataclass
class Missing:
    """What becomes of missing values, column by column.

    Attributes:
        policy: as of `PackOptions`.
        label: the label's column.
        fills: what stands for them.
        drops: columns whose missing values leave their row out.
    """

    table: Table
    policy: Literal["refuse", "nan", "mean", "drop"]
    label: str | None
    fills: dict[Leaf, Any] = field(default_factory=dict)
    drops: list[Leaf] = field(default_factory=list)
    _refused: dict[Leaf, str] = field(default_factory=dict)

    def decide(self, leaf: Leaf, summary: Summary) -> None:
        """What becomes of cells without a value: rows left out, a value that stands for them, or a refusal."""
        if not summary.missing and not summary.gaps:
            return
        policy = self.policy
        what = leaf.form.what
        if leaf.optional:
            self.fills[leaf] = ""
        elif policy == "drop":
            self.drops.append(leaf)
        elif policy == "refuse":
            self._refused[leaf] = "refuse"
        elif leaf.name == self.label:
            self._refused[leaf] = "a label is needed"
        elif what == "text":
            self.fills[leaf] = ""
        elif what in ("number", "boolean", "decimal") and summary.names is None:
            self.fills[leaf] = float("nan")  # and in the end the mean, once the training rows are known
        elif what == "array" and policy == "nan" and not summary.missing and _entries_are_decimals(leaf):
            self.fills[leaf] = float("nan")
        else:
            self._refused[leaf] = f"nothing stands for a missing {what}"

    def check(self, summaries: Mapping[Leaf, Summary]) -> None:
        """Raises `SourceError` where a column has missing values that nothing stands for."""
        if not self._refused:
            return
        leaf, why = next(iter(self._refused.items()))
        summary = summaries[leaf]
        counts = [(leaf.name, summaries[leaf].missing + summaries[leaf].gaps) for leaf in self._refused]
        rows = f"of {summary.rows:,} rows" if summary.rows else ""
        more = "".join(f", {count:,} of {name!r}" for name, count in counts[1:4])
        more += f" and of {len(counts) - 4} more columns" if len(counts) > 4 else ""
        number = leaf.form.what in ("number", "decimal")
        where = f"{summary.first_missing or summary.first_gap}, column {leaf.name!r}"
        kind = "float64" if self.table.text else str(leaf.kind)
        expected = f"a finite number ({kind})" if number else "a value"
        if summary.gaps and not summary.missing:
            expected = "lists without empty places"
        found = f"an empty{' or NaN' if number else ''} cell, {counts[0][1]:,} {rows}{more}"
        found += "" if why == "refuse" else f"; {why}"
        filled = leaf.form.what in ("number", "decimal", "boolean", "text") and leaf.name != self.label
        ways = "nan, mean or drop" if why == "refuse" and filled else "drop"
        do = f"set --missing {ways}, or --drop {leaf.path[0]}"
        raise SourceError(complaint(where, expected=expected, found=found, do=do))


def _entries_are_decimals(leaf: Leaf) -> bool:
    return leaf.form.entries == "decimal" or "float" in str(leaf.kind) or "double" in str(leaf.kind)
