"""Shards and manifests: the profile, other people's tars, and whatever is cut short or altered."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from streamtrain.errors import DataError, ManifestError, ShardError
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import read_manifest, scan_foreign, stored_order, verify
from streamtrain.shards.shard import examples, header, members
from tests.support.datasets import digits, pack_digits, save_digits


def test_same_seed_and_input_give_the_same_bytes(tmp_path: Path) -> None:
    first = pack_digits(tmp_path / "a")
    second = pack_digits(tmp_path / "b", PackOptions(seed=3, shard_examples=500, memory_bytes=100_000))
    assert first == second and first.digest == second.digest
    for file in (tmp_path / "a").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    assert pack_digits(tmp_path / "c", PackOptions(seed=4, shard_examples=500)).digest != first.digest


def test_splits_are_disjoint_exact_and_cover_everything(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(splits=(0.7, 0.2, 0.1)))
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 1258,
        "validation": 359,
        "test": 180,
    }
    keys = [key for file in sorted((tmp_path / "a").glob("*/*.tar")) for key, _ in examples(file)]
    assert len(keys) == len(set(keys)) == 1797
    counts = [sum(split.class_counts.get(digit, 0) for split in manifest.splits.values()) for digit in range(10)]
    assert counts == np.bincount(digits()[1]).tolist()


def test_shards_are_in_the_profile_that_every_reader_accepts(tmp_path: Path) -> None:
    pack_digits(tmp_path / "a", PackOptions(shard_bytes=400_000))
    files = sorted((tmp_path / "a" / "train").glob("*.tar"))
    assert len(files) > 5 and all(file.stat().st_size <= 400_000 for file in files)
    data = files[0].read_bytes()
    assert data[257:265] == b"ustar\x0000" and not any(data[-1024:])
    with tarfile.open(files[0]) as archive:
        members = archive.getmembers()
    assert {(m.mode, m.uid, m.gid, m.mtime, m.type) for m in members} == {(0o644, 0, 0, 0, tarfile.REGTYPE)}
    names = [member.name for member in members]
    assert names == sorted(names)
    listed = subprocess.run(["tar", "tf", files[0]], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == names and not listed.stderr


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    pack_digits(tmp_path / "a")
    shards = sorted(str(file) for file in (tmp_path / "a").glob("*/*.tar"))
    read = (
        webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode().to_tuple("image.npy", "label.cls")
    )
    images, labels = digits()
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    assert sorted((image.tobytes(), label) for image, label in read) == expected


def test_webdataset_reads_in_stored_order(tmp_path: Path) -> None:
    pack_digits(tmp_path / "a")
    shards = [str(f) for split in ("train", "validation", "test") for f in sorted((tmp_path / "a" / split).iterdir())]
    read = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode()
    images, labels = digits()
    for example, number in zip(read, stored_order(3, 1797), strict=True):
        assert np.array_equal(example["image.npy"], images[number]) and example["label.cls"] == labels[number]


def foreign_tar(file: Path, kind: int = tarfile.GNU_FORMAT, prefix: str = "") -> None:
    with tarfile.open(file, "w", format=kind) as archive:
        for number in range(5):
            for extension, data in (("cls", b"%d" % number), ("txt", b"text %d" % number)):
                info = tarfile.TarInfo(f"{prefix}{number:03d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "folder/", "long/" * 18, "längs/" + "x" * 120])
def test_tars_of_every_format_are_read(kind: int, prefix: str, tmp_path: Path) -> None:
    if kind == tarfile.USTAR_FORMAT and "längs" in prefix:
        pytest.skip("USTAR cannot hold this name")
    foreign_tar(tmp_path / "x.tar", kind, prefix)
    data = (tmp_path / "x.tar").read_bytes()
    found = [
        (key, {e: data[s : s + n] for e, (s, n) in members.items()}) for key, members in examples(tmp_path / "x.tar")
    ]
    assert found == [(f"{prefix}{n:03d}", {"cls": b"%d" % n, "txt": b"text %d" % n}) for n in range(5)]


def test_gnu_tar_with_folders(tmp_path: Path) -> None:
    (tmp_path / "raw" / "deep").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "raw" / "deep" / f"{number}.cls").write_text(str(number))
    subprocess.run(["tar", "cf", tmp_path / "x.tar", "-C", tmp_path / "raw", "--sort=name", "deep"], check=True)
    assert [key for key, _ in examples(tmp_path / "x.tar")] == [f"deep/{n}" for n in range(4)]


def scanned(tmp_path: Path, names: list[str]) -> list[str]:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return [key for key, _ in examples(tmp_path / "x.tar")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.x", "b.x", "a.y", "b.y"],
            r"'a', at byte 1024: expected an example's members together, found its key again",
        ),
        (["a.x", "a.x"], "'a', at byte 512: expected one member .x, found two"),
        (["a.x", "a.y", "b.x"], r"'b'.*: expected the members .x, .y as in the first example, found .x"),
        (["a.JPG"], "'a.JPG', at byte 0: expected a lower-case extension, found 'JPG'"),
        (["a"], "'a', at byte 0: expected a name KEY.EXTENSION, found 'a'"),
        ([".hidden"], "expected a name KEY.EXTENSION, found '.hidden'"),
        (["a.image.pickle"], r"expected data, found a \.image\.pickle"),
    ],
)
def test_promise_9_and_10_other_layouts_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=message):
        scanned(tmp_path, names)


def test_a_negative_size_does_not_lead_back_to_the_same_header(tmp_path: Path) -> None:
    block = bytearray(header(b"a.txt", 0))
    block[124:136] = b"-0000001000\0"
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * ord(" "))
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(ShardError, match="at byte 0: expected a tar header, found other bytes"):
        list(members(tmp_path / "x.tar"))


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    """GNU tar writes them as regular members that hold a map of pieces, not the file's content."""
    with (tmp_path / "k.bin").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"hi")
    command = ["tar", "--sparse", "--format=posix", "-cf", tmp_path / "x.tar", "-C", tmp_path, "k.bin"]
    subprocess.run(command, check=True)
    with pytest.raises(ShardError, match="expected regular files only, found a sparse file"):
        list(members(tmp_path / "x.tar"))


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1])
def test_our_header_is_the_one_that_tarfile_writes(size: int) -> None:
    info = tarfile.TarInfo("000042.image.npy")
    info.size = size
    theirs = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    ours = bytearray(header(b"000042.image.npy", size))
    for device in (slice(329, 345), slice(148, 156)):  # device numbers, zero or empty; and so the checksum
        theirs[device] = ours[device]
    assert ours == theirs
    assert tarfile.TarInfo.frombuf(header(b"a.b", size), "ascii", "strict").size == size


def test_two_members_of_one_field_are_refused_in_foreign_shards(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "0.tar", "w") as archive:
        for name in ("k.seg.bin", "k.seg.txt"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(
        ShardError, match=r"'k', at byte 512: expected one member for a field, .* found \.seg\.bin, \.seg\.txt"
    ):
        scan_foreign(tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ShardError, match=r"'a\.txt', at byte 0: expected regular files only, found a symbolic link"):
        list(examples(tmp_path / "x.tar"))


@pytest.mark.parametrize("keep", [0, 100, 512, 1024, 1500, 2048, 4 * 1024])
def test_a_tar_cut_anywhere_is_noticed(keep: int, tmp_path: Path) -> None:
    """Also between two members, where `tarfile` and WebDataset read it without a word."""
    foreign_tar(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"cut short|expected a tar, found ValueError"):
        list(examples(tmp_path / "x.tar"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2048])


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(data)


def test_a_cut_shard_is_noticed_at_open_and_an_altered_one_by_its_checksum(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = pack_digits(folder)
    shard = manifest.splits["train"].shards[1]
    verify(folder, shard)
    altered(folder / shard.file)
    assert read_manifest(folder) == manifest
    with pytest.raises(ShardError, match=r"000001\.tar: expected SHA-256 .*it was altered"):
        verify(folder, shard)
    cut(folder / shard.file)
    with pytest.raises(ManifestError, match=rf"000001\.tar: expected {shard.bytes} bytes, found {shard.bytes - 2048}"):
        read_manifest(folder)
    (folder / shard.file).unlink()
    with pytest.raises(ManifestError, match="expected a shard, found no such file"):
        read_manifest(folder)


def rewrite(change: Callable[[dict], object]) -> Callable[[str], str]:
    def rewritten(text: str) -> str:
        card = json.loads(text)
        change(card)
        return json.dumps(card)

    return rewritten


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite(lambda c: c.update(streamtrain_manifest=3)), "expected manifest version 2, found version 3; update"),
        (lambda text: text[:-200], "expected the manifest that `streamtrain pack` wrote, found JSONDecodeError"),
        (lambda _: "[]", "found TypeError"),
        (rewrite(lambda c: c.pop("fields")), "found KeyError: 'fields'"),
        (rewrite(lambda c: c["shardlist"][0].update(examples=-1)), "-1 is not a count"),
        (rewrite(lambda c: c["shardlist"].pop()), "counts other examples than its shards"),
    ],
)
def test_damaged_and_newer_manifests_are_refused(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    pack_digits(tmp_path / "a")
    file = tmp_path / "a" / "manifest.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "a")


def test_promise_9_no_name_in_a_manifest_is_used_as_a_path(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a")
    file = tmp_path / "a" / "manifest.json"
    file.write_text(rewrite(lambda c: c["shardlist"][0].update(url="../../etc/passwd"))(file.read_text()))
    assert read_manifest(tmp_path / "a") == manifest


def test_foreign_shards_get_a_manifest_by_looking(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for number in (9, 10):
            foreign_tar(tmp_path / split / f"s{number}.tar", prefix=f"{number}-")
    manifest = scan_foreign(tmp_path)
    assert manifest.order == "unknown" and manifest.label == "cls"
    assert [(f.name, f.dtype, f.low, f.high) for f in manifest.fields] == [
        ("cls", "int64", 0, 4),
        ("txt", None, None, None),
    ]
    assert [s.file for s in manifest.splits["train"].shards] == ["train/s9.tar", "train/s10.tar"]
    assert manifest.splits["validation"].class_counts == dict.fromkeys(range(5), 2)


def test_an_interrupted_pack_leaves_nothing_that_train_would_accept(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz")
    code = f"""
import os, signal
from streamtrain.packing import pack
def progress(phase, done, total):
    if phase == "writing" and done:
        os.kill(os.getpid(), signal.SIGKILL)
pack({str(source)!r}, {str(tmp_path / "a")!r}, progress=progress)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "a").exists() and list(tmp_path.glob(".a.*.partial"))
    with pytest.raises(DataError):
        read_manifest(tmp_path / "a")
    assert pack(str(source), tmp_path / "a") == read_manifest(tmp_path / "a")
    assert not list(tmp_path.glob(".a.*"))


def test_ctrl_c_during_an_import_is_not_lost() -> None:
    """Sent to a process of its own, since others in this one may have taken the signal."""
    code = """
import os, signal
from streamtrain.cli.interrupts import interrupts_held
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupts_held():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            print("taken for a library that is missing")
        print("imported")
    print("gone on")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["imported", "interrupted True", ""]


def test_ctrl_c_during_pack_says_that_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "from pathlib import Path\n"
        "def examples():\n"
        "    for number in range(10**9):\n"
        "        if number == 1000:\n"
        "            Path('begun').touch()\n"
        "        yield {'x': 1}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "streamtrain", "pack", "endless:examples", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == ("streamtrain pack: interrupted; no data set was written, and nothing half-written was left")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "__pycache__") == ["begun", "endless.py"]
