"""Hugging Face data sets: ``hf:NAME`` from its hub or cache, or a folder that ``save_to_disk`` wrote.

All splits are joined, since `pack` makes its own; ``hf:NAME#SPLIT`` takes one. Needs the extra ``hf``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import BATCH_BYTES
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
    loaded = _loaded(name)
    if not len(loaded):
        raise SourceError(complaint(name, expected="rows", found="none", do="check the data set"))
    table = loaded.with_format("arrow")[:1]
    classes = {column: tuple(feature.names) for column, feature in loaded.features.items() if hasattr(feature, "names")}
    files = tuple(sorted({Path(entry["filename"]) for entry in loaded.cache_files}))
    return Table(
        name=name,
        schema=checked(table.schema.remove_metadata(), name),
        read=partial(_read, name),
        text=False,
        count=len(loaded),
        borders=None,
        bytes=loaded.dataset_size or sum(file.stat().st_size for file in files) or None,
        files=files,
        classes=classes,
    )


def _read(name: str, start: int, schema: pa.Schema) -> Iterator[Rows]:
    loaded = _loaded(name).select_columns(schema.names).with_format("arrow")
    rows = max(1, BATCH_BYTES * len(loaded) // max(1, loaded.data.nbytes))
    while start < len(loaded):
        table = loaded[start : start + rows].combine_chunks()
        for batch in table.select(schema.names).to_batches():
            yield Rows(name, start, batch)
            start += batch.num_rows


def _loaded(name: str) -> Any:
    """The data set as one table."""
    try:
        import datasets
    except ImportError:
        do = "pip install 'streamtrain[hf]'"
        raise SourceError(complaint(name, expected="the package datasets", found="none", do=do)) from None
    place, _, split = name.removeprefix(PREFIX).partition("#")
    try:
        loaded = datasets.load_dataset(place) if name.startswith(PREFIX) else datasets.load_from_disk(place)
        if isinstance(loaded, datasets.DatasetDict):
            parts = [loaded[split]] if split else list(loaded.values())
            loaded = datasets.concatenate_datasets(parts)
    except Exception as error:
        do = "check the name, the split and the connection"
        raise SourceError(complaint(name, expected="a data set", found=one_line(error), do=do)) from None
    return loaded
