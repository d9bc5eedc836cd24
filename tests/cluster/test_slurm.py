"""``cluster/slurm.sh``, run against stand-ins: of Slurm's commands, of Ray's, and of the training."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import ROOT

STAND_INS = {
    "scontrol": """
case $1 in
  show) printf 'node1\\nnode2\\nnode3\\n' ;;
  requeue) echo "requeued $2" >> "$NOTES" ;;
esac""",
    "srun": """
while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && { node=$2; shift; }; shift; done
[ "$1" = hostname ] && { echo "10.0.0.${node#node} 192.168.0.1"; exit; }
node=$node exec "$@\"""",
    "ray": """
case $1 in
  health-check) [ -e "$HOME/started" ] ;;
  start)
    echo "$node: $*; $RAY_AUTH_MODE $(wc -c < "$RAY_AUTH_TOKEN_PATH") $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >> "$NOTES"
    [ -n "$RAY_FAILS" ] && exit 1
    touch "$HOME/started"
    exec sleep 1000 ;;
esac""",
    "python": """
echo "python $*; $RAY_ADDRESS" >> "$NOTES"
[ -n "$ENDS" ] && exit "$ENDS"
trap 'echo told >> "$NOTES"; exit 6' TERM
while :; do sleep 0.05; done""",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "env" / "bin"
    tools.mkdir(parents=True)
    for name, script in STAND_INS.items():
        (tools / name).write_text("#!/bin/bash" + script + "\n")
        (tools / name).chmod(0o755)
    (tmp_path / "notes").touch()
    slurm = {"SLURM_JOB_ID": "4217", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_ON_NODE": "8"}
    here = {"HOME": str(tmp_path), "STREAMTRAIN_ENV": str(tools.parent), "NOTES": str(tmp_path / "notes")}
    return {**os.environ, **slurm, **here, "RAY_FAILS": "", "ENDS": ""}


def begin(environment: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    command = [str(ROOT / "cluster" / "slurm.sh"), *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def notes(environment: dict[str, str]) -> list[str]:
    return Path(environment["NOTES"]).read_text().splitlines()


def nothing_is_left(process: "subprocess.Popen[str]", home: Path) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return not list(home.glob(".streamtrain-*"))
        time.sleep(0.02)
    return False


def test_a_run_on_three_nodes(environment: dict[str, str], tmp_path: Path) -> None:
    process = begin({**environment, "ENDS": "0"}, "jobs/mnist.py", "--workers", "8")
    process.communicate(timeout=60)
    assert process.returncode == 0
    head, *rest = sorted(notes(environment))
    assert head.startswith("node1: start --head --block --port=24217 --num-cpus=8 --temp-dir=/tmp/ray-4217")
    assert "--include-dashboard=false" in head and head.endswith("; token 32 600")
    # the run may end before the last srun of a worker has begun
    assert all("start --block --address=10.0.0.1:24217" in line for line in rest if line.startswith("node"))
    assert "python -m streamtrain train jobs/mnist.py --workers 8 --resume; 10.0.0.1:24217" in rest
    assert nothing_is_left(process, tmp_path)


def test_sigterm_is_handed_on_and_the_job_queues_again(environment: dict[str, str], tmp_path: Path) -> None:
    process = begin(environment, "jobs/mnist.py")
    deadline = time.monotonic() + 60
    while len(notes(environment)) < 4:  # three nodes and the run
        assert time.monotonic() < deadline, notes(environment)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 6
    assert notes(environment)[-2:] == ["told", "requeued 4217"]
    assert nothing_is_left(process, tmp_path)


def test_failures_are_one_line_and_not_queued_again(environment: dict[str, str], tmp_path: Path) -> None:
    process = begin({**environment, "RAY_FAILS": "1"}, "jobs/mnist.py")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4 and "Ray did not start on node1" in errors
    process = begin({**environment, "ENDS": "3"}, "jobs/mnist.py")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert not [line for line in notes(environment) if line.startswith("requeued")]
    nothing = begin(environment)
    _, errors = nothing.communicate(timeout=60)
    assert nothing.returncode == 2 and errors.startswith("slurm.sh: expected a job file, found nothing")
    assert nothing_is_left(process, tmp_path)
