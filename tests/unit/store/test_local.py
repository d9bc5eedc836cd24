"""Whole or not at all: files, folders, and what dead processes left."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrain.errors import ConfigError
from streamtrain.store import local_path, new_folder, sha256_of, write_whole


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_write_whole_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"first")
    write_whole(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second" and names(tmp_path) == ["a"]
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"second").hexdigest()


def test_write_whole_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", b"first")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and names(tmp_path) == ["a"]


def test_files_get_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    """A manifest that only its writer may read makes shards on a shared disk useless to others."""
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "a", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")]
    assert modes[0] == modes[1]


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "[a]*") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "deep" / "[a]*").exists()
    assert names(tmp_path / "deep") == ["[a]*"] and names(tmp_path / "deep" / "[a]*") == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_new_folder_goes_when_the_block_fails(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def fill() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "x").write_text("x")
            raise error

    with pytest.raises(error):
        fill()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == []


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale, live = f".a.{dead.pid}.partial", f".a.{os.getppid()}.partial"
    others = [f".a.b.{dead.pid}.partial", ".a.notes.partial", f".b.{dead.pid}.partial"]
    for name in (stale, live, *others):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == sorted(["a", live, *others])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: (d.mkdir(), (d / "x").write_text("")), "a new or empty folder, found a folder that is not empty"),
        (lambda d: d.write_text(""), "a new or empty folder, found a file"),
        (lambda d: d.parent.rmdir() or d.parent.write_text(""), "to make a folder in .*, found (FileExists|NotADirec)"),
    ],
)
def test_destinations_that_are_refused(make, message: str, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    make(tmp_path / "up" / "a")
    with pytest.raises(ConfigError, match=f"a: expected {message}") as raised, new_folder(tmp_path / "up" / "a"):
        pass
    assert "\n" not in str(raised.value)


def test_local_path(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == local_path(tmp_path.as_uri()) == tmp_path
    assert local_path("a/b") == Path.cwd() / "a" / "b" and local_path((tmp_path / "a b").as_uri()) == tmp_path / "a b"
    assert local_path("s3://bucket/a") is None and local_path("https://host/a") is None
