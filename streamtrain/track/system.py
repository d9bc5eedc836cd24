"""System metrics of this machine, under MLflow's own names, so that its pages show them in their own tab.

A reading of a few counters of the kernel, about 0.3 ms. Of the machine that runs the controller only; no GPUs.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from streamtrain.values import Reading

MEGABYTE = 1e6


class SystemMetrics:
    """Points of the system metrics, at most one every ``seconds``.

    Args:
        folder: whose disk is looked at.
    """

    def __init__(self, seconds: float, folder: Path) -> None:
        self._seconds = seconds
        self._folder = folder
        self._due = 0.0
        psutil.cpu_percent()  # the first call starts the clock
        self._network = psutil.net_io_counters()

    def readings(self, step: int, time: float) -> list[Reading]:
        """The points of now, at global ``step``; none before they are due."""
        if time < self._due:
            return []
        self._due = time + self._seconds
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._folder))
        network = psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / MEGABYTE,
        }
        return [Reading(f"system/{name}", value, step, time) for name, value in values.items()]
