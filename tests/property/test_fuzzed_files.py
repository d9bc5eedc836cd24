"""Tars and manifests altered at random: one of the documented errors or an answer, never anything else.

A read outside the file shows as content that is not in the file, or as a killed process; a scan that does not end as
pytest's time limit.
"""

import functools
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamtrain.errors import DataError, ManifestError, ShardError, StreamtrainError
from streamtrain.shards import FAULTS, FILE, lint, read_manifest, scan_foreign
from streamtrain.shards.shard import examples, members
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from tests.support.datasets import pack_digits
from tests.support.foreign import as_npy, write_tar

FUZZED = settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADER_FIELDS = [(0, 100), (100, 108), (124, 136), (148, 156), (156, 157), (257, 265), (345, 500)]
NUMBERS = [
    b"",
    b"-1",
    b"0",
    b"777",
    b"00000001000",
    b"77777777777",
    b"9" * 12,
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b" 12 ",
]
KINDS = [b"0", b"\0", b"1", b"2", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"M", b"\xff"]
PAX = [b"11 size=0\n", b"14 size=99999\n", b"999 path=x\n", b"0 a=b\n", b"-5 a=b\n", b"9" * 5000 + b" a=b\n",
       b"6 a=b\n12 path=k.\xff\n", b"22 GNU.sparse.major=1\n", b"5017 size=" + b"9" * 5006 + b"\n"]  # fmt: skip


def sums_up(block: bytearray) -> bytearray:
    """The header with a checksum that fits, so that what comes after it is reached."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return block


@functools.cache
def whole_tar(form: int, prefix: str) -> bytes:
    """A tar with arrays, numbers and texts, and short or long names."""
    array = as_npy(np.arange(40, dtype=np.float32))
    contents = [
        (f"{prefix}{number}.{kind}", data)
        for number in range(3)
        for kind, data in (("cls", b"%d" % number), ("npy", array), ("txt", b"t" * 600 * number))
    ]
    with tempfile.TemporaryDirectory() as folder:
        return write_tar(Path(folder) / "x.tar", contents, form).read_bytes()


WHOLE = [
    (tarfile.USTAR_FORMAT, ""),
    (tarfile.USTAR_FORMAT, "d/"),
    (tarfile.GNU_FORMAT, ""),
    (tarfile.GNU_FORMAT, "ä" * 60),
    (tarfile.PAX_FORMAT, ""),
    (tarfile.PAX_FORMAT, "ä" * 60),
]

place = st.integers(0, 60)
values = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(KINDS), st.binary(max_size=20))
changes = st.lists(
    st.one_of(
        st.tuples(st.just("header"), place, st.sampled_from(HEADER_FIELDS), values, st.booleans()),
        st.tuples(st.just("header"), place, st.just((156, 157)), st.sampled_from(KINDS), st.just(True)),
        st.tuples(st.just("header"), place, st.just((124, 136)), st.sampled_from(NUMBERS), st.just(True)),
        st.tuples(st.just("pax"), place, st.integers(0, len(PAX) - 1)),
        st.tuples(st.just("flip"), st.integers(0, 1 << 16), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(0, 1 << 16)),
    ),
    max_size=4,
)
"""What is done to a tar: headers' fields, with or without a right checksum; pax headers put in; bytes; cuts."""


def altered(data: bytearray, change: tuple[Any, ...]) -> None:
    """Does one of the changes."""
    kind, at, *rest = change
    block = at % max(len(data) // 512, 1) * 512
    if kind == "header":
        (start, stop), value, right = rest
        header = data[block : block + 512].ljust(512, b"\0")
        header[start:stop] = value.ljust(stop - start, b"\0")[: stop - start]
        data[block : block + 512] = sums_up(header) if right else header
    elif kind == "pax":
        content = PAX[rest[0]]
        info = tarfile.TarInfo("pax")
        info.type, info.size = b"x", len(content)
        data[block:block] = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
    elif kind == "flip" and data:
        data[at % len(data)] ^= rest[0]
    elif kind == "cut":
        first, last = sorted((at % (len(data) + 1), rest[0] % (len(data) + 1)))
        del data[first:last]


@FUZZED
@given(whole=st.sampled_from(WHOLE), changed=changes)
def test_a_fuzzed_tar_is_read_or_refused_and_nothing_else(
    whole: tuple[int, str], changed: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(whole_tar(*whole))
    for change in changed:
        altered(data, change)
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "train").mkdir()
    file = folder / "train" / "0.tar"
    file.write_bytes(data)
    for scan in (members, examples):
        try:
            list(scan(file))
        except ShardError as error:
            assert "\n" not in str(error)
    inside(file, data)
    refused = [finding for finding in lint(folder) if FAULTS[finding.kind].refused]
    try:
        manifest = scan_foreign(folder)
    except DataError as error:
        assert refused, f"opening refuses what lint does not list: {error}"
        return
    assert not refused, f"lint lists what opening does not refuse: {refused}"
    reader = Reader(LocalFiles(folder, verify=False), manifest, "train", [field.name for field in manifest.fields])
    try:
        reader.read(0, len(reader))
    except StreamtrainError as error:
        assert str(file) in str(error)


def inside(file: Path, data: bytearray) -> None:
    """Every member that is told lies within the file, after its header, and the offsets go up."""
    end = 0
    try:
        for member in members(file):
            assert end <= member.header < member.start == member.header + 512
            assert member.size >= 0 and member.start + member.size <= len(data)
            end = member.start + member.size
    except ShardError:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8) | st.just("../../etc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "digits"
    pack_digits(folder, examples=60)
    return folder


def places(card: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    inner = card.items() if isinstance(card, dict) else enumerate(card) if isinstance(card, list) else ()
    return [path, *(place for name, value in inner for place in places(value, (*path, name)))]


@FUZZED
@given(where=st.integers(0, 10**6), value=JSON, remove=st.booleans())
def test_a_fuzzed_manifest_is_read_or_refused_and_nothing_else(
    where: int, value: object, remove: bool, packed: Path
) -> None:
    whole = (packed / FILE).read_text()
    try:
        card = json.loads(whole)
        found = places(card)
        *path, last = found[1 + where % (len(found) - 1)]
        inner = card
        for step in path:
            inner = inner[step]
        if remove:
            del inner[last]
        else:
            inner[last] = value
        (packed / FILE).write_text(json.dumps(card))
        outcome_of_manifest(packed)
    finally:
        (packed / FILE).write_text(whole)


@FUZZED
@given(changed=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=4), st.integers(0, 300)), max_size=3))
def test_a_manifest_of_other_bytes_is_read_or_refused_and_nothing_else(
    changed: list[tuple[int, bytes, int]], packed: Path
) -> None:
    whole = (packed / FILE).read_bytes()
    data = bytearray(whole)
    for place, piece, removed in changed:
        at = place % (len(data) + 1)
        data[at : at + removed] = piece
    try:
        (packed / FILE).write_bytes(data)
        outcome_of_manifest(packed)
    finally:
        (packed / FILE).write_bytes(whole)


def outcome_of_manifest(folder: Path) -> None:
    """Refused as a manifest, or taken; then a reader reads, or says in one line what does not fit."""
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return
    for split in manifest.splits:
        assert all(
            len(Path(shard.file).parts) == 2 and ".." not in shard.file for shard in manifest.splits[split].shards
        )
        try:
            reader = Reader(LocalFiles(folder), manifest, split, [field.name for field in manifest.fields])
            if len(reader):
                reader.read(0, len(reader))
        except StreamtrainError as error:
            assert "\n" not in str(error)
