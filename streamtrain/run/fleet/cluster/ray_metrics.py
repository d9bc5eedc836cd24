"""A run's numbers for Prometheus, through Ray's metrics API; ``cluster/grafana.json`` draws them.

A point costs about 2 µs, and they come at the borders of stints, about once a second. Ray gives every name the prefix
``ray_``, and makes the numbers of all nodes and runs available at each node's metrics port.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ray.util.metrics import Gauge

from streamtrain.track.tracker import NoTracker
from streamtrain.values import Reading

EXPORTED = {
    "throughput/examples_per_second": "examples used a second, over all workers",
    "throughput/workers": "workers that train",
    "step_time/waiting": "seconds of a step in which a worker waits for examples",
    "step_time/computing": "seconds of a step in forward and backward",
    "step_time/exchanging": "seconds of a step in adding up and waiting for the other workers",
    "step_time/updating": "seconds of a step in clipping and the optimizer",
    "loader/batches_ahead": "batches that a worker's streamer holds ready",
    "loader/waiting_share": "part of the workers' time in which they wait for examples",
    "loader/bytes_per_second": "bytes of examples read a second",
    "loader/fetched_bytes_per_second": "bytes fetched from the store a second",
    "loader/retries": "failed requests to the store that were tried again",
    "loader/skipped": "bad examples that were passed over",
    "recovery/count": "times that the run went on after a loss",
    "recovery/seconds": "seconds that the last one took",
    "minibatch/loss": "mean loss of minibatches before their update",
    "gradient/norm": "norm of the mean gradient",
    "learning_rate": "learning rate",
    "empirical_risk/loss": "mean loss on training examples",
    "generalization_risk/loss": "mean loss on held-out examples",
    "Gap/loss": "held-out minus training loss",
}
"""Curves that are exported, and what they are."""


def metric_name(curve: str) -> str:
    """The metric's name, without Ray's prefix."""
    return "streamtrain_" + curve.replace("/", "_").lower()


class RayMetrics(NoTracker):
    """Exports the last point of every curve in `EXPORTED`, with the run's name as the tag ``run``."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name

    def log(self, readings: Sequence[Reading]) -> None:
        """Sets the gauges of the points that Prometheus is to have."""
        for reading in readings:
            if reading.name in EXPORTED:
                self._gauge(reading.name).set(reading.value)

    @functools.cache  # noqa: B019  # as many as there are runs in a process
    def _gauge(self, curve: str) -> Any:
        gauge = Gauge(metric_name(curve), description=EXPORTED[curve], tag_keys=("run",))
        gauge.set_default_tags({"run": self._run_name})
        return gauge
