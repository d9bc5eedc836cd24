"""Where a shard's members lie: from the index beside it, or by a look through the shard."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ShardError, complaint
from streamtrain.shards.index import ShardIndex, foreign_index, index_name, read_index, scan_index
from streamtrain.shards.shard_list import Shard


def index_in_memory(data: NDArray[np.uint8], where: str, samples: int) -> ShardIndex:
    """The index of a shard that is no file, by a scan.

    Raises:
        ShardError: it holds another number of samples.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(data.data)
        file.flush()
        return _of(scan_index(Path(file.name)), where, samples)


def find_index(shard: Shard, path: Path, where: str, size: int, samples: int) -> ShardIndex:
    """The index beside the shard, or one made by a scan.

    Args:
        path: of the mapped file.
        where: the shard, as messages name it.
        size: of the file, in bytes.
        samples: that it is to hold.

    Raises:
        ShardError: it holds another number.
    """
    index = read_index(Path(index_name(str(path))), samples, size, shard.sha256)
    if index is None:
        index = scan_index(path, shard.sha256) if shard.sha256 else foreign_index(path)
    return _of(index, where, samples)


def _of(index: ShardIndex, where: str, samples: int) -> ShardIndex:
    if len(index) != samples:
        expected, found = f"{samples} samples", str(len(index))
        raise ShardError(complaint(where, expected=expected, found=found, do="it was altered: restore it"))
    return index
