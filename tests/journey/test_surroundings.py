"""Machines that lack something: a command works, or ends with 2 in one line that names the variable or the limit.

Each case is a real process in a real namespace, as a real user, or under a real limit; no traceback, nothing left.
"""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

import streamtrain as st
from streamtrain.prepare.surroundings import allowances
from tests.support.surroundings import JOB, Surroundings, control_group, processes_of

OWN_MOUNTS = "unshare --mount"
NAMELESS = "setpriv --reuid 12345 --regid 0 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
LONG = "$PWD/" + "long" * 25
NO_HOME = {"HOME": "unset"}
REFUSED = [
    Surroundings("few open files", "ulimit -n 64;", lacks="ulimit -n: expected at least 128 open files, found 64"),
    Surroundings(
        "too few files for Ray", "ulimit -n 256;", lacks="ulimit -n: expected at least 512 open files, found 256"
    ),
    Surroundings(
        "little address space", "ulimit -v 2000000;", lacks="ulimit -v: expected at least 4194304 kB of address"
    ),
    Surroundings("small files", "ulimit -f 1000;", lacks="ulimit -f: expected at least 132096 blocks of 1024 bytes"),
    Surroundings("umask", "umask 777;", lacks="umask 0777: expected one under which a user may read and write"),
    Surroundings("umask, to pack", "umask 777;", lacks="umask 0777: expected one", words="pack d.npz e"),
    Surroundings(
        "no working folder", "mkdir gone; cd gone; rmdir ../gone;", lacks="the working folder: expected a folder"
    ),
    Surroundings(
        "read-only working folder",
        "mount --bind . . && mount -o remount,bind,ro . && cd $PWD &&",
        OWN_MOUNTS,
        lacks="tracking.folder: expected to be able to write to ",
    ),
    Surroundings(
        "RAY_TMPDIR too long", f"mkdir -p {LONG};", variables={"RAY_TMPDIR": LONG}, lacks="RAY_TMPDIR: expected"
    ),
    Surroundings(
        "no place for temporary files",
        "mkdir few; cp -r d j.py few; mount --bind few /mnt; cd /mnt && "
        "for place in /tmp /var/tmp /dev/shm; do mount --bind $place $place; mount -o remount,bind,ro $place; done &&",
        OWN_MOUNTS,
        {"HOME": "/mnt"},
        lacks="TMPDIR: expected a folder for Ray with 160 MB of room",
    ),
    Surroundings(
        "a part of /proc",
        "mount -t proc -o subset=pid proc /proc &&",
        "unshare --mount --pid --fork",
        lacks="/proc/meminfo: expected to be able to read it",
    ),
    Surroundings(
        "no loopback", prefix="unshare --net", lacks="localhost (127.0.0.1): expected that this machine can reach"
    ),
    Surroundings(
        "few processes", "ulimit -u 200;", NAMELESS, lacks="ulimit -u 200: expected room for 360 more threads"
    ),
]
WORKING = [
    Surroundings("no home and no name", "ulimit -u 700;", NAMELESS, NO_HOME),
    Surroundings("a home that is /, compressed shards", "", NAMELESS, {"HOME": "/"}, words="inspect f.tar.gz"),
    Surroundings("no home, compressed shards", "", NAMELESS, NO_HOME, words="inspect f.tar.gz"),
    Surroundings("no home, to pack", "", NAMELESS, NO_HOME, words="pack d.npz e"),
    Surroundings(
        "a long TMPDIR, little shared memory, few open files, small files, a closed standard output",
        f"mkdir -p {LONG}; mount -t tmpfs -o size=16m t /dev/shm && ulimit -n 512; ulimit -f 140000; TERM=dumb",
        OWN_MOUNTS,
        {"TMPDIR": LONG},
        after=">&-",
    ),
    Surroundings(
        "another Ray on the machine",
        "mkdir ray; echo 127.0.0.1:1 >ray/ray_current_cluster;",
        variables={"RAY_TMPDIR": "$PWD"},
    ),
    Surroundings("closed standard streams", words="inspect d", after="<&- >&- 2>&-"),
]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may make these namespaces, mounts and users")


@pytest.fixture(scope="module")
def packed() -> Iterator[Path]:
    """A folder with a data set and a job, which any user may use."""
    folder = Path(tempfile.mkdtemp(prefix="job-", dir="/tmp"))  # not pytest's, which is closed to others
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=rng.normal(size=(60, 4)).astype(np.float32), label=rng.integers(0, 3, 60))
    st.pack(folder / "d.npz", folder / "d", st.PackOptions(seed=1))
    (folder / "j.py").write_text(JOB)
    for split in ("train", "validation"):
        (folder / "f.tar.gz" / split).mkdir(parents=True)
        with tarfile.open(folder / "f.tar.gz" / split / "0.tar.gz", "w:gz") as written:
            for number in range(5):
                member = tarfile.TarInfo(f"{split}{number}.cls")
                member.size = 1
                written.addfile(member, io.BytesIO(b"1"))
    subprocess.run(["chmod", "-R", "a+rwX", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def _checked(case: Surroundings, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a command says, of which no process stays, and that is neither a traceback nor coloured."""
    marker = uuid.uuid4().hex
    done = case.run(folder, marker)
    said = done.stdout + done.stderr
    assert "Traceback" not in said and "\x1b" not in said, said
    deadline = time.monotonic() + 240  # Ray's own agents look for their raylet once a minute
    while processes_of(marker):
        assert time.monotonic() < deadline, processes_of(marker)
    return done


@needs_root
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case.name))
def test_promise_10_what_is_lacking_is_named_before_anything_starts(case: Surroundings, packed: Path) -> None:
    done = _checked(case, packed)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert case.lacks in done.stderr and not done.stdout
    assert not {"runs", "mlflow.db", "e"} & {file.name for file in packed.iterdir()}


@needs_root
@pytest.mark.parametrize("case", WORKING, ids=lambda case: str(case.name))
def test_a_command_works_by_another_place(case: Surroundings, packed: Path) -> None:
    done = _checked(case, packed)
    assert done.returncode == 0, done.stderr
    left = [file.name for file in packed.rglob("*partial*")]
    for made in ("runs", "mlflow.db", "mlartifacts", "e"):
        subprocess.run(["rm", "-rf", str(packed / made)], check=True)
    assert not left


@needs_root
def test_a_container_with_less_memory_than_ray_needs(packed: Path) -> None:
    with control_group("memory", memory__limit_in_bytes=str(700 << 20)) as group:
        case = Surroundings("little memory", f"echo $$ >{group}/cgroup.procs;")
        done = _checked(case, packed)
    assert done.returncode == 2 and f"{group}/memory.limit_in_bytes: expected at least 1250 MB of memory" in done.stderr
    assert "found 700 MB; raise that limit" in done.stderr


def test_a_start_waits_for_no_port_that_another_ray_holds() -> None:
    code = "from streamtrain.run.fleet.cluster.starting import start_ray; start_ray()"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket() as held:
        with contextlib.suppress(OSError):  # some other Ray has it
            held.bind(("127.0.0.1", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
            held.listen()
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"RAY_TMPDIR": folder}, check=True)
        (log,) = Path(folder).rglob("session_2*/logs/dashboard_agent.log")
        assert "Failed to bind" not in log.read_text()


def test_a_start_does_not_wait_for_what_is_turned_off() -> None:
    """The process that would report usage; and nobody misses it: an agent would say so each second."""
    code = (
        "import psutil; from streamtrain.run.fleet.cluster.starting import start_ray; start_ray();"
        "print(*(' '.join(each.cmdline()) for each in psutil.Process().children(recursive=True)), sep='\\n')"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        place = os.environ | {"RAY_TMPDIR": folder}
        done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True, check=True)
        (log,) = Path(folder).rglob("session_2*/logs/dashboard_agent.log")
        assert "Get dashboard http address failed" not in log.read_text()
    assert "gcs_server" in done.stdout and "log_monitor.py" in done.stdout
    assert "/dashboard.py" not in done.stdout


@needs_root
def test_a_container_with_fewer_cores_than_the_machine(packed: Path) -> None:
    with control_group("cpu", cpu__cfs_quota_us="150000") as group:
        enter = f"echo $$ >{group}/cgroup.procs;"
        done = _checked(Surroundings("few cores", enter, words="train j.py --workers 2"), packed)
        pinned = _checked(Surroundings("one core", "taskset -p -c 0 $$;", words="train j.py --workers 2"), packed)
    for refused in (done, pinned):
        assert refused.returncode == 2 and "workers: expected at most 1 on this machine's 1 CPUs" in refused.stderr


def test_limits_are_read_from_both_versions_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "memory.max": "max",
        "a/memory.max": "1000000000",
        "a/b/memory.max": "2000000000",
        "a/cpu.max": "150000 100000",
        "a/b/pids.max": "30",
        "a/b/pids.current": "12",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(allowances, "GROUPS", tmp_path)
    text_of = allowances._text
    mine = Path("/proc/self/cgroup")
    monkeypatch.setattr(allowances, "_text", lambda file: "0::/a/b" if file == mine else text_of(file))
    assert allowances.usable_cpus() == 1
    memory, threads = allowances.memory_limit(), allowances.thread_limit()
    assert memory is not None and threads is not None
    assert (memory.value, memory.source) == (1_000_000_000, f"{tmp_path}/a/memory.max")
    assert (threads.value, threads.source) == (18, f"{tmp_path}/a/b/pids.max")
