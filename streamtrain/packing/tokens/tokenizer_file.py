"""The tokenizer of a data set: a file of the library `tokenizers`, and the ids that it gives for texts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, SourceError, complaint, one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_BYTES = 1 << 28
"""Of a tokenizer's file: some twenty times the largest in use."""
SHORT, LONG = "uint16", "int32"
"""Types of ids: the short one where it holds the whole vocabulary. PyTorch computes with both, once they are cast."""
PARALLELISM = "TOKENIZERS_PARALLELISM"
"""What the library asks before every batch: whether it may use all cores."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer that was read and tried; it travels to other processes, which read it again.

    Attributes:
        file: of JSON; nothing of it is executed.
        digest: SHA-256 of the file.
        vocabulary: one more than the largest id.
    """

    file: Path
    digest: str
    vocabulary: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids."""
        return np.dtype(SHORT if self.vocabulary <= 1 << 16 else LONG)

    @property
    def unit(self) -> str:
        """What the ids are, in the manifest: two data sets of one unit have the same tokens."""
        return f"ids below {self.vocabulary}, of the tokenizer with SHA-256 {self.digest}"

    def ids(self, texts: Sequence[str], *, alone: bool) -> list[NDArray[Any] | SourceError]:
        """The ids of each text, with the special tokens that the tokenizer adds; an error where it does not take it.

        Args:
            texts: of any length; none is cut, and none is filled up.
            alone: whether the library may use all cores; the ids are the same.
        """
        tokenizer = _loaded(self.file, self.digest)
        with _parallel(alone):
            try:
                encodings = tokenizer.encode_batch_fast(list(texts))
            except Exception:  # the library raises no narrower one; some of the texts may be good
                return [self._ids_of_one(tokenizer, text) for text in texts]
        return [self._checked(encoding.ids) for encoding in encodings]

    def _ids_of_one(self, tokenizer: Tokenizer, text: str) -> NDArray[Any] | SourceError:
        try:
            return self._checked(tokenizer.encode(text).ids)
        except Exception as error:
            return self._refused("a text that the tokenizer takes", one_line(error))

    def _checked(self, ids: list[int]) -> NDArray[Any] | SourceError:
        found: array[int] = array("q")
        found.fromlist(ids)  # twice as fast as numpy's own
        whole = np.frombuffer(found, np.int64)
        if whole.size and int(whole.max()) >= self.vocabulary:
            return self._refused(f"ids below {self.vocabulary}, the vocabulary's", str(int(whole.max())))
        return whole.astype(self.dtype.newbyteorder("<"))

    def _refused(self, expected: str, found: str) -> SourceError:
        return SourceError(complaint(str(self.file), expected=expected, found=found, do="repair the tokenizer"))


def read_tokenizer(name: str) -> TokenizerFile:
    """The tokenizer in a file.

    Raises:
        ConfigError: the library or the file is missing, the file is no tokenizer, or its ids are too large.
    """
    file = Path(name)
    expected, do = "a tokenizer.json of the library tokenizers", "give its file, e.g. what tokenizer.save() wrote"
    try:
        if file.stat().st_size > MOST_BYTES:
            found = f"{file.stat().st_size:,} bytes"
            raise ConfigError(complaint(name, expected=expected, found=found, do=do))
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(complaint(name, expected=expected, found=error.strerror or str(error), do=do)) from None
    try:
        tokenizer = _parsed(data)
    except ImportError:
        expected, do = "the library tokenizers", "pip install 'streamtrain[text]'"
        raise ConfigError(complaint("tokenizer", expected=expected, found="none", do=do)) from None
    except Exception as error:
        raise ConfigError(complaint(name, expected=expected, found=one_line(error)[:200], do=do)) from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < 1 << 31:
        found = "an empty vocabulary" if largest < 0 else f"the id {largest}"
        expected = "a vocabulary with ids below 2,147,483,648"
        raise ConfigError(complaint(name, expected=expected, found=found, do="train or repair it"))
    return TokenizerFile(file, hashlib.sha256(data).hexdigest(), largest + 1)


@functools.lru_cache(maxsize=1)
def _loaded(file: Path, digest: str) -> Tokenizer:
    """The tokenizer, once for each process.

    Raises:
        SourceError: the file is another one by now.
    """
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        found, do = "another one", "pack again"
        raise SourceError(complaint(str(file), expected="the tokenizer of the beginning", found=found, do=do))
    return _parsed(data)


def _parsed(data: bytes) -> Tokenizer:
    """Out of JSON. What it says of cutting and filling up is for models' inputs, and would lose or invent tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextlib.contextmanager
def _parallel(allowed: bool) -> Iterator[None]:
    """Whether the library uses all cores meanwhile; a user's own word stands."""
    if PARALLELISM in os.environ:
        yield
        return
    os.environ[PARALLELISM] = "true" if allowed else "false"
    try:
        yield
    finally:
        del os.environ[PARALLELISM]
