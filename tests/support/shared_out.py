"""What workers read of a run's minibatches, each by the stream of the lanes that it hosts."""

from __future__ import annotations

from streamtrain.order import Order, Passes, lanes_of_worker, select_lanes


def read_by_workers(order: Order, passes: Passes, workers: int, first: int, last: int) -> list[list[int]]:
    """The stored numbers of every step from ``first`` to ``last``, worker after worker."""
    hosted = [lanes_of_worker(order.lanes, workers, worker) for worker in range(workers)]
    streams = [select_lanes(order, passes, lanes, first, last) for lanes in hosted]
    steps = []
    for step in range(first, last):
        numbers: list[int] = []
        for lanes, stream in zip(hosted, streams, strict=True):
            for part in order.minibatch(order.position(step)).parts[lanes.start : lanes.stop]:
                numbers += next(stream).each().tolist() if part.examples else []
        steps.append(numbers)
    return steps
