"""The cache's rules, one at a time: bound, order of leaving, what is in use, what came wrong, what is not ours."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamtrain.errors import ConfigError, StoreError
from streamtrain.stream.fetch.cache import Cache, Pin, Wrong


@dataclass
class Thing:
    """Content that can be fetched; the first ``damaged`` copies come wrong."""

    content: bytes
    damaged: int = 0
    span: str = ""
    fetches: list[Path] = field(default_factory=list)

    @property
    def entry(self) -> str:
        return hashlib.sha256(self.content).hexdigest() + self.span

    place = "s3://b/train/000000.tar"

    @property
    def bytes(self) -> int:
        return len(self.content)

    def fetch(self, file: Path) -> Wrong | None:
        self.fetches.append(file)
        assert file.stat().st_size == self.bytes and not any(file.read_bytes())
        wrong = len(self.fetches) <= self.damaged
        file.write_bytes(self.content[::-1] if wrong else self.content)
        return self.check(file)

    def check(self, file: Path) -> Wrong | None:
        return None if file.read_bytes() == self.content else Wrong("all of it", "this", "that")


def things(count: int) -> list[Thing]:
    return [Thing(bytes([1, 2, number]) * 10) for number in range(count)]


def held(cache: Cache, thing: Thing) -> Pin:
    pin = cache.hold(thing, patience=0)
    assert pin is not None and pin.path.read_bytes() == thing.content
    return pin


def entries(cache: Cache) -> list[str]:
    return sorted(file.name for file in cache.folder.iterdir() if file.name != "counting")


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    cache, (thing,) = Cache(tmp_path / "deep" / "cache", 100), things(1)
    assert held(cache, thing).fetched and not held(cache, thing).fetched
    assert not held(Cache(cache.folder, 100), thing).fetched and len(thing.fetches) == 1


def test_the_least_recently_used_leaves(tmp_path: Path) -> None:
    cache, (a, b, c, d) = Cache(tmp_path, 90), things(4)
    for number, thing in enumerate((a, b, c, a)):
        held(cache, thing).release()
        os.utime(tmp_path / thing.entry, ns=((2**62 + number,) * 2))
    held(cache, d).release()
    assert entries(cache) == sorted(thing.entry for thing in (a, c, d))


def test_what_is_in_use_stays_and_what_is_dropped_goes(tmp_path: Path) -> None:
    cache, (a, b, c) = Cache(tmp_path, 60), things(3)
    first, second = held(cache, a), held(cache, a)
    other = held(cache, b)
    assert cache.hold(c, patience=0) is None and not c.fetches
    first.release(drop=True)
    assert cache.hold(c, patience=0) is None, "the second holder still has it"
    second.release(drop=True)
    assert entries(cache) == [b.entry]
    held(cache, c)
    del other


def test_a_pin_that_nobody_knows_any_more_holds_nothing(tmp_path: Path) -> None:
    cache, (a, b) = Cache(tmp_path, 30), things(2)
    held(cache, a)
    assert held(cache, b).fetched and entries(cache) == [b.entry]


def test_what_came_wrong_is_fetched_once_more(tmp_path: Path) -> None:
    thing = Thing(b"content", damaged=1)
    held(Cache(tmp_path, 100), thing)
    assert len(thing.fetches) == 2


def test_what_came_wrong_twice_stops_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    thing, cache = Thing(b"content", damaged=9), Cache(tmp_path, 100)
    with pytest.raises(StoreError, match=r"^s3://b/train/000000\.tar, all of it: expected this, found that, in two"):
        cache.hold(thing)
    assert len(thing.fetches) == 2 and entries(cache) == []


def test_what_was_there_before_the_machine_started_is_checked_again(tmp_path: Path) -> None:
    cache, (good, bad) = Cache(tmp_path, 100), things(2)
    for thing in (good, bad):
        held(cache, thing).release()
    (tmp_path / bad.entry).write_bytes(b"?" * 30)
    assert cache.hold(bad) is not None and len(bad.fetches) == 1, "in this uptime what arrived was checked"
    for thing in (good, bad):
        os.utime(tmp_path / thing.entry, (0, 0))
        held(cache, thing).release()
    assert (len(good.fetches), len(bad.fetches)) == (1, 2)
    (tmp_path / good.entry).write_bytes(b"short")
    held(cache, good).release()
    assert len(good.fetches) == 2


def test_unfinished_files_of_the_dead_go_and_files_of_others_stay(tmp_path: Path) -> None:
    cache, (a, b) = Cache(tmp_path, 60), things(2)
    dead = ["0" * 64 + ".partial", "1" * 64 + ".lock", f"{a.entry}.partial", f"{a.entry}.lock", "2" * 64 + "-5-90.lock"]
    for name in dead:
        (tmp_path / name).write_bytes(b"x" * 50)
    others = ["000000.tar", "manifest.json", "0" * 63, "A" * 64]
    for name in others:
        (tmp_path / name).write_bytes(b"y" * 1000)
    held(cache, a).release()
    held(cache, b).release()
    assert entries(cache) == sorted([a.entry, b.entry, *others])


def test_a_part_is_an_entry_as_others_are(tmp_path: Path) -> None:
    cache, (a, b, c) = Cache(tmp_path, 60), things(3)
    a.span, b.span = "-0-10", "-10-20"
    for thing in (a, b, c):
        held(cache, thing).release()
    assert entries(cache) == sorted([b.entry, c.entry])


def test_a_failed_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, (thing,) = Cache(tmp_path, 100), things(1)

    def full(_: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(thing, "fetch", full)
    with pytest.raises(StoreError, match=r"partial: expected to write s3://b/.*found OSError: disk full; make room"):
        cache.hold(thing)
    assert entries(cache) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache .*/file/x: expected a folder to write to"):
        Cache(tmp_path / "file" / "x", 1)
