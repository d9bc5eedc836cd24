"""Many small examples, from arrays on disk to a run's end: memory, speed of packing, start and resumption.

    python -m tests.benchmarks.scale [--json] [--examples 100000000] [--folder /var/tmp]

Each example has 16 float32 and a label, 68 bytes: 10⁸ of them are 6.8 GB, and the folder needs four times that. Two of
the 16 are the example's own number, the label is the sign of a sum of the others. The source is written and copied in
pieces; then it is packed by one process within 1 GiB, resident memory of its pages of files included. Two workers over
Ray train a small MLP online, minibatch 4,096, with evaluations, checkpoints and MLflow's SQLite, but without its log of
the model. Another such run is killed in its middle and resumed. A copy ends with fsync, packing with sync.

Checked: every example is packed once, with its label; the run uses each of its split once, and ends with an error below
2 %. `rss_growth` is the mean resident memory of all processes, a page that several share counted once, in the last
tenth of the run's examples, over that in the second: at one tenth all is there that a run needs.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import streamtrain as st
from streamtrain.packing.making import PROCESS_BYTES
from streamtrain.track.journal import entries_of
from tests.benchmarks.measuring import report
from tests.benchmarks.memory import resident
from tests.support.command import ROOT

WIDTH, NUMBERS, PIECE = 16, 4096, 1 << 18
WEIGHTS = np.random.default_rng(1).standard_normal(WIDTH - 2).astype(np.float32)
SPLITS = (0.98, 0.01, 0.01)
GIB = 1 << 30
FIRST = "first steps after"
"""What a run says when it trains."""
PACK_AND_TELL = """
import os, re, sys
from pathlib import Path
from streamtrain.packing import PackOptions, pack
splits = tuple(map(float, sys.argv[4:]))
pack(sys.argv[1], sys.argv[2], PackOptions(splits=splits, seed=1, memory_bytes=int(sys.argv[3]), tasks=1))
os.sync()
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
JOB = """
import torch
import streamtrain as st

def model():
    return torch.nn.Sequential(torch.nn.Linear(14, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))

def without_number(batch):
    return {{**batch, "x": batch["x"][:, :14]}}

job = st.Job(
    st.Data({data!r}, inputs=("x",), transform=without_number), model, mode=st.Online(), batch_size=4096,
    optimizer=st.SGD(lr=0.1, momentum=0.9), workers=2, checkpoints=st.Checkpoints(seconds=2.0),
    tracking=st.Tracking(uri={uri!r}, folder="runs", log_model=False),
)
"""


def write_source(folder: Path, examples: int) -> None:
    """Arrays ``x``, float32 (examples, 16), and ``label``, int32 (examples,), piece by piece."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    with (folder / "x.npy").open("wb") as rows, (folder / "label.npy").open("wb") as labels:
        for file, dtype, shape in ((rows, "<f4", (examples, WIDTH)), (labels, "<i4", (examples,))):
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for start in range(0, examples, PIECE):
            numbers = np.arange(start, min(start + PIECE, examples))
            x = generator.standard_normal((len(numbers), WIDTH), np.float32)
            x[:, -2], x[:, -1] = numbers // NUMBERS, numbers % NUMBERS
            x.tofile(rows)
            label_of(x).tofile(labels)


def label_of(x: np.ndarray) -> np.ndarray:
    """The label of each row, int32; the same whatever rows come with it."""
    return ((x[:, :-2] * WEIGHTS).astype(np.float64).sum(1) > 0).astype(np.int32)


def copied(source: Path, target: Path) -> float:
    """Seconds that copying the files takes, to the disk."""
    began = time.perf_counter()
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb") as opened:
            os.fsync(opened.fileno())
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def packed(source: Path, target: Path) -> tuple[float, int]:
    """Seconds, and most bytes of resident memory."""
    words = [source, target, GIB - PROCESS_BYTES, *SPLITS]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PACK_AND_TELL, *map(str, words)], stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - began, int(done.stdout) << 10


def check_packed(folder: Path, examples: int) -> int:
    """Every example once, with its label; those of the training split."""
    seen = np.zeros(examples, bool)
    sizes = {}
    for split in ("train", "validation", "test"):
        data = st.open(folder, split=split)
        sizes[split] = len(data)
        for batch in data.batches(1 << 15):
            x = batch["x"].numpy()
            numbers = x[:, -2].astype(np.int64) * NUMBERS + x[:, -1].astype(np.int64)
            assert not seen[numbers].any() and np.array_equal(label_of(x), batch["label"].numpy())
            seen[numbers] = True
    assert seen.all() and sum(sizes.values()) == examples
    return sizes["train"]


@dataclass
class Training:
    """A run in a folder of its own, in a process of its own, with so many steps."""

    folder: Path
    steps: int

    def write(self, data: Path) -> None:
        """Writes the job's file."""
        self.folder.mkdir()
        (self.folder / "job.py").write_text(
            JOB.format(data=str(data), uri=f"sqlite:///{self.folder / 'mlflow.db'}"),
        )

    def start(self, *flags: str) -> float:
        """Starts it; the seconds until it trains."""
        command = [sys.executable, "-m", "streamtrain", "train", "job.py", "--json", *flags]
        began = time.perf_counter()
        with (self.folder / "out.txt").open("wb") as out, (self.folder / "err.txt").open("wb") as err:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=out, stderr=err)
        while FIRST not in (told := (self.folder / "err.txt").read_text()):
            assert self.process.poll() is None, told
            time.sleep(0.01)
        return time.perf_counter() - began

    def watch(self, until: float = 1.0) -> list[tuple[float, int]]:
        """Times and resident bytes, until so many of the run's examples were used, or it ended."""
        found = []
        while self.process.poll() is None and not self._is_past(until):
            found.append((time.time(), resident(self.process.pid)))
            time.sleep(0.25)
        return found

    def points(self) -> list[tuple[int, float]]:
        """Steps and their times, of the journal."""
        (journal,) = self.folder.glob("runs/*/journal.jsonl")
        readings = (each for entry in entries_of(journal) for each in entry.get("readings", ()))
        return [(step, when) for name, _, step, when in readings if name == "minibatch/loss"]

    def end(self, number: int) -> None:
        """Sends the signal, and waits for all of it to end."""
        self.process.send_signal(number)
        self.process.wait()

    def _is_past(self, part: float) -> bool:
        if part >= 1:
            return False
        saved = any(self.folder.glob("runs/*/checkpoints/*"))
        return saved and self.points()[-1][0] >= part * self.steps


def tenths(memory: list[tuple[float, int]], points: list[tuple[int, float]]) -> tuple[float, float]:
    """Mean resident bytes in the second and in the last tenth of the steps."""
    looked, sizes = np.array(memory).T
    steps, times = np.array(points).T
    at_points = np.interp(times, looked, sizes)
    parts = steps / steps[-1]
    second, last = (parts >= 0.1) & (parts < 0.2), parts >= 0.9
    return float(at_points[second].mean()), float(at_points[last].mean())


def measure(folder: Path, examples: int) -> tuple[dict[str, float], dict[str, float]]:
    source, data = folder / "source", folder / "data"
    write_source(source, examples)
    size = sum(file.stat().st_size for file in source.iterdir())
    copies = [copied(source, folder / "copy")]
    seconds, peak = packed(source, data)
    copies.append(copied(source, folder / "copy"))
    trained = check_packed(data, examples)
    shutil.rmtree(source)
    whole = Training(folder / "whole", -(-trained // 4096))
    whole.write(data)
    start = whole.start()
    memory = whole.watch()
    assert whole.process.wait() == 0, (whole.folder / "err.txt").read_text()
    result = json.loads((whole.folder / "out.txt").read_text())
    assert result["examples_used"] == trained, f"{result['examples_used']:,} examples used of {trained:,}"
    error = result["generalization_risk"]["error"]
    assert error < 0.02, f"a held-out error of {error:.3f}"
    halved = Training(folder / "halved", whole.steps)
    halved.write(data)
    halved.start()
    halved.watch(until=0.5)
    halved.end(signal.SIGKILL)
    before = halved.points()[-1][0]
    resume = halved.start("--resume")
    halved.end(signal.SIGTERM)
    tenth, last = tenths(memory, whole.points())
    figures = {
        "MB packed": size / 1e6,
        "packing, MB/s": size / 1e6 / seconds,
        "copying, MB/s": size / 1e6 / statistics.mean(copies),
        "packing, peak MB": peak / 1e6,
        "training, examples/s": result["examples_per_second"],
        "resident in the second tenth, MB": tenth / 1e6,
        "resident in the last tenth, MB": last / 1e6,
        "start, s": start,
        "resume, s": resume,
        "resumed after step": before,
        "of steps": whole.steps,
        "held-out error, %": 100 * error,
    }
    ratios = {
        "rss_growth": last / tenth,
        "pack_bytes_s_vs_copy": statistics.mean(copies) / seconds,
        "pack_peak_rss_vs_gib": peak / GIB,
    }
    return figures, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--examples", type=int, default=10**8)
    parser.add_argument("--folder", type=Path, help="where the data go; by default where temporary files do")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamtrain-scale-", dir=given.folder) as folder:
        figures, ratios = measure(Path(folder), given.examples)
    report(f"scale: {given.examples:,} examples of 68 bytes", figures, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
