"""System metrics: MLflow's names, in their ranges, no more often than asked."""

from pathlib import Path

from streamtrain.track.system import HERE, HostUsage, SystemMetrics


def test_points_come_every_so_many_seconds(tmp_path: Path) -> None:
    metrics = SystemMetrics(10.0, tmp_path)
    first = metrics.readings(5, 100.0)
    assert metrics.readings(6, 109.0) == [] and len(metrics.readings(7, 110.0)) == len(first) == 7
    values = {reading.name: reading.value for reading in first}
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert values["system/disk_available_megabytes"] > 0 and values["system/network_receive_megabytes"] >= 0
    assert {(reading.step, reading.time) for reading in first} == {(5, 100.0)}


def test_other_hosts_have_their_address_and_gpus_of_this_one_none(tmp_path: Path) -> None:
    here = HostUsage(tmp_path).take() | {"gpu_0_memory_usage_megabytes": 7.0}
    there = {"cpu_utilization_percentage": 3.0, "gpu_1_utilization_percentage": 90.0}
    metrics = SystemMetrics(10.0, tmp_path)
    found = {each.name: each.value for each in metrics.readings(5, 100.0, lambda: {HERE: here, "10.0.0.2": there})}
    assert found["system/gpu_0_memory_usage_megabytes"] == 7.0
    assert found["system/10.0.0.2/cpu_utilization_percentage"] == 3.0
    assert found["system/10.0.0.2/gpu_1_utilization_percentage"] == 90.0
    assert len(found) == 7 + 1 + 2

    def never() -> dict[str, dict[str, float]]:
        raise AssertionError("workers are asked only when points are due")

    assert metrics.readings(6, 101.0, never) == []
