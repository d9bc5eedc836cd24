"""``cluster/ray_up/local.yaml``, really run: three hosts of this machine, sshd on each; one hands in, two train.

Takes about a minute, so it runs by `make clusters`, not with the other tests.
"""

import os
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.support.command import ROOT
from tests.support.datasets import pack_digits
from tests.support.hosts import Host, hosts, missing

BIN = ROOT / ".venv" / "bin"
JOB = """
import torch
import streamtrain as st

job = st.Job(
    st.Data({data!r}, transform=lambda batch: {{**batch, "image": batch["image"].float() / 16}}),
    lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), mode=st.Epochs(max_passes=2),
    batch_size=40, lanes=4, workers=4, exchange="collective", tracking=st.Tracking(enabled=False, folder={runs!r}),
)
"""


@pytest.mark.clusters
@pytest.mark.skipif(bool(missing()), reason=f"no {missing()} here")
def test_from_nothing_to_a_submitted_job_over_ssh() -> None:
    with hosts(["laptop", "head", "node"]) as (laptop, head, node):
        shared = laptop.key.parent
        file = shared / "local.yaml"
        file.write_text(own_values((ROOT / "cluster" / "ray_up" / "local.yaml").read_text(), head, node))
        pack_digits(shared / "digits")
        (shared / "digits.py").write_text(JOB.format(data=str(shared / "digits"), runs=str(shared / "runs")))
        for host in (head, node):  # the environment that the file's setup would make
            must(host, f"ln -s {BIN.parent} ~/streamtrain-env && test -e ~/streamtrain-env/ready")
        must(laptop, f"{BIN}/ray get-auth-token --generate")
        must(laptop, f"RAY_UP_enable_autoscaler_v2=0 {BIN}/ray up --yes {file}", 120)
        cpus = f"/{2 * (os.cpu_count() or 1)}.0 CPU"
        wait_for(lambda: cpus in head.run(f"RAY_AUTH_MODE=token {BIN}/ray status").stdout)
        tunnel = subprocess.Popen(laptop.command(f"{BIN}/ray dashboard {file}"))
        try:
            wait_for(lambda: laptop.run("bash -c '</dev/tcp/127.0.0.1/8265'").returncode == 0)
            train = f"RAY_AUTH_MODE=token {BIN}/streamtrain submit {shared}/digits.py --follow"
            done = laptop.run(train, timeout=150)
        finally:
            tunnel.terminate()
            tunnel.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 worker(s)" in done.stdout and "SUCCEEDED" in done.stderr
        assert list((shared / "runs").glob("*/parameters.safetensors"))
        must(laptop, f"{BIN}/ray down --yes {file}", 120)


def own_values(text: str, head: Host, node: Host) -> str:
    """The file with what its user has to change."""
    changes = {
        "192.0.2.1": head.address,
        "192.0.2.2, 192.0.2.3": node.address,
        "ssh_user: ubuntu": "ssh_user: root",
        "~/.ssh/id_ed25519": str(head.key),
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def must(host: Host, line: str, timeout: float = 60) -> None:
    done = host.run(line, timeout)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(1)
