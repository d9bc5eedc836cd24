"""Files in a folder for each class: images, sounds or texts, taken over byte by byte.

root/CLASS/…/NAME.jpg             classes; folders inside a class belong to it
root/{train,val,test}/CLASS/…     the same in splits
root/images/CLASS/…               a folder that holds nothing but one folder is looked through
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.images.headers import readable_suffixes
from streamtrain.packing.sources.source import Column, Example, Source
from streamtrain.packing.sources.split_names import split_named, stops_of
from streamtrain.shards.codec import ImageFile, Raw

FIELDS = {"images": "image", "sounds": "audio", "texts": "text"}
SOUNDS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff"})
SHOWN = 5
"""Folders and suffixes that a message names."""


@dataclass(frozen=True)
class Found:
    """A file, the class whose folder it lies in, and the name of its split."""

    file: Path
    named: str
    split: str


def from_class_folders(root: Path, label: str | None) -> Source:
    """Fields ``image``, ``audio`` or ``text``, and ``label``; classes are numbered in the order of their sorted names.

    Raises:
        SourceError: no classes, a class without files, or files of no kind that is known.
    """
    base = _base(root)
    splits = [folder for folder in _folders(base) if split_named(folder.name)]
    in_splits = len(splits) == len(_folders(base)) and len({split_named(folder.name) for folder in splits}) > 1
    _check_classes(base, splits if in_splits else [base])
    found = [each for split in (splits if in_splits else [base]) for each in _in_classes(split, in_splits=in_splits)]
    kinds = Counter(kind for each in found if (kind := kind_of_file(each.file)) is not None)
    if not kinds:
        expected, do = "images, sounds or texts in folders by class", "check the path, or use module:function"
        raise SourceError(complaint(str(base), expected=expected, found=_suffixes(found), do=do))
    kind = kinds.most_common(1)[0][0]
    taken = tuple(each for each in found if kind_of_file(each.file) == kind)
    classes = _classes(base, found, taken, kind)
    numbers = {name: number for number, name in enumerate(classes)}
    left_out = [each.file for each in found if kind_of_file(each.file) != kind]
    left_out += [file for folder in (root, base) for file in _files(folder) if folder == base or base != root]
    return Source(
        str(root),
        partial(_examples, taken, numbers, FIELDS[kind], _member(kind, taken)),
        len(taken),
        label or "label",
        {"label": classes},
        borders=None,
        bytes=sum(each.file.stat().st_size for each in taken),
        files=tuple(each.file for each in taken),
        columns=tuple(_reported(base, taken, set(left_out), kind, len(classes))),
        splits=stops_of((each.split, 1) for each in taken) if in_splits else (),
        column=partial(_column, taken, numbers),
    )


def kind_of_file(file: Path) -> str | None:
    """Images, sounds or texts, by the suffix; ``None`` for others."""
    suffix = file.suffix.lower()
    if suffix in readable_suffixes():
        return "images"
    return "sounds" if suffix in SOUNDS else "texts" if suffix == ".txt" else None


def _base(root: Path) -> Path:
    """The folder of the classes, or of the splits: inside of folders that hold nothing but one folder of folders."""
    inside = _folders(root)
    while len(inside) == 1 and _folders(inside[0]) and not any(map(kind_of_file, _files(inside[0]))):
        root = inside[0]
        inside = _folders(inside[0])
    return root


def _check_classes(base: Path, folders: Sequence[Path]) -> None:
    """Raises `SourceError` where files lie loose in the folders of the classes, or of the splits."""
    without = [folder for folder in folders if not _folders(folder) or any(map(kind_of_file, _files(folder)))]
    if without and (len(folders) > 1 or not _folders(base)):
        loose = [Found(file, "", "") for folder in without for file in _files(folder)]
        names = " and ".join(folder.name for folder in without)
        found = f"files ({_suffixes(loose)})" if loose else "nothing"
        do = "make a folder for each class, or name the labels in a module:function"
        raise SourceError(complaint(str(base), expected=f"folders by class in {names}", found=found, do=do))


def _in_classes(folder: Path, *, in_splits: bool) -> Iterator[Found]:
    """All files below a folder's folders."""
    split = folder.name if in_splits else ""
    for inside in _folders(folder):
        for file in sorted(inside.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if file.is_file() and not hidden:
                yield Found(file, inside.name, split)


def _classes(base: Path, found: Sequence[Found], taken: Sequence[Found], kind: str) -> tuple[str, ...]:
    """Names of the folders with files of the kind; those with others only are left out.

    Raises:
        SourceError: one has no files at all.
    """
    classes = sorted({each.named for each in taken})
    with_others = {each.named for each in found}
    empty = sorted({folder.name for folder in _folders(base) if not taken[0].split} - with_others)
    if empty:
        do = "remove the folder"
        raise SourceError(complaint(str(base / empty[0]), expected=kind, found="none", do=do))
    return tuple(classes)


def _examples(
    taken: Sequence[Found], numbers: Mapping[str, int], field: str, member: str | None, start: int
) -> Iterator[Example]:
    for each in taken[start:]:
        yield str(each.file), {field: _content(each.file, field, member), "label": numbers[each.named]}


def _content(file: Path, field: str, member: str | None) -> Any:
    """A file as its field's value; the error itself where it cannot be read."""
    try:
        data = file.read_bytes()
        if field == "text":
            return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        do = "repair or remove it"
        return SourceError(complaint(str(file), expected="a readable file", found=one_line(error), do=do))
    if field == "image":
        return ImageFile(data)
    return data if member is None else Raw(member, data)


def _member(kind: str, taken: Sequence[Found]) -> str | None:
    """The extension under which files of one suffix are taken over."""
    suffixes = {each.file.suffix.lower() for each in taken}
    return f"{FIELDS[kind]}{suffixes.pop()}" if len(suffixes) == 1 else None


def _column(taken: Sequence[Found], numbers: Mapping[str, int], name: str) -> Iterator[list[int]]:
    """The classes, without a look into the files."""
    if name != "label":
        do = "name one of them"
        raise SourceError(complaint("class folders", expected="a column label", found=repr(name), do=do))
    yield [numbers[each.named] for each in taken]


def _reported(base: Path, taken: Sequence[Found], left_out: set[Path], kind: str, classes: int) -> Iterator[Column]:
    """What became of every kind of file."""
    for suffix, count in sorted(Counter(each.file.suffix.lower() for each in taken).items()):
        yield Column(suffix, f"{count:,} files", FIELDS[kind], "as they are")
    deeper = sum(1 for each in taken if each.file.parent.name != each.named)
    note = f"{deeper:,} files lie in folders inside of a class, and belong to it" if deeper else ""
    yield Column(f"folders of {base.name or base}", "text", "label", f"{classes} classes", note=note)
    for suffix, count in sorted(Counter(file.suffix.lower() or file.name for file in left_out).items()):
        yield Column(suffix, f"{count:,} files", None, f"left out: not {kind}")


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def _suffixes(found: Sequence[Found]) -> str:
    names = sorted({each.file.suffix.lower() or each.file.name for each in found})
    return ", ".join(names[:SHOWN])
