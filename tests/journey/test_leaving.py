"""Who takes one example and leaves ends at once; a run that ends, in whatever way, leaves nothing that the next meets.

All that as a user without rights; only this machine reaches the run's Ray, and only who has its token is let in.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from PIL import Image

from tests.support.command import ROOT
from tests.support.datasets import digits
from tests.support.servers import free_port
from tests.support.unprivileged import User, unprivileged

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
    st.Data("packed", transform=lambda batch: {**batch, "image": batch["image"].float() / 255}, decode_threads=2),
    lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
    mode=st.Epochs(max_passes=100_000, patience=100_000),
    optimizer=st.SGD(lr=0.1),
    batch_size=20,
    workers=2,
    tracking=st.Tracking(enabled=False),
)
"""


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """With the digits as PNG, which streamers decode, packed; and a job that trains on them for ever."""
    with unprivileged() as user:
        for number, (image, label) in enumerate(zip(*digits(400), strict=True)):
            (user.folder / "raw" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(user.folder / "raw" / str(label) / f"{number}.png")
        (user.folder / "endless.py").write_text(JOB)
        user.own()
        assert "400 examples" in user.run("pack", "raw", "packed", "--seed", "1", "--shard-examples", "60")
        yield user


def ours_in_shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "streamtrain" in name}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_taking_one_minibatch_and_leaving_ends_within_5_seconds(user: User) -> None:
    command = [sys.executable, "-c", TAKE_ONE, str(user.folder / "packed")]
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
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
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
        asked = subprocess.run(command, env=environment() | mode, capture_output=True, text=True, timeout=240)
        assert asked.stdout.strip() == answer, asked.stderr
        assert answer or "InvalidAuthToken" in asked.stderr, asked.stderr


@contextlib.contextmanager
def started(user: User, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A command in a process group of its own, which ends with the block."""
    command, streams = user.command(*words), {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(  # type: ignore[call-overload]
        command, cwd=user.folder, env=user.environment, start_new_session=True, **streams
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def trains(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Once it does: its workers and streamers."""
    assert driver.stderr is not None
    said = list(itertools.takewhile(lambda line: not line.startswith("pass"), driver.stderr))
    assert driver.poll() is None, said
    family = psutil.Process(driver.pid).children(recursive=True)
    # Ray's own agents look for their raylet once a minute
    actors = [child for child in family if "ray::Worker" in command_of(child)]
    assert any("Streamer" in command_of(actor) for actor in actors), "its streamers are at work"
    assert os.getuid() or {child.uids().real for child in actors} != {0}
    return actors


def assert_gone(actors: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 240
    while any(map(alive, actors)):
        assert time.monotonic() < deadline, "workers and streamers end with their driver"
        time.sleep(0.05)
    assert not ours_in_shared_memory()


def test_a_run_is_killed_goes_on_and_is_told_to_stop(user: User) -> None:
    """By SIGKILL; then by SIGTERM to its whole process group, again and again."""
    with started(user, "train", "endless.py", "--checkpoints.seconds", "0.5") as driver:
        actors = trains(driver)
        assert_others_are_refused([psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)])
        (folder,) = (user.folder / "runs").iterdir()
        while not list(folder.glob("checkpoints/[0-9]*.json")):
            assert driver.poll() is None
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    assert_gone(actors)
    last = max(int(file.stem) for file in folder.glob("checkpoints/[0-9]*.json"))
    with started(user, "ui", "--port", str(free_port())) as ui, started(user, "train", "endless.py", "--resume") as run:
        actors = trains(run)
        assert run.stderr is not None and ui.stderr is not None
        for _ in range(2):
            os.killpg(run.pid, signal.SIGTERM)
        assert any("what was measured is in" in line for line in run.stderr)
        os.killpg(run.pid, signal.SIGTERM)
        told = run.stderr.read().strip()
        assert run.wait(timeout=240) == 6, told
        found = re.fullmatch(
            r"streamtrain train: stopped by SIGTERM after step ([\d,]+); a checkpoint is written: .*", told
        )
        assert found is not None, told
        assert_gone(actors)
        last_words = next(line for line in ui.stderr if "Uvicorn running" in line)
        assert "http://127.0.0.1:" in last_words
    step = int(found[1].replace(",", ""))
    assert step > last and (folder / "checkpoints" / f"{step:012d}.safetensors").is_file()
    checkpoint = str(folder / "checkpoints" / f"{step:012d}.safetensors")
    assert "gTg" in user.run("probe", checkpoint, "--job", "endless.py", "--examples", "100", "--iterations", "4")
