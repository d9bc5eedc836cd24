"""The shards of a mixture's data sets, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamtrain.shards import Manifest
from streamtrain.stream.fetch.shard_files import LocalFiles, ShardRows
from streamtrain.values import Loading


class MixedFiles:
    """`ShardFiles` of several data sets; rows are held through those of each part.

    Args:
        parts: folder and manifest of each.
        verify: check a shard's size and checksum when a process first holds it.
    """

    in_parts = False

    def __init__(self, place: str, parts: Sequence[tuple[Path, Manifest]], *, verify: bool = True) -> None:
        self.place = place
        self.parts = [(LocalFiles(folder, verify=verify), manifest) for folder, manifest in parts]
        self.most_held = min(files.most_held for files, _ in self.parts)

    def covering(self, rows: ShardRows) -> ShardRows:
        """The whole shard: it is there."""
        return ShardRows.all_of(rows.shard)

    def hold(self, rows: ShardRows) -> Path:
        """Not here: a shard's number says of which part it is."""
        raise NotImplementedError(rows.shard.file)

    def release(self, rows: ShardRows) -> None:
        """Nothing to let go of."""

    def ahead(self, wanted: Sequence[ShardRows]) -> None:
        """Nothing to fetch: the kernel reads ahead."""

    def health(self) -> Loading:
        """All zero: nothing is fetched."""
        return Loading()

    def close(self) -> None:
        """Nothing under way."""
