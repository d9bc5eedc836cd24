"""System metrics: MLflow's names, in their ranges, no more often than asked."""

from pathlib import Path

from streamtrain.track.system import SystemMetrics


def test_points_come_every_so_many_seconds(tmp_path: Path) -> None:
    metrics = SystemMetrics(10.0, tmp_path)
    first = metrics.readings(5, 100.0)
    assert metrics.readings(6, 109.0) == [] and len(metrics.readings(7, 110.0)) == len(first) == 7
    values = {reading.name: reading.value for reading in first}
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert values["system/disk_available_megabytes"] > 0 and values["system/network_receive_megabytes"] >= 0
    assert {(reading.step, reading.time) for reading in first} == {(5, 100.0)}
