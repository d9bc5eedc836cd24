"""`streamtrain pack` over Ray tasks: killed while it writes, it goes on; the bytes are those of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from streamtrain.packing import PackOptions, pack
from tests.support.command import ROOT, streamtrain
from tests.support.packing import files

SETTINGS = ("--seed", "3", "--shard-examples", "500", "--memory-bytes", "2000000", "--tasks", "2")


def test_promise_1_over_ray_tasks_and_after_a_kill(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image, label = random.integers(0, 256, (30_000, 16, 16), np.uint8), random.integers(0, 10, 30_000)
    np.savez(tmp_path / "raw.npz", image=image, label=label)
    words = ("pack", str(tmp_path / "raw.npz"), str(tmp_path / "a"), *SETTINGS)
    process = subprocess.Popen(
        [sys.executable, "-m", "streamtrain", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    scratch = tmp_path / ".a.pack.partial"
    while not list(scratch.glob("*/shards/train-*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    runs = {file: file.stat().st_mtime_ns for file in scratch.glob("*/runs/[0-9]*/keys")}
    assert len(runs) > 2 and not (tmp_path / "a").exists()

    done = streamtrain(*words)
    assert done.returncode == 0, done.stderr
    assert "30,000 examples" in done.stdout and not scratch.exists()
    pack(tmp_path / "raw.npz", tmp_path / "here", PackOptions(seed=3, shard_examples=500))
    assert files(tmp_path / "a") == files(tmp_path / "here")
