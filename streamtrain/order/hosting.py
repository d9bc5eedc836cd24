"""Which worker hosts which lanes: contiguous runs, as even as they can be."""

from __future__ import annotations

from streamtrain.order.lanes import lane


def lanes_of_worker(lanes: int, workers: int, worker: int) -> range:
    """The lanes of ``worker`` of ``workers``; empty where there are more workers than lanes."""
    hosted = lane(lanes, workers, worker)
    return range(hosted.start, hosted.stop)


def hosting_of(lanes: int, workers: int) -> tuple[range, ...]:
    """The lanes of every worker; together all, in order."""
    return tuple(lanes_of_worker(lanes, workers, worker) for worker in range(workers))
