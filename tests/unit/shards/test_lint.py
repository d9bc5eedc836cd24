"""`inspect --lint`: every fault is found where it is, opening refuses what is refused, and readers do what is said."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamtrain.cli.command import main
from streamtrain.errors import ManifestError, ShardError
from streamtrain.shards import FAULTS, lint, scan_foreign
from tests.support.datasets import pack_digits
from tests.support.foreign import as_npy, write_digits, write_tar
from tests.support.readers import by_hugging_face, by_ray_data, by_webdataset

GOOD = ["a.cls", "a.txt", "b.cls", "b.txt", "c.cls", "c.txt"]
PICKLE = b"cos\nmkdir\n(S'executed'\ntR."


def tar(*names: str, data: bytes = b"1", form: int = tarfile.USTAR_FORMAT) -> Callable[[Path], object]:
    return lambda folder: write_tar(folder / "train" / "0.tar", [(name, data) for name in names], form)


def changed(change: Callable[[bytes], bytes], *names: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        file = write_tar(folder / "train" / "0.tar", [(name, b"1") for name in names])
        file.write_bytes(change(file.read_bytes()))

    return make


def typed(kind: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "train").mkdir()
        with tarfile.open(folder / "train" / "0.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
            info = tarfile.TarInfo("a.x")
            info.type, info.linkname = kind, "a.txt"
            archive.addfile(info)

    return make


def sparse(form: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "train").mkdir()
        with (folder / "k.bin").open("wb") as file:
            file.truncate(1 << 20)
            file.seek(1 << 19)
            file.write(b"hi")
        command = ["tar", "--sparse", f"--format={form}", "-cf", "train/0.tar", "k.bin"]
        subprocess.run(command, cwd=folder, check=True)

    return make


def huge(form: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        file = write_tar(folder / "train" / "0.tar", [("a.bin", b"")], form)
        info = tarfile.TarInfo("b.bin")
        info.size = 8 << 30
        start = b"".join([file.read_bytes()[:512], info.tobuf(form)])
        file.write_bytes(start)
        with file.open("r+b") as opened:
            opened.truncate(len(start) + info.size + 1024)  # a hole: the file takes no room

    return make


def shards(**splits: list[str]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for split, names in splits.items():
            for number, name in enumerate(names):
                write_tar(folder / split / f"{number}.tar", [(name, b"1")])

    return make


CASES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str | None, int | None]]]] = {
    "good": (tar(*GOOD), []),
    "cut at a member border": (changed(lambda d: d[:4096], *GOOD), [("cut at a member border", None, 4096)]),
    "cut in content": (
        changed(lambda d: d[:3584], *GOOD),
        [("cut inside a member", "b.txt", 3072), ("other fields", "b", 2048)],
    ),
    "cut in the zeros after it": (changed(lambda d: d[:3600], *GOOD), [("cut inside a member", None, 4096)]),
    "cut in a header": (
        changed(lambda d: d[:3100], *GOOD),
        [("cut inside a member", "b.txt", 3072), ("other fields", "b", 2048)],
    ),
    "empty file": (changed(lambda d: b"", *GOOD), [("no examples", None, None)]),
    "no examples": (tar(), [("no examples", None, None)]),
    "damaged header": (
        changed(lambda d: d[:2048] + b"x" + d[2049:], *GOOD),
        [("damaged header", None, 2048), ("other fields", "b", 3072)],
    ),
    "joined by cat": (changed(lambda d: d + d, "a.txt"), [("content after the end", None, 10240)]),
    "one block of zeros": (changed(lambda d: d[:1536], "a.txt"), [("lone zero block", None, 1024)]),
    "compressed": (changed(lambda d: b"\x1f\x8b" + d, *GOOD), [("compressed", None, 0), ("no examples", None, None)]),
    "interleaved": (
        tar("a.txt", "b.txt", "a.txt", "b.txt"),
        [("interleaved", "a", 2048), ("interleaved", "b", 3072)],
    ),
    "duplicate member": (tar("a.txt", "a.txt"), [("duplicate member", "a", 1024)]),
    "duplicate key": (shards(train=["a.txt", "b.txt", "a.txt"]), [("duplicate key", "a", 0)]),
    "key in two splits": (shards(train=["a.txt", "b.txt"], test=["b.txt"]), [("key in two splits", None, None)]),
    "dotted key": (tar("v1.5.txt", "v1.6.txt"), [("dotted key", "v1", 0), ("dotted key", "v1", 1024)]),
    "field missing": (
        tar("a.cls", "a.txt", "b.cls", "c.txt"),
        [("other fields", "b", 2048), ("other fields", "c", 3072)],
    ),
    "field more": (tar("a.cls", "b.cls", "b.txt"), [("other fields", "b", 1024)]),
    "two members of a field": (tar("a.x.bin", "a.x.txt"), [("two members of a field", "a", 1024)]),
    "upper case": (tar("a.TXT", "b.txt"), [("upper-case extension", "a", 0)]),
    "over 8 GiB, GNU": (huge(tarfile.GNU_FORMAT), [("over 8 GiB", "b", 512)]),
    "over 8 GiB, pax": (huge(tarfile.PAX_FORMAT), [("over 8 GiB", "b", 1536)]),
    "pickled": (tar("a.pkl", "b.pkl", data=PICKLE), [("pickled", "a", 0), ("pickled", "b", 1024)]),
    "objects in npy": (
        tar("a.npy", data=as_npy(np.zeros(0)).replace(b"'<f8'", b"'|O' ")),
        [("pickled", "a", 0), ("unreadable", "a", 0)],
    ),
    "npy whose header does not end": (
        tar("a.npy", data=as_npy(np.zeros(0)).replace(b"'descr'", b"'descr(")),
        [("unreadable", "a", 0)],
    ),
    "line break in a name": (tar("a.\nTXT"), [("upper-case extension", "a", 0)]),
    "no number": (tar("a.cls", data=b"one"), [("unreadable", "a", 0)]),
    "no image": (tar("a.png"), [("unreadable", "a", 0)]),
    "leading dot": (tar("._a.txt", "a.txt"), [("no KEY.EXTENSION", "._a.txt", 0)]),
    "no extension": (
        tar("README", "a.txt", "b."),
        [("no KEY.EXTENSION", "README", 0), ("no KEY.EXTENSION", "b.", 2048)],
    ),
    "reserved": (tar("__a__/k.txt", "b.txt"), [("reserved name", "__a__/k", 0)]),
    "symbolic link": (typed(tarfile.SYMTYPE), [("link or device", "a.x", 512)]),
    "hard link": (typed(tarfile.LNKTYPE), [("link or device", "a.x", 512)]),
    "FIFO": (typed(tarfile.FIFOTYPE), [("link or device", "a.x", 512)]),
    "sparse, GNU": (sparse("gnu"), [("sparse", "k.bin", 0), ("no examples", None, None)]),
    "sparse, pax": (sparse("posix"), [("sparse", "k.bin", 0), ("no examples", None, None)]),
    "long name, GNU": (tar("x" * 120 + ".txt", form=tarfile.GNU_FORMAT), [("long name", "x" * 120, 1024)]),
    "long name, pax": (tar("x" * 120 + ".txt", form=tarfile.PAX_FORMAT), [("long name", "x" * 120, 1024)]),
    "not UTF-8": (tar("\udce9.txt", form=tarfile.GNU_FORMAT), [("not UTF-8", "\ufffd", 0)]),
    "unsorted": (tar("a.txt", "a.cls"), [("unsorted", "a", 0)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_fault_is_found_where_it_is_and_opening_refuses_what_is_refused(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    make(tmp_path)
    found = list(lint(tmp_path))
    assert [(finding.kind, finding.key, finding.offset) for finding in found] == expected
    refused = [finding for finding in found if FAULTS[finding.kind].refused]
    if not refused:
        assert scan_foreign(tmp_path).order == "unknown"
        return
    with pytest.raises(ShardError) as raised:
        scan_foreign(tmp_path)
    message = str(raised.value)
    assert message.isprintable()
    assert any(str(tmp_path / finding.shard) in message for finding in refused)
    offsets = {f"at byte {finding.offset}:" for finding in refused if finding.offset is not None}
    if case != "field more":  # its example is the last one, and `pack.shard` does not tell where that began
        assert not offsets or any(offset in message for offset in offsets), message
    keys = {finding.key for finding in refused if finding.offset is not None and finding.key is not None}
    assert not keys or case == "cut in a header" or any(key in message for key in keys), message


def test_all_kinds_are_tried() -> None:
    assert {kind for _, findings in CASES.values() for kind, _, _ in findings} == set(FAULTS)


def outcome(read: Callable[..., list[dict[str, Any]]], folder: Path) -> object:
    """Key -> fields of what a reader gives; the error's name where it fails."""
    try:
        return [
            (example["__key__"], *sorted(example.keys() - {"__key__"}))
            for example in read(*sorted(folder.glob("train/*")))
        ]
    except (tarfile.TarError, ValueError) as error:
        return type(error).__name__


HALF = [("a", "cls", "txt"), ("b", "cls", "txt"), ("c", "cls", "txt")]
FACTS: dict[str, tuple[object, ...]] = {
    "good": (HALF, HALF, HALF),
    "cut at a member border": (HALF[:2],) * 3,
    "cut in content": ("ReadError",) * 3,
    "cut in the zeros after it": ("ReadError",) * 3,
    "cut in a header": ([HALF[0], ("b", "cls")],) * 3,
    "damaged header": (HALF[:1],) * 3,
    "joined by cat": ([("a", "txt")],) * 3,
    "one block of zeros": ([("a", "txt")],) * 3,
    "interleaved": ([("a", "txt"), ("b", "txt")] * 2, "ValueError", [("a", "txt"), ("b", "txt")] * 2),
    "duplicate member": ("ValueError",) * 3,
    "duplicate key": ([("a", "txt"), ("b", "txt"), ("a", "txt")],) * 3,
    "dotted key": ([("v1", "5.txt", "6.txt")],) * 3,
    "field missing": ([("a", "cls", "txt"), ("b", "cls"), ("c", "txt")],) * 3,
    "upper case": ([("a", "txt"), ("b", "txt")], [("a", "TXT"), ("b", "txt")], [("a", "TXT"), ("b", "txt")]),
    "leading dot": ([("a", "txt")],) * 3,
    "no extension": ([("a", "txt"), ("b", "")],) * 3,
    "reserved": ([("b", "txt")], [("__a__/k", "txt"), ("b", "txt")], [("__a__/k", "txt"), ("b", "txt")]),
    "symbolic link": ([("a", "txt")],) * 3,
    "hard link": ([("a", "txt")],) * 3,
    "FIFO": ([("a", "txt")],) * 3,
    "sparse, GNU": ([("k", "bin")],) * 3,
    "long name, GNU": ([("x" * 120, "txt")],) * 3,
    "long name, pax": ([("x" * 120, "txt")],) * 3,
    "not UTF-8": ([("\udce9", "txt")],) * 3,
    "unsorted": ([("a", "cls", "txt")],) * 3,
}  # fmt: skip


@pytest.mark.parametrize("case", FACTS)
def test_readers_do_what_the_findings_say(case: str, tmp_path: Path) -> None:
    CASES[case][0](tmp_path)
    read = tuple(outcome(reader, tmp_path) for reader in (by_webdataset, by_ray_data, by_hugging_face))
    assert read == FACTS[case]


def test_webdataset_executes_what_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    monkeypatch.chdir(tmp_path)
    data = b"cos\nmkdir\n(S'executed'\ntR."
    file = write_tar(tmp_path / "0.tar", [("a.pkl", data)])
    list(webdataset.WebDataset(str(file), shardshuffle=False, empty_check=False).decode())
    assert (tmp_path / "executed").is_dir()


def test_our_own_shards_have_no_findings(tmp_path: Path) -> None:
    pack_digits(tmp_path / "a")
    assert not list(lint(tmp_path / "a"))


def test_all_findings_are_listed_not_only_the_first(tmp_path: Path) -> None:
    write_digits(tmp_path, range(40), shard_examples=10)
    for number in (1, 3):
        with tarfile.open(tmp_path / "train" / f"000{number}.tar", "a") as archive:
            for name in (f"z{number}.JPG", f".z{number}", f"y{number}.pt"):
                archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    found = [(finding.kind, finding.shard, finding.key) for finding in lint(tmp_path)]
    assert found == [
        (kind, f"train/000{number}.tar", key)
        for number in (1, 3)
        for kind, key in (
            ("upper-case extension", f"z{number}"),
            ("no KEY.EXTENSION", f".z{number}"),
            ("other fields", f"z{number}"),
            ("pickled", f"y{number}"),
            ("other fields", f"y{number}"),
        )
    ]


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected manifest\.json, or train/\*\.tar"):
        list(lint(tmp_path))


def test_the_command_lists_them_by_kind_with_what_readers_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar("a.txt", "b.txt", *["a.txt", "b.txt"] * 8)(tmp_path)
    with pytest.raises(SystemExit, match="3"):
        main(["inspect", str(tmp_path), "--lint"])
    shown = capsys.readouterr().out
    assert "16 findings for which the data set is refused, 0 that are only noted" in shown
    assert "interleaved (refused, 16): the members of an example do not stand together" in shown
    assert "  Ray Data: fails with ValueError\n" in shown
    assert "  - train/0.tar, 'a', at byte 2048: its key again\n" in shown
    assert "  … and 6 more (--json)" in shown
    pack_digits(tmp_path / "ours")
    main(["inspect", str(tmp_path / "ours"), "--lint", "--json"])
    assert json.loads(capsys.readouterr().out)["findings"] == []
