"""Packing watched from outside: the naive twin, parts in any order, and what lies in a folder."""

import random
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from streamtrain.packing import PackOptions
from streamtrain.shards import stored_order
from streamtrain.shards.shard import BLOCK, END, header


def files(folder: Path) -> dict[str, bytes]:
    """Every file by its name in the folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


class AnyOrder:
    """Does the parts of a phase in this process, in an order by chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def tasks(self, source_bytes: int | None) -> int:
        return 1

    def __call__(
        self,
        function: Callable[[Any, Callable[[int], None]], None],
        parts: Sequence[Any],
        tasks: int,
        done: Callable[[int], None],
    ) -> None:
        for part in self._random.sample(parts, len(parts)):
            function(part, done)


def naive_tars(samples: Sequence[dict[str, bytes]], counts: dict[str, int], options: PackOptions) -> dict[str, bytes]:
    """The tars of a new data set, from its examples' members in the source's order: all in memory, one by one."""
    order = stored_order(options.seed, len(samples)).tolist()
    digits = len(str(len(samples) - 1))
    tars: dict[str, bytes] = {}
    done = 0
    for split, count in counts.items():
        shards: list[list[bytes]] = [[]]
        for position in range(done, done + count):
            sample = _sample(f"{position:0{digits}d}", samples[order[position]])
            size = sum(map(len, shards[-1])) + len(sample) + len(END)
            most = options.shard_examples
            if shards[-1] and (size > options.shard_bytes if most is None else len(shards[-1]) >= most):
                shards.append([])
            shards[-1].append(sample)
        tars |= {f"{split}/{number:06d}.tar": b"".join([*shard, END]) for number, shard in enumerate(shards)}
        done += count
    return tars


def _sample(key: str, members: dict[str, bytes]) -> bytes:
    return b"".join(
        header(f"{key}.{name}".encode(), len(data)) + data + bytes(-len(data) % BLOCK)
        for name, data in sorted(members.items())
    )


def npy(array: np.ndarray) -> bytes:
    """An ``.npy`` of format 1.0."""
    stream = BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), (1, 0), allow_pickle=False)
    return stream.getvalue()
