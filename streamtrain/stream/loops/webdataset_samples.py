"""A split as WebDataset's readers give it: members' bytes by extension, for the front of a pipeline of WebDataset's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from streamtrain.order import lane
from streamtrain.stream.loops.own_reader import OwnReader

SAMPLES_AT_ONCE = 256

if TYPE_CHECKING:
    SampleDataset = IterableDataset[dict[str, Any]]
else:
    SampleDataset = IterableDataset


class Samples(SampleDataset):
    """Dicts as WebDataset's readers give them: ``__key__``, ``__url__`` and the members' bytes by extension.

    An example of a block is a sample of its own, with its row of every array.
    In a `DataLoader` each worker gives an equal run of the stored order.
    """

    def __init__(self, own_reader: OwnReader) -> None:
        super().__init__()
        self._own_reader = own_reader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        reader = self._own_reader()
        part = lane(len(reader), info.num_workers if info else 1, info.id if info else 0)
        for start in range(part.start, part.stop, SAMPLES_AT_ONCE):
            yield from reader.samples(start, min(start + SAMPLES_AT_ONCE, part.stop))
