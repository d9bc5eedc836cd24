"""Who takes one example and leaves ends at once; a run that is killed leaves nothing that the next one meets.

While it lives, only this machine reaches its Ray, and only who has its token is let in.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from streamtrain.pack import PackOptions, pack
from tests.support.command import ROOT
from tests.support.datasets import digits

TAKE_ONE = """
import sys
import streamtrain as st
batches = st.open(sys.argv[1], decode_threads=2).batches(4, ahead=3)
print(len(next(iter(batches))["label"]), flush=True)
"""

JOB = """
import torch
import streamtrain as st

job = st.Job(
    st.Data({data!r}, transform=lambda batch: {{**batch, "image": batch["image"].float() / 255}}, decode_threads=2),
    lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
    mode=st.Epochs(max_passes={passes}, patience=1000),
    sgd=st.SGD(lr=0.1),
    batch_size=20,
    workers=2,
    tracking=st.Tracking(enabled=False, folder={runs!r}),
)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as PNG, which streamers decode."""
    root = tmp_path_factory.mktemp("pictures")
    for number, (image, label) in enumerate(zip(*digits(400), strict=True)):
        (root / "raw" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "raw" / str(label) / f"{number}.png")
    pack(str(root / "raw"), root / "packed", PackOptions(seed=1, shard_examples=60))
    return root / "packed"


def ours_in_shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "streamtrain" in name}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_taking_one_minibatch_and_leaving_ends_within_5_seconds(pictures: Path) -> None:
    command = [sys.executable, "-c", TAKE_ONE, str(pictures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None and process.stdout.readline() == "4\n"
        assert process.wait(timeout=5) == 0


def command_of(process: psutil.Process) -> str:
    """Nothing of one that has ended since it was seen, as Ray's helpers do all the time."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; what nobody has buried yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


ASK_RAY = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info()))"


def assert_others_are_refused(processes: list[psutil.Process]) -> None:
    """Neither from another machine, nor without the token, can anybody talk to the Ray among these processes."""
    listening, tokens = dict[str, set[str]](), set[str]()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            ports = [each.laddr for each in process.net_connections() if each.status == "LISTEN"]
            listening.setdefault(process.name(), set()).update(f"{port.ip}:{port.port}" for port in ports)
            tokens.add(process.environ().get("RAY_AUTH_TOKEN", ""))
    addresses = set[str]().union(*listening.values())
    assert all(re.fullmatch(r"(::ffff:)?127\.0\.0\.1:\d+", each) for each in addresses), listening
    (head,) = (each.removeprefix("::ffff:") for each in listening["gcs_server"])
    (token,) = tokens - {""}
    assert len(token) == 64 and token not in " ".join(map(command_of, processes))
    for given, answer in ((token, "1"), ("0" * 64, ""), (None, "")):
        mode = {"RAY_AUTH_MODE": "disabled"} if given is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": given}
        command = [sys.executable, "-c", ASK_RAY, head]
        asked = subprocess.run(command, env=environment() | mode, capture_output=True, text=True, timeout=60)
        assert asked.stdout.strip() == answer, asked.stderr
        assert answer or "InvalidAuthToken" in asked.stderr, asked.stderr


def train(job: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "streamtrain", "train", str(job), "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(), cwd=job.parent)


def test_a_killed_run_leaves_nothing_that_the_next_one_meets(pictures: Path, tmp_path: Path) -> None:
    endless, short = tmp_path / "endless.py", tmp_path / "short.py"
    endless.write_text(JOB.format(data=str(pictures), passes=100_000, runs=str(tmp_path / "runs")))
    short.write_text(JOB.format(data=str(pictures), passes=1, runs=str(tmp_path / "runs")))
    with train(endless) as driver:
        assert driver.stderr is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("pass"), driver.stderr))
        assert driver.poll() is None, said
        family = psutil.Process(driver.pid).children(recursive=True)
        assert_others_are_refused([psutil.Process(driver.pid), *family])
        # Ray's own agents look for their raylet once a minute
        actors = [child for child in family if "ray::Worker" in command_of(child)]
        assert any("Streamer" in command_of(actor) for actor in actors), "its streamers are at work"
        driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(alive, actors)):
        assert time.monotonic() < deadline, "workers and streamers end with their driver"
        time.sleep(0.05)
    assert not ours_in_shared_memory()
    with train(short) as again:
        out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert '"passes": 1' in out
