"""Shards of a few kB treated as large ones are: with checksums of their pieces, and fetched in part."""

import contextlib
from collections.abc import Iterator

import pytest

from streamtrain.packing.shuffling import blocks
from streamtrain.shards import shard
from streamtrain.shards import shard_file as writing
from streamtrain.store import remote
from streamtrain.stream.fetch import fetched, wanted

PIECE = 3000
BLOCK_BYTES = 16 * 28 * 28


@contextlib.contextmanager
def small_pieces() -> Iterator[None]:
    """While this lasts, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "PIECE", PIECE)
        for module in (writing, fetched):
            patch.setattr(module, "LARGE", 1)
        patch.setattr(blocks, "MEMBER_BYTES", BLOCK_BYTES)
        patch.setattr(remote, "CHUNK", 5000)
        patch.setattr(wanted, "SAVED", 5000)
        yield
