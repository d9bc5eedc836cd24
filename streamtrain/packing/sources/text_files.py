"""A folder of text files, whatever folders they lie in: documents that become tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import Column, Example, Source
from streamtrain.packing.sources.split_names import splits_of_files, stops_of

PROSE = (".txt", ".text", ".md", ".rst", ".tex")
PAGES = (".html", ".htm", ".xml", ".css", ".js", ".ts", ".ipynb")
COMPILED = (".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".swift", ".f90", ".hs")
SCRIPTS = (".py", ".pyi", ".rb", ".php", ".pl", ".sh", ".sql", ".r", ".jl", ".lua", ".toml", ".yaml", ".yml")
TEXTS = frozenset([*PROSE, *PAGES, *COMPILED, *SCRIPTS])
"""Suffixes of files that are texts."""
SHOWN = 5
"""Suffixes that a message names."""


def from_text_files(root: Path) -> Source:
    """Every text file below ``root`` as one example with the field ``text``, in the order of their paths.

    Folders and files called train, val, test and the like are splits, where every file is in one. Hidden files and
    folders are left out.

    Raises:
        SourceError: there is none.
    """
    found = [file for file in sorted(root.rglob("*")) if not _is_hidden(file.relative_to(root)) and file.is_file()]
    taken = tuple(file for file in found if file.suffix.lower() in TEXTS)
    if not taken:
        kinds = sorted({file.suffix.lower() or file.name for file in found})[:SHOWN]
        expected, do = f"text files, e.g. {', '.join(PROSE[:SHOWN])}", "check the path, or rename them to .txt"
        raise SourceError(complaint(str(root), expected=expected, found=", ".join(kinds) or "no file", do=do))
    names = splits_of_files([file.relative_to(root).as_posix() for file in taken])
    return Source(
        str(root),
        partial(_examples, taken),
        len(taken),
        borders=None,
        bytes=sum(file.stat().st_size for file in taken),
        files=taken,
        columns=tuple(_reported(found)),
        splits=() if names is None else stops_of((name, 1) for name in names),
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _examples(files: Sequence[Path], start: int) -> Iterator[Example]:
    for file in files[start:]:
        yield str(file), {"text": _content(file)}


def _content(file: Path) -> str | SourceError:
    """The text as it lies in the file; the error itself where it cannot be read."""
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        do = "repair or remove it"
        return SourceError(complaint(str(file), expected="a text in UTF-8", found=one_line(error), do=do))


def _reported(found: Sequence[Path]) -> Iterator[Column]:
    """What became of every kind of file."""
    counts = Counter(file.suffix.lower() or file.name for file in found)
    for suffix, count in sorted(counts.items(), key=lambda each: (each[0] not in TEXTS, each[0])):
        if suffix in TEXTS:
            yield Column(suffix, f"{count:,} files", "text", "as they are")
        else:
            yield Column(suffix, f"{count:,} files", None, "left out: no suffix of a text")
