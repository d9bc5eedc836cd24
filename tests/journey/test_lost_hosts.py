"""A run on two hosts loses a raylet, gets it back, loses a link, then Ray's head, and is resumed: the bits stay."""

import contextlib
import dataclasses
import hashlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamtrain.prepare.jobfile import load_job
from tests.support.chaos import Chaos, digest
from tests.support.datasets import pack_digits
from tests.support.fleet import run
from tests.support.ray_hosts import ADDRESSES, RayHosts, missing, ray_hosts

LATEST = 280.0
"""Seconds within which each thing must happen on a busy machine."""


@contextlib.contextmanager
def driver(hosts: RayHosts, job: Path, *flags: str, **changed: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = hosts.command(0, "-m", "streamtrain", "train", str(job), "--json", *flags)
    with (job.parent / "out.txt").open("wb") as out, (job.parent / "err.txt").open("ab") as err:
        environment = {**hosts.environment, **changed}
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=job.parent)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(missing() != "", reason=f"network namespaces need {missing()}")
def test_promise_5_a_lost_host_costs_seconds_and_no_bit(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits", examples=600)
    (tmp_path / "run").mkdir()
    chaos = Chaos(tmp_path / "run", 0, kills=1)
    job = chaos.job(repr(str(tmp_path / "digits")), lane_seconds=0.05)
    (chaos.folder / "pace").touch()
    with ray_hosts() as hosts:
        hosts.start_ray(0)
        hosts.start_ray(1)
        with driver(hosts, job, "--tracking.system-seconds", "0.5") as process:

            def wait_for(said: str, times: int = 1) -> None:
                deadline = time.monotonic() + LATEST
                while len(re.findall(said, (chaos.folder / "err.txt").read_text())) < times:
                    assert process.poll() is None and time.monotonic() < deadline, (
                        chaos.folder / "err.txt"
                    ).read_text()
                    time.sleep(0.05)

            wait_for("pass +1 ")
            hosts.kill(1, "raylet")
            wait_for(r"going on at step [\d,]+ with 1 worker")
            hosts.start_ray(1)
            wait_for("1 joined: 2 workers")
            hosts.cut(1)
            wait_for(r"going on at step [\d,]+ with 1 worker", 2)
            hosts.kill(0, "gcs_server", "raylet")
            assert process.wait(LATEST) != 0
        (chaos.folder / "pace").unlink()
        hosts.end()  # what is left of the cluster
        with driver(hosts, job, "--resume", "--workers", "1", RAY_ADDRESS="") as process:
            assert process.wait(LATEST) == 0, (chaos.folder / "err.txt").read_text()
    (journal,) = chaos.runs.glob("*/journal.jsonl")
    assert f"system/{ADDRESSES[1]}/cpu_utilization_percentage" in journal.read_text(), "of each host with a worker"
    print(re.findall(r"going on.*", (chaos.folder / "err.txt").read_text()))
    (tmp_path / "quiet").mkdir()
    run(dataclasses.replace(load_job(job), workers=1), tmp_path / "quiet")
    undisturbed = (tmp_path / "quiet" / "parameters.safetensors").read_bytes()
    assert digest(chaos.runs) == hashlib.sha256(undisturbed).hexdigest()
