"""Hugging Face data sets: ``hf:NAME`` from its hub or cache, or a folder that ``save_to_disk`` wrote.

All splits are read one after the other, and stay splits. ``NAME#SPLIT,OTHER=test`` takes some, the latter as ``test``.
Needs the extra ``hf``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
from streamtrain.packing.sources.split_names import stops_of
from streamtrain.packing.sources.tables.reading.table_files import nameless
from streamtrain.packing.sources.tables.rows import Rows, Table, checked

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "hf:"
SAVED = ("dataset_dict.json", "state.json")
"""Files by which a saved data set is known."""


def from_hub(name: str) -> Table:
    """The data set's rows.

    Raises:
        SourceError: the extra is missing, or there is no such data set, or it is empty.
    """
    parts = _loaded(name)
    count = sum(len(part) for _, part in parts)
    if not count:
        raise SourceError(complaint(name, expected="rows", found="none", do="check the data set"))
    first = next(part for _, part in parts if len(part))
    schema = checked(first.with_format("arrow")[:1].schema.remove_metadata(), name)
    for split, part in parts:
        if part.features != first.features:
            where, do = f"{name}, split {split!r}", f"take splits of one form, e.g. {name}#{parts[0][0]}"
            expected, found = "the columns of the first split", ", ".join(map(str, part.features))
            raise SourceError(complaint(where, expected=expected, found=found, do=do))
    files = tuple(sorted({Path(entry["filename"]) for _, part in parts for entry in part.cache_files}))
    return Table(
        name=name,
        schema=schema,
        read=partial(_read, name),
        text=False,
        count=count,
        borders=None,
        bytes=sum(part.dataset_size or 0 for _, part in parts) or sum(file.stat().st_size for file in files) or None,
        files=files,
        classes={column: names for column, kind in first.features.items() if (names := _names(kind)) is not None},
        nameless=nameless(schema.names),
        splits=stops_of((split, len(part)) for split, part in parts) if len(parts) > 1 else (),
    )


def _names(kind: Any) -> tuple[str, ...] | None:
    """Names of the classes of a column, or of the entries of its lists."""
    while not hasattr(kind, "names") and hasattr(kind, "feature"):
        kind = kind.feature
    return tuple(kind.names) if hasattr(kind, "names") else None


def is_saved(name: str) -> bool:
    """Whether it is a folder that ``save_to_disk`` wrote, or a split of one."""
    return any((Path(place) / file).exists() for place in (name, split_of(name)[0]) for file in SAVED)


def split_of(name: str) -> tuple[str, str]:
    """Place and splits of ``PLACE#SPLITS``; no splits where none are named."""
    place, _, splits = name.removeprefix(PREFIX).partition("#")
    return place, splits


def _read(name: str, start: int, schema: pa.Schema) -> Iterator[Rows]:
    first = 0
    parts = _loaded(name)
    for split, part in parts:
        place = f"{name.partition('#')[0]}#{split}" if split else name
        yield from _rows(part, place, max(0, start - first), schema)
        first += len(part)


def _rows(part: Any, place: str, start: int, schema: pa.Schema) -> Iterator[Rows]:
    """The rows of one split from a number on."""
    if start >= len(part):
        return
    loaded = part.select_columns(schema.names).with_format("arrow")
    rows = max(1, BATCH_BYTES * len(loaded) // max(1, loaded.data.nbytes))
    while start < len(loaded):
        table = loaded[start : start + rows].combine_chunks()
        for batch in table.select(schema.names).to_batches():
            yield Rows(place, start, batch)
            start += batch.num_rows


def _loaded(name: str) -> list[tuple[str, Any]]:
    """The splits that are taken, under the names that they are to have; one without a name where there are none."""
    try:
        import datasets
    except ImportError:
        do = "pip install 'streamtrain[hf]'"
        raise SourceError(complaint(name, expected="the package datasets", found="none", do=do)) from None
    place, chosen = (name, "") if Path(name).exists() else split_of(name)
    try:
        loaded = datasets.load_dataset(place) if name.startswith(PREFIX) else datasets.load_from_disk(place)
    except Exception as error:
        do = "check the name, the split and the connection"
        raise SourceError(complaint(name, expected="a data set", found=one_line(error), do=do)) from None
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    if not chosen:
        return list(parts.items())
    wanted = [word.partition("=") for word in chosen.split(",")]
    for split, *_ in wanted:
        if split not in parts:
            do = "name some of these after #"
            found = ", ".join(filter(None, parts)) or "one part without a name"
            raise SourceError(complaint(name, expected=f"a split {split!r}", found=found, do=do))
    return [(renamed or split, parts[split]) for split, _, renamed in wanted]
