"""Packing 28×28 uint8 examples with a label, against MDSWriter; and the memory that packing takes.

    python -m tests.benchmarks.pack [--json]

Ours goes from an .npz to shards with the global shuffle, checksums and manifest; MDSWriter goes from memory, in the
source's order, with no checksum. Both in one process, warm page cache, alternating rounds; the content of what ours
wrote is checked against the source in the same run. The memory is the peak resident size of a process that packs
data four times as large as its bound, over the bound: `memory_bytes` and `PROCESS_BYTES` for interpreter and libraries.
A table with texts is packed and read as well: see `rows`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import ClassVar

import numpy as np

import streamtrain as st
from streamtrain.packing.making import PROCESS_BYTES
from tests.benchmarks.measuring import rates, report, wants_json
from tests.benchmarks.rows import row_speeds

EXAMPLES, FEW = 200_000, 40_000
ROUNDS = 5
MEMORY_BYTES = 64 << 20
TIMES = 4
"""The bounded data are so many times as large as the memory."""

PACK_AND_TELL = """
import re, sys
from pathlib import Path
from streamtrain.packing import PackOptions, pack
pack(sys.argv[1], sys.argv[2], PackOptions(splits=(1, 0, 0), memory_bytes=int(sys.argv[3]), tasks=int(sys.argv[4])))
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
"""Not getrusage's peak: a process begins with that of its parent."""


def small_examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count)


UNUSED = ("torchvision", "transformers", "brotli", "snappy", "zstd")
"""What the peer's package imports and its writer does not use; the first is not to be had for every torch."""


class Stub(types.ModuleType):
    """A module that has every name, each an empty class, and every module below it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stubs for packages that are missing."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        stub = name.partition(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if stub else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def mds_writer() -> type:
    """The peer's writer; stubs stand for what it does not use, where that is missing."""
    import torch  # noqa: F401 - before the stubs, which it would look at

    sys.meta_path.append(Stubs())
    from streaming import MDSWriter

    return MDSWriter


def check(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Every example once, with its label, in stored order."""
    from streamtrain.shards import stored_order

    found = st.open(folder)[0 : len(images)]
    order = stored_order(1, len(images))
    assert np.array_equal(found["image"], images[order]) and np.array_equal(found["label"], labels[order])


def speeds(root: Path) -> dict[str, float]:
    images, labels = small_examples(EXAMPLES)
    np.savez(root / "raw.npz", image=images, label=labels)
    writer = mds_writer()
    columns = {"image": "ndarray:uint8:28,28", "label": "int"}

    def ours() -> int:
        shutil.rmtree(root / "ours", ignore_errors=True)
        st.pack(root / "raw.npz", root / "ours", st.PackOptions(splits=(1, 0, 0), seed=1))
        return EXAMPLES

    def one_a_sample() -> int:
        shutil.rmtree(root / "alone", ignore_errors=True)
        st.pack(root / "raw.npz", root / "alone", st.PackOptions(splits=(1, 0, 0), seed=1, blocks=False))
        return EXAMPLES

    def mds() -> int:
        shutil.rmtree(root / "mds", ignore_errors=True)
        with writer(out=str(root / "mds"), columns=columns) as out:
            for number in range(FEW):
                out.write({"image": images[number], "label": int(labels[number])})
        return FEW

    found = rates({"ours": ours, "one_a_sample": one_a_sample, "mds": mds}, ROUNDS)
    check(root / "ours", images, labels)
    check(root / "alone", images, labels)
    return found


def peak_rss(root: Path, tasks: int) -> int:
    """Peak resident bytes of a process that packs more than its memory."""
    count = TIMES * MEMORY_BYTES // (28 * 28 + 8)
    if not (root / "large.npz").exists():
        images, labels = small_examples(count)
        np.savez(root / "large.npz", image=images, label=labels)
    words = [root / "large.npz", root / f"bounded{tasks}", MEMORY_BYTES, tasks]
    command = [sys.executable, "-c", PACK_AND_TELL, *map(str, words)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 10


def main() -> None:
    as_json = wants_json(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        found = speeds(Path(folder))
        row_figures, row_ratios = row_speeds(Path(folder), mds_writer())
        peaks = [peak_rss(Path(folder), tasks) for tasks in (1, 4)]
    figures = {f"{name}, examples/s": rate for name, rate in found.items()}
    figures |= {"peak MB": max(peaks) / 1e6, "bound MB": (MEMORY_BYTES + PROCESS_BYTES) / 1e6}
    ratios = {
        "pack_vs_mds": found["ours"] / found["mds"],
        "pack_one_a_sample_vs_mds": found["one_a_sample"] / found["mds"],
        "peak_rss_vs_bound": max(peaks) / (MEMORY_BYTES + PROCESS_BYTES),
    }
    figures, ratios = figures | row_figures, ratios | row_ratios
    report("pack: 28×28 uint8 and label", figures, ratios, as_json=as_json)


if __name__ == "__main__":
    main()
