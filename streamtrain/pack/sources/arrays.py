"""NPZ and NPY arrays: the first axis is the example, every array a field."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.pack.sources.source import Source


def from_arrays(path: Path, label: str | None) -> Source:
    """One ``.npz``, one ``.npy`` (field ``x``), or a folder of ``.npy`` files, a field each.

    Raises:
        SourceError: unreadable, pickled, of unequal lengths or without examples.
    """
    arrays = _load(path)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not lengths or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no array"
        raise SourceError(
            complaint(str(path), expected="arrays of one length above 0", found=found, do="mend the arrays")
        )
    count = min(lengths.values())

    def examples() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(count):
            yield f"{path}, example {number}", {name: array[number] for name, array in arrays.items()}

    return Source(str(path), examples, count, label or ("label" if "label" in arrays else None), columns=arrays)


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(
            complaint(str(path), expected="arrays without pickled objects", found=one_line(error), do="save them anew")
        ) from None
    alien = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if alien is not None:
        raise SourceError(complaint(f"{path}, {alien!r}", expected="an array", found="other bytes", do="remove it"))
    return arrays
