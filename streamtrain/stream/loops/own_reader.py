"""The reader of a data set in whatever process asks: opened anew after a fork, and where it was unpickled.

A reader holds mapped files, threads, locks and connections. None of them goes into a pickle; after a fork the child has
locks that nobody lets go of and threads that are not there, and would release what the parent holds in the cache. What
a reader is made from can be sent anywhere, so a PyTorch `DataLoader` may start its workers by any method.

Costs a process the opening of its shards, their checksums among it; the manifest comes along.
"""

from __future__ import annotations

import copy
import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path

from streamtrain.job import Collate
from streamtrain.shards import Manifest
from streamtrain.stream.examples import Decoding
from streamtrain.stream.opening import files_for_reading, shards_of
from streamtrain.stream.reader import Reader
from streamtrain.stream.whole.mixed import Source, mixed_files


@dataclass(frozen=True)
class ReaderSource:
    """What a reader of one split is made from.

    Attributes:
        url: the data set's. manifest: as it was when the data set was opened.
        fields: those to read.
        verify: check every shard's checksum when it is first opened.
        cache, cache_bytes: where the shards of a URL are kept, and the bound on that.
        sources: a mixture's data sets, whose shares ``url`` then says in words, and ``manifest`` is of all of them.
    """

    url: str
    manifest: Manifest
    split: str
    fields: tuple[str, ...]
    decoding: Decoding
    verify: bool
    cache: Path
    cache_bytes: int
    sources: tuple[Source, ...] = ()

    def reader(self) -> Reader:
        """A new one.

        Raises:
            ConfigError: no such split or field; the cache has no room for two shards.
        """
        if self.sources:
            mixed = mixed_files(self.url, self.sources, verify=self.verify)
            return Reader(mixed, self.manifest, self.split, self.fields, self.decoding)
        fetched = functools.partial(files_for_reading, self.url, self.manifest, self.cache, self.cache_bytes)
        files = shards_of(self.url, fetched, verify=self.verify)
        return Reader(files, self.manifest, self.split, self.fields, self.decoding)


class OwnReader:
    """See the module. Made in one process, and opened there at once, so that what is wrong is told there."""

    def __init__(self, source: ReaderSource) -> None:
        self._source = source
        self._of_process = {os.getpid(): source.reader()}

    def __call__(self) -> Reader:
        """This process's reader."""
        reader = self._of_process.get(os.getpid())
        if reader is None:  # the parent's stays as well: to close it would take it from the parent
            reader = self._of_process[os.getpid()] = self._source.reader()
        return reader

    def collating(self, collate: Collate) -> OwnReader:
        """One whose readers collate so; this process's shares the open shards."""
        other = copy.copy(self)
        other._source = replace(self._source, decoding=replace(self._source.decoding, collate=collate))
        other._of_process = {os.getpid(): self().collating(collate)}
        return other

    def of_field(self, name: str) -> Reader:
        """A new reader of one field as it is stored."""
        decoding = Decoding(on_bad_example=self._source.decoding.on_bad_example)
        return replace(self._source, fields=(name,), decoding=decoding).reader()

    def __reduce__(self) -> tuple[type[OwnReader], tuple[ReaderSource]]:
        return OwnReader, (self._source,)
