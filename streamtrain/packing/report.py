"""What became of a source: every column and kind of file, the splits, and what was left out, with the reasons.

``about/NNNNNN.report.json`` beside the shards is of segment NNNNNN.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamtrain.errors import ManifestError, complaint, one_line
from streamtrain.images.facts import ImageFacts
from streamtrain.packing.sources.source import Column, Source
from streamtrain.shards.manifest import Field
from streamtrain.shards.origins import FOLDER

SHOWN = 10
"""Examples that were left out, and columns of a vector, that the text names."""
WIDEST = 44
"""Characters of a cell of the text."""


@dataclass(frozen=True)
class Report:
    """See the module.

    Attributes:
        source: as the data set's card calls it.
        columns: of the source, and kinds of files; and fields that no column tells of.
        examples: split -> how many.
        split_by: in words.
        repeated: examples that were left out since an earlier one has the same content.
        bad: examples that could not be taken and were left out; ``shown``: the first of them, with the reasons.
        listed: the file in the data set's folder that names them all, a line of JSON each.
        counted: what else was counted, by name: texts and tokens, where rows of tokens were made of them.
    """

    source: str
    columns: tuple[Column, ...]
    examples: Mapping[str, int]
    split_by: str
    repeated: int = 0
    bad: int = 0
    shown: tuple[tuple[str, str], ...] = ()
    listed: str = ""
    counted: Mapping[str, int] = field(default_factory=dict)


def report_file(segment: int) -> str:
    """Name of a segment's report in the data set's folder."""
    return f"{FOLDER}/{segment:06d}.report.json"


def left_out_file(segment: int) -> str:
    """Name of the list of examples that were left out, in the data set's folder."""
    return f"{FOLDER}/{segment:06d}.left_out.jsonl"


def all_columns(source: Source, fields: Sequence[Field], counts: Mapping[str, int]) -> tuple[Column, ...]:
    """The source's columns, then what is known of fields that none of them tells of, and of images."""
    told = {column.field for column in source.columns}
    examples = sum(counts.values())
    return (*source.columns, *(_of_field(f, examples) for f in fields if f.name not in told or f.images is not None))


def to_json(report: Report) -> bytes:
    """The same report gives the same bytes."""
    return json.dumps(dataclasses.asdict(report), indent=1).encode() + b"\n"


def read_report(data: bytes, where: str) -> Report:
    """What ``to_json`` wrote; nothing of it is trusted.

    Raises:
        ManifestError: it is damaged.
    """
    try:
        return parse_report(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        do = "restore it from a copy"
        raise ManifestError(complaint(where, expected="a report of pack", found=one_line(error), do=do)) from None


def parse_report(entry: Mapping[str, Any]) -> Report:
    """The report out of JSON's types.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    return Report(
        source=str(entry["source"]),
        columns=tuple(_column(column) for column in entry["columns"]),
        examples={str(name): int(count) for name, count in entry["examples"].items()},
        split_by=str(entry["split_by"]),
        repeated=int(entry["repeated"]),
        bad=int(entry["bad"]),
        shown=tuple((str(place), str(reason)) for place, reason in entry["shown"]),
        listed=str(entry.get("listed", "")),
        counted={str(name): int(count) for name, count in entry.get("counted", {}).items()},
    )


def as_text(report: Report) -> str:
    """The report as a table."""
    rows: list[tuple[str, ...]] = [("in the source", "type", "field", "became", "range", "missing", "")]
    rows += [_row(column) for column in report.columns]
    widths = [min(WIDEST, max(len(row[at]) for row in rows)) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    parts = ", ".join(f"{name} {count:,}" for name, count in report.examples.items())
    lines += [f"split: {report.split_by}: {parts}"]
    if report.counted:
        lines += ["counted: " + ", ".join(f"{count:,} {name}" for name, count in report.counted.items())]
    if report.repeated:
        lines += [f"left out: {report.repeated:,} examples that repeat an earlier one"]
    if report.bad:
        lines += [
            f"left out: {report.bad:,} examples that could not be taken, all listed in DEST/{report.listed or FOLDER}:"
        ]
        lines += [f"  {place}: {reason}" for place, reason in report.shown]
        lines += [f"  … and {report.bad - len(report.shown):,} more"] if report.bad > len(report.shown) else []
    return "\n".join(lines)


def _of_field(field: Field, examples: int) -> Column:
    if field.images is not None:
        return _of_images(field.name, field.images)
    shape = "" if not field.shape else f" of shape {'×'.join(map(str, field.shape))}"
    form = f".{field.member}" if field.dtype is None else f"{field.dtype}{shape}"
    if field.classes is not None:
        form = f"{len(field.classes)} classes"
    elif field.dtype is not None and field.shape is None:
        form = f"{field.dtype} of several shapes"
    return Column(field.name, f"{examples:,} examples", field.name, form, field.low, field.high)


def _of_images(name: str, images: ImageFacts) -> Column:
    encodings = ", ".join(f"{count:,} {kind}" for kind, count in images.encodings.items())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in images.kinds.items())
    sizes = dict.fromkeys("×".join(map(str, size)) for size in (images.smallest, images.largest))
    note = "; ".join(f"{count:,} {text}" for text, count in images.notes.items())
    return Column(name, encodings, name, f"{kinds}; {' to '.join(sizes)}", note=note)


def _row(column: Column) -> tuple[str, ...]:
    span = "" if column.low is None else f"{_shown(column.low)} … {_shown(column.high)}"
    missing = f"{column.missing:,}" if column.missing else ""
    return column.name, column.kind, column.field or "–", column.became, span, missing, column.note


def _shown(value: int | float | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _column(entry: Mapping[str, Any]) -> Column:
    low, high = entry["low"], entry["high"]
    if not all(value is None or isinstance(value, int | float) for value in (low, high)):
        raise TypeError(f"a range from {low!r} to {high!r}")
    field = entry["field"]
    return Column(
        name=str(entry["name"]),
        kind=str(entry["kind"]),
        field=None if field is None else str(field),
        became=str(entry["became"]),
        low=low,
        high=high,
        missing=int(entry["missing"]),
        note=str(entry["note"]),
    )
