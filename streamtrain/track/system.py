"""System metrics of every host, under MLflow's own names, so that its pages show them in their own tab.

A reading of a few counters of the kernel, about 0.3 ms. Those of the machine that runs the controller have no name of a
host; those of others, and of GPUs, come from the workers there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from streamtrain.values import Reading

MEGABYTE = 1e6
HERE = ""
"""The controller's host, among those that workers are on."""
Usage = Mapping[str, Mapping[str, float]]
"""By host: values of the metrics, under their names."""


class SystemMetrics:
    """Points of the system metrics, at most one every ``seconds``.

    Args:
        folder: whose disk is looked at.
    """

    def __init__(self, seconds: float, folder: Path) -> None:
        self._seconds = seconds
        self._folder = folder
        self._due = 0.0
        self._host = HostUsage(folder)

    def readings(self, step: int, time: float, others: Callable[[], Usage] = dict) -> list[Reading]:
        """The points of now, at global ``step``; none before they are due.

        Args:
            others: asks the workers, who know their hosts and GPUs.
        """
        if time < self._due:
            return []
        self._due = time + self._seconds
        found = others()
        gpus = {name: value for name, value in found.get(HERE, {}).items() if name.startswith("gpu_")}
        values = self._host.take() | gpus
        for host, its in found.items():
            values |= {f"{host}/{name}": value for name, value in its.items() if host != HERE}
        return [Reading(f"system/{name}", value, step, time) for name, value in values.items()]


class HostUsage:
    """What this host's processor, memory, disk and network are used for.

    Args:
        folder: whose disk is looked at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        psutil.cpu_percent()  # the first call starts the clock
        self._network = psutil.net_io_counters()

    def take(self) -> dict[str, float]:
        """Now, by name; the network's megabytes since this was made."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._folder))
        network = psutil.net_io_counters()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / MEGABYTE,
        }
