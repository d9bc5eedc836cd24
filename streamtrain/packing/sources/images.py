"""A folder of images by class: ``root/CLASS/NAME.jpg``. Files are taken over byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from streamtrain.errors import SourceError, complaint
from streamtrain.images.headers import readable_suffixes
from streamtrain.packing.sources.source import Example, Source
from streamtrain.shards.codec import ImageFile


def from_class_folders(root: Path, label: str | None) -> Source:
    """Fields ``image`` and ``label``; classes are numbered in the order of their sorted names.

    Raises:
        SourceError: a class without images, or images of several kinds.
    """
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    files: list[tuple[Path, int]] = []
    for number, name in enumerate(classes):
        found = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in readable_suffixes() and f.is_file())
        if not found:
            expected = "images"
            raise SourceError(complaint(str(root / name), expected=expected, found="none", do="remove the folder"))
        files += [(file, number) for file in found]

    return Source(
        str(root),
        partial(_examples, tuple(files)),
        len(files),
        label or "label",
        {"label": tuple(classes)},
        borders=None,
        bytes=sum(file.stat().st_size for file, _ in files),
        files=tuple(file for file, _ in files),
    )


def _examples(files: Sequence[tuple[Path, int]], start: int) -> Iterator[Example]:
    for file, number in files[start:]:
        yield str(file), {"image": ImageFile(file.read_bytes()), "label": number}
