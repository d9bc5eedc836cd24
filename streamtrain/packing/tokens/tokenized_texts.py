"""A source of texts as one of their tokens: what the shuffle of the texts takes in.

The next texts are tokenized while those before are written. A task's texts in memory, their tokens and what the library
keeps of them take about 100 bytes for each byte of `BATCH_TEXT`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, SourceError, complaint, one_line
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources import text_field
from streamtrain.packing.sources.source import Batch, Source
from streamtrain.packing.sources.tables.layout import field_name
from streamtrain.packing.tokens.tokenizer_file import TokenizerFile, read_tokenizer
from streamtrain.shards.codec import FieldEncoder, Ragged, Raw
from streamtrain.shards.manifest import Manifest

TOKENS, STARTS, PLACE = "tokens", "starts", "place"
OF_NAMES = "surrogateescape"
"""How bytes of files' names that are no UTF-8 are kept in texts, as Python gives them."""
BATCH_TEXT = 1 << 20
"""Characters of the texts that are tokenized at once."""
MOST_TEXTS = 4096
"""Texts that are tokenized at once."""
LARGEST = 64
"""A text may have the memory's bytes over this, and at least `BATCH_TEXT`: it is tokenized whole."""


@dataclass(frozen=True)
class Texts:
    """Texts that are to become rows of tokens.

    Attributes:
        source: of the texts, in their field ``name``.
        tokenizer: of the tokens.
    """

    source: Source
    name: str
    tokenizer: TokenizerFile


def texts_to_tokenize(source: Source, options: PackOptions, before: Manifest | None) -> Texts | None:
    """The source's texts and their tokenizer; ``None`` where no tokens are asked for.

    Raises:
        ConfigError: the tokenizer, or not the one and the rows of the data set ``before``. SourceError: no texts.
    """
    if options.tokens is None or options.tokenizer is None:
        return None
    tokenizer = read_tokenizer(options.tokenizer)
    if before is not None:
        _check_same(before, options.tokens, tokenizer)
    name = _field_of(source, text_field(options))
    files = (*source.files, tokenizer.file)  # another tokenizer begins anew
    return Texts(dataclasses.replace(source, files=files), name, tokenizer)


def _check_same(before: Manifest, tokens: int, tokenizer: TokenizerFile) -> None:
    field = before.field_named(TOKENS)
    there = "no tokens" if field is None else f"rows of {field.shape and field.shape[0]}, {field.unit}"
    here = f"rows of {tokens}, {tokenizer.unit}"
    if there != here:
        do = "give --tokens and --tokenizer as they were, or pack all of it again"
        raise ConfigError(complaint("tokens", expected=f"what is in the data set ({there})", found=here, do=do))


def _field_of(source: Source, name: str) -> str:
    """The field of that name; a table's has its column's in lower case.

    Raises:
        SourceError: the first example has none.
    """
    for _, values in itertools.islice(source.examples(0), 1):
        name = name if name in values else field_name(name)
        _value_of(source, values, name)
    return name


def _value_of(source: Source, values: Any, name: str) -> Any:
    if name not in values:
        expected, found = f"a field {name!r} of texts", ", ".join(sorted(values))
        raise SourceError(complaint(source.name, expected=expected, found=found, do="name it by --columns"))
    return values[name]


def tokenized(texts: Texts, options: PackOptions) -> Source:
    """The source of the tokens: fields ``tokens``, the ids' bytes, and ``place``, where the text stands."""
    most = max(
        BATCH_TEXT, options.memory_bytes // LARGEST
    )  # whatever the tasks: what is refused must not follow from them
    batches = partial(_batches, texts, most, alone=(options.tasks or 1) == 1)
    return dataclasses.replace(texts.source, batches=batches, label=None, classes={}, notes={}, splits=())


def token_encoders() -> dict[str, FieldEncoder]:
    """Encoders of the source of tokens."""
    encoders = {name: FieldEncoder(name) for name in (PLACE, TOKENS)}
    for name, encoder in encoders.items():
        encoder.encode(Raw(f"{name}.bin", b""), "")
    return encoders


def _batches(texts: Texts, most: int, start: int, stop: int | None, *, alone: bool) -> Iterator[Batch]:
    """Some texts' tokens at a time; those after them are tokenized meanwhile."""
    with ThreadPoolExecutor(1, "tokenizing") as thread:
        waiting: deque[tuple[_Group, Future[list[NDArray[Any] | SourceError]]]] = deque()
        for group in _groups(texts, most, start, stop):
            waiting.append((group, thread.submit(texts.tokenizer.ids, group.texts, alone=alone)))
            if len(waiting) > 1:
                yield _batch(*waiting.popleft())
        while waiting:
            yield _batch(*waiting.popleft())


@dataclass
class _Group:
    """Consecutive texts; the empty text stands for those that cannot be read, whose errors are by their number."""

    places: list[str]
    texts: list[str]
    errors: dict[int, SourceError]
    characters: int = 0

    def place(self, number: int) -> str:
        """Where one of them stands."""
        return self.places[number]


def _groups(texts: Texts, most: int, start: int, stop: int | None) -> Iterator[_Group]:
    group = _Group([], [], {})
    for place, value in _values(texts, start, stop):
        text = _text(value, place, most)
        if isinstance(text, SourceError):
            group.errors[len(group.texts)] = text
            text = ""
        group.places.append(place)
        group.texts.append(text)
        group.characters += len(text)
        if group.characters >= BATCH_TEXT or len(group.texts) >= MOST_TEXTS:
            yield group
            group = _Group([], [], {})
    if group.texts:
        yield group


def _values(texts: Texts, start: int, stop: int | None) -> Iterator[tuple[str, Any]]:
    """Place and value of each text."""
    source = texts.source
    if source.batches is None:
        for place, values in itertools.islice(source.examples(start), None if stop is None else stop - start):
            yield place, _value_of(source, values, texts.name)
        return
    for batch in source.batches(start, stop):
        column = _value_of(source, batch.values, texts.name)
        for number in range(len(batch)):
            yield batch.place(number), column[number]


def _text(value: Any, place: str, most: int) -> str | SourceError:
    """A value as text; the error where it is none, or too long."""
    if isinstance(value, Raw) and value.extension.rpartition(".")[2] == "txt":
        try:
            value = value.data.decode()
        except UnicodeDecodeError as error:
            do = "repair or remove it"
            return SourceError(complaint(place, expected="a text in UTF-8", found=one_line(error), do=do))
    if isinstance(value, SourceError):
        return value
    if not isinstance(value, str):
        do = "convert it, or name another column by --columns"
        return SourceError(complaint(place, expected="a text", found=type(value).__name__, do=do))
    if len(value) > most:
        found, do = f"{len(value):,}", "part it, or raise --memory-bytes"
        return SourceError(complaint(place, expected=f"a text of at most {most:,} characters", found=found, do=do))
    return value


def _batch(group: _Group, ids: Future[list[NDArray[Any] | SourceError]]) -> Batch:
    found = [group.errors.get(number, each) for number, each in enumerate(ids.result())]
    places = Ragged.of_bytes([place.encode(errors=OF_NAMES) for place in group.places])
    good = [each for each in found if not isinstance(each, SourceError)]
    if len(good) < len(found):
        rows: list[Any] = [_named(each, group.place(n)) for n, each in enumerate(found)]
        return Batch({PLACE: places, TOKENS: rows}, group.place)
    lengths = np.array([each.nbytes for each in good], np.int64)
    return Batch({PLACE: places, TOKENS: Ragged(_bytes_of(good), lengths)}, group.place)


def _bytes_of(parts: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    return np.concatenate(parts).view(np.uint8)


def _named(value: NDArray[Any] | SourceError, place: str) -> bytes | SourceError:
    """The ids' bytes; an error with the place of its text in front."""
    if not isinstance(value, SourceError):
        return value.tobytes()
    said = str(value)
    return value if said.startswith(place) else SourceError(f"{place}, {said}")
