"""Packing goes on where a killed process was, does not do finished parts again, and begins anew for another command."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamtrain.errors import ConfigError, StoreError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.shards import read_manifest
from tests.support.packing import files

OPTIONS = PackOptions((0.8, 0.2, 0.0), seed=3, shard_examples=40, memory_bytes=6_000)
KILLED = """
import os, signal, sys
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
calls = 0
def progress(phase, done, total):
    global calls
    calls += phase == sys.argv[4]
    if calls == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
make = append if sys.argv[1] == "append" else pack
make(sys.argv[2], sys.argv[3], PackOptions((0.8, 0.2, 0.0), seed=3, shard_examples=40, memory_bytes=6_000), progress)
"""


def save(folder: Path, examples: int = 900) -> Path:
    random = np.random.default_rng(examples)
    x = random.integers(0, 9, (examples, 5)).astype(np.int16)
    file = folder / f"{examples}.npz"
    np.savez(file, x=x, label=random.integers(0, 4, examples))
    return file


def killed(command: str, source: Path, dest: Path, phase: str, calls: int) -> None:
    """Does it in a process that kills itself at the so many-th word of progress in a phase."""
    words = [sys.executable, "-c", KILLED, command, str(source), str(dest), phase, str(calls)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


def finished(dest: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished run's keys and every finished shard's note."""
    root = dest.parent / f".{dest.name}.pack.partial"
    found = [*root.glob("*/runs/[0-9]*/keys"), *root.glob("*/shards/[a-z]*.json"), *root.glob("*/data/*/[0-9]*.tar")]
    return {str(file.relative_to(root)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


@pytest.mark.parametrize(("phase", "calls"), [("reading", 3), ("writing", 2), ("writing", 14)])
def test_a_killed_pack_goes_on_and_does_nothing_again(tmp_path: Path, phase: str, calls: int) -> None:
    source = save(tmp_path)
    pack(source, tmp_path / "whole", OPTIONS)
    dest = tmp_path / "a"
    killed("pack", source, dest, phase, calls)
    there = finished(dest)
    assert there and not dest.exists()
    kept: list[dict[str, tuple[int, int]]] = []
    told: list[tuple[str, int]] = []

    def progress(name: str, done: int, total: int | None) -> None:
        told.append((name, done))
        kept.append(finished(dest))

    pack(source, dest, OPTIONS, progress)
    assert all(seen[name] == mark for seen in kept for name, mark in there.items()), "a finished part was done again"
    assert told[0][1] > 0 and told[-1] == ("writing", 900)
    assert files(dest) == files(tmp_path / "whole") and not list(tmp_path.glob(".a*"))


def test_killed_again_and_again(tmp_path: Path) -> None:
    source, dest = save(tmp_path), tmp_path / "a"
    pack(source, tmp_path / "whole", OPTIONS)
    for phase, calls in (("reading", 2), ("reading", 2), ("writing", 2), ("writing", 3)):
        killed("pack", source, dest, phase, calls)
    pack(source, dest, OPTIONS)
    assert files(dest) == files(tmp_path / "whole")


@pytest.mark.parametrize("change", ["source", "seed"])
def test_another_command_or_source_begins_anew(tmp_path: Path, change: str) -> None:
    source, dest = save(tmp_path), tmp_path / "a"
    killed("pack", source, dest, "writing", 3)
    options = PackOptions((0.8, 0.2, 0.0), seed=4 if change == "seed" else 3, shard_examples=40)
    if change == "source":
        np.savez(source, x=np.ones((70, 5), np.int16), label=np.arange(70) % 4)
    assert pack(source, dest, options) == pack(source, tmp_path / "whole", options)
    assert files(dest) == files(tmp_path / "whole") and not list(tmp_path.glob(".a*"))


@pytest.mark.parametrize(("phase", "calls"), [("reading", 2), ("writing", 4)])
def test_a_killed_append_leaves_the_data_set_as_it_was(tmp_path: Path, phase: str, calls: int) -> None:
    source, more = save(tmp_path), save(tmp_path, 500)
    for name in ("a", "whole"):
        pack(source, tmp_path / name, OPTIONS)
    before = files(tmp_path / "a")
    killed("append", more, tmp_path / "a", phase, calls)
    assert files(tmp_path / "a") == before
    append(more, tmp_path / "whole", OPTIONS)
    assert append(more, tmp_path / "a", OPTIONS) == read_manifest(tmp_path / "a")
    assert files(tmp_path / "a") == files(tmp_path / "whole") and not list(tmp_path.glob(".a*"))


def interrupted(*_: object) -> None:
    """Ctrl-C; raised, not sent, since others in this process may have taken the signal."""
    raise KeyboardInterrupt


def test_what_an_append_killed_between_its_shards_and_its_manifest_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, more, fewer = save(tmp_path), save(tmp_path, 500), save(tmp_path, 60)
    for name in ("a", "whole"):
        pack(source, tmp_path / name, OPTIONS)
    manifest = read_manifest(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr("streamtrain.packing.append.write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            append(more, tmp_path / "a", OPTIONS)
    assert read_manifest(tmp_path / "a") == manifest and len(files(tmp_path / "a")) > len(files(tmp_path / "whole"))
    for name in ("a", "whole"):
        append(fewer, tmp_path / name, OPTIONS)
    assert files(tmp_path / "a") == files(tmp_path / "whole")


def test_a_full_disk_is_told_in_one_line_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, dest = save(tmp_path), tmp_path / "a"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("streamtrain.shards.shard_file.ShardWriter.close", full)
        with pytest.raises(
            StoreError, match=r"a: expected to write .*No space left on device; free space, or see that .*; the same"
        ):
            pack(source, dest, OPTIONS)
    assert finished(dest) and not dest.exists()
    assert pack(source, dest, OPTIONS) == read_manifest(dest)


def test_tasks_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="tasks: expected at least 1, found 0"):
        PackOptions(tasks=0)
