"""Hugging Face data sets: ``hf:NAME`` from its hub or cache, or a folder that ``save_to_disk`` wrote.

All splits are joined, since `pack` makes its own; ``hf:NAME#SPLIT`` or ``FOLDER#SPLIT`` takes one. Needs the extra
``hf``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
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
    count = sum(len(part) for part in parts.values())
    if not count:
        raise SourceError(complaint(name, expected="rows", found="none", do="check the data set"))
    first = next(part for part in parts.values() if len(part))
    table = first.with_format("arrow")[:1]
    classes = {column: tuple(feature.names) for column, feature in first.features.items() if hasattr(feature, "names")}
    files = tuple(sorted({Path(entry["filename"]) for part in parts.values() for entry in part.cache_files}))
    size = sum(part.dataset_size or 0 for part in parts.values())
    return Table(
        name=name,
        schema=checked(table.schema.remove_metadata(), name),
        read=partial(_read, name),
        text=False,
        count=count,
        borders=None,
        bytes=size or sum(file.stat().st_size for file in files) or None,
        files=files,
        classes=classes,
        nameless=nameless(table.schema.names),
    )


def is_saved(name: str) -> bool:
    """Whether it is a folder that ``save_to_disk`` wrote, or a split of one."""
    return any((Path(place) / file).exists() for place in (name, split_of(name)[0]) for file in SAVED)


def split_of(name: str) -> tuple[str, str]:
    """Place and split of ``PLACE#SPLIT``; no split where none is named."""
    place, _, split = name.removeprefix(PREFIX).partition("#")
    return place, split


def _read(name: str, start: int, schema: pa.Schema) -> Iterator[Rows]:
    before = 0
    for split, part in _loaded(name).items():
        first = max(0, start - before)
        before += len(part)
        if first >= len(part):
            continue
        loaded = part.select_columns(schema.names).with_format("arrow")
        rows = max(1, BATCH_BYTES * len(loaded) // max(1, loaded.data.nbytes))
        while first < len(loaded):
            table = loaded[first : first + rows].combine_chunks()
            for batch in table.select(schema.names).to_batches():
                yield Rows(f"{name}#{split}" if split else name, first, batch)
                first += batch.num_rows


def _loaded(name: str) -> dict[str, Any]:
    """The data set's splits by name, or the one that is asked for; one without a name, where it has none."""
    try:
        import datasets
    except ImportError:
        do = "pip install 'streamtrain[hf]'"
        raise SourceError(complaint(name, expected="the package datasets", found="none", do=do)) from None
    place, split = (name, "") if Path(name).exists() else split_of(name)
    try:
        loaded = datasets.load_dataset(place) if name.startswith(PREFIX) else datasets.load_from_disk(place)
        if not isinstance(loaded, datasets.DatasetDict):
            return {"": loaded}
        parts = {split: loaded[split]} if split else dict(loaded)
        datasets.concatenate_datasets([part.select([]) for part in parts.values()])  # raises where they differ
    except Exception as error:
        do = "check the name, the split and the connection"
        raise SourceError(complaint(name, expected="a data set", found=one_line(error), do=do)) from None
    return parts
