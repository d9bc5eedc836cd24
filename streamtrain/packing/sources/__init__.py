"""Raw data on its way into `pack`: every kind of source gives dicts of values in a fixed order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from streamtrain.errors import ConfigError, SourceError, complaint
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Source
from streamtrain.shards.manifest import Manifest

KINDS = (
    "a folder of images, sounds or texts by class, .csv, .parquet, .arrow, .npz, .npy, .tar, hf:NAME or module:function"
)
TEXT = "text"
"""Column of the texts that become tokens, where no other is named."""


def open_source(source: str, options: PackOptions | None = None, like: Manifest | None = None) -> Source:
    """The source of that name, its kind told by its suffix or its content.

    Args:
        source: a path, a brace pattern of tars, or ``module:function``.
        options: how it is read: which columns, of which types; the field of class labels, where it does not say.
        like: the data set that the examples are added to.

    Raises:
        SourceError: missing, empty, unreadable, or of no kind that is known.
    """
    from streamtrain.packing.sources import arrays, function, tars
    from streamtrain.packing.sources.tables import table
    from streamtrain.packing.sources.tables.reading import hub, table_files

    path = Path(source)
    options = _of_texts(options or PackOptions())
    label = options.label
    suffix = path.suffix.lower()
    if not path.exists():
        if source.startswith(hub.PREFIX) or hub.is_saved(source):
            return table.from_table(hub.from_hub(source), options, like)
        if "{" in source or "*" in source:
            return tars.from_pattern(source, label)
        module, colon, name = source.partition(":")
        if colon and name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
            return function.from_function(module, name, label)
        raise SourceError(complaint(source, expected=KINDS, found="no such file or folder", do="check the path"))
    if path.is_dir():
        return _folder(path, options, like)
    if path.stat().st_size == 0:
        raise SourceError(complaint(source, expected="data", found="an empty file", do="check the path"))
    if suffix in (".npz", ".npy"):
        return arrays.from_arrays(path, label)
    if suffix in table_files.SUFFIXES:
        return table.from_table(table_files.from_files([path], tuple(options.type_of)), options, like)
    if suffix == ".tar":
        return tars.from_tars([path], source, label)
    raise SourceError(complaint(source, expected=KINDS, found=f"a file ending in {suffix!r}", do="convert it"))


def _folder(path: Path, options: PackOptions, like: Manifest | None) -> Source:
    from streamtrain.packing.sources import arrays, class_folders, tars, text_files
    from streamtrain.packing.sources.tables import table
    from streamtrain.packing.sources.tables.reading import hub, table_files

    label = options.label
    if hub.is_saved(str(path)):
        return table.from_table(hub.from_hub(str(path)), options, like)
    found = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    if not found:
        raise SourceError(complaint(str(path), expected=KINDS, found="an empty folder", do="check the path"))
    suffixes = {file.suffix.lower() for file in found if file.is_file()}
    if ".tar" in suffixes and suffixes <= {".tar", *tars.BESIDE}:
        return tars.from_folder(found, str(path), label)
    tables, markers = table_files.found_tables(path)
    if tables:
        found_table = table_files.from_files(tables, tuple(options.type_of), path, markers)
        return table.from_table(found_table, options, like)
    if options.tokens is not None:
        return text_files.from_text_files(path)
    if suffixes == {".npy"}:
        return arrays.from_arrays(path, label)
    if any(file.is_dir() for file in found):
        return class_folders.from_class_folders(path, label)
    there = f"a folder of {', '.join(sorted(suffixes))}"
    raise SourceError(complaint(str(path), expected=KINDS, found=there, do="sort it out or use module:function"))


def _of_texts(options: PackOptions) -> PackOptions:
    """The options with which a table gives its column of texts alone, as texts, where texts become tokens.

    Raises:
        ConfigError: an option that is of no use then.
    """
    if options.tokens is None:
        return options
    no_use = [name for name in ("label", "types", "categories", "mask", "image_size") if getattr(options, name)]
    if no_use:
        expected, found = "texts that become tokens, and nothing else", " and ".join(no_use)
        raise ConfigError(complaint("tokens", expected=expected, found=found, do="leave it out"))
    name = text_field(options)
    return dataclasses.replace(options, columns=(name,), drop=(), types=(f"{name}=text",), categories=())


def text_field(options: PackOptions) -> str:
    """The column or field of the texts that become tokens."""
    return options.columns[0] if options.columns else TEXT
