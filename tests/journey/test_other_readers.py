"""The same set of (key, field, SHA-256) by every reader out of our shards, and by us out of every writer's."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from streamtrain.packing import PackOptions, pack
from streamtrain.shards import scan_foreign
from streamtrain.shards.shard import examples
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from tests.support.datasets import digits
from tests.support.foreign import as_npy, write_tar
from tests.support.readers import by_tarfile, by_webdataset, plain

Contents = set[tuple[str, str, str]]
NUMBER = 60
BSDTAR = shutil.which("bsdtar")
no_bsdtar = pytest.mark.skipif(BSDTAR is None, reason="no bsdtar on this machine; .ci/run installs one where it can")


def source() -> Iterator[dict[str, Any]]:
    """Real images as PNG and as arrays, with their label, a text and JSON."""
    import io

    images, labels = digits(NUMBER)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        text = f"Ziffer № {number} ist {label}"
        yield {"picture": stream.getvalue(), "array": image, "label": int(label), "text": text, "more": {"n": [number]}}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Our shards."""
    folder = tmp_path_factory.mktemp("ours")
    pack(f"{__name__}:source", folder / "packed", PackOptions(splits=(1, 0, 0), seed=2, shard_examples=25))
    return sorted((folder / "packed" / "train").glob("*.tar"))


def contents(found: list[dict[str, Any]]) -> Contents:
    return {
        (example["__key__"], name, hashlib.sha256(data).hexdigest())
        for example in found
        for name, data in example.items()
        if name != "__key__"
    }


def by_us(*files: Path) -> Contents:
    found = []
    for file in files:
        data = file.read_bytes()
        for key, members in examples(file):
            found.append({"__key__": key, **{name: data[at : at + size] for name, (at, size) in members.items()}})
    return contents(found)


def files_of(folder: Path) -> Contents:
    """What a tar program extracted."""
    found: Contents = set()
    for file in folder.rglob("*"):
        if file.is_file():
            key, _, extension = file.name.partition(".")
            place = str((file.parent / key).relative_to(folder))
            found.add((place, extension, hashlib.sha256(file.read_bytes()).hexdigest()))
    return found


def extracted(program: str) -> Callable[[list[Path], Path], Contents]:
    def read(files: list[Path], folder: Path) -> Contents:
        for file in files:
            subprocess.run([program, "-xf", file, "-C", folder], check=True)
        return files_of(folder)

    return read


def by_hugging_face(files: list[Path], folder: Path) -> Contents:
    """`load_dataset` as its users call it, told to leave members as they are."""
    import datasets
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebDataset, "DECODERS", {})
        names = [str(file) for file in files]
        read = datasets.load_dataset("webdataset", data_files={"train": names}, split="train", streaming=True)
        read = read.cast_column("picture.png", datasets.Image(decode=False))
        return contents([{**plain(each), "picture.png": each["picture.png"]["bytes"]} for each in read])


READERS: dict[str, Callable[[list[Path], Path], Contents]] = {
    "webdataset": lambda files, _: contents(by_webdataset(*files)),
    "tarfile": lambda files, _: contents(by_tarfile(*files)),
    "Hugging Face datasets": by_hugging_face,
    "GNU tar": extracted("tar"),
    "bsdtar": extracted("bsdtar"),
}


@pytest.mark.parametrize("reader", [pytest.param(name, marks=[no_bsdtar] * (name == "bsdtar")) for name in READERS])
def test_all_readers_find_the_same_in_our_shards(reader: str, ours: list[Path], tmp_path: Path) -> None:
    expected = by_us(*ours)
    assert len(expected) == 5 * NUMBER and len(ours) == 3
    assert READERS[reader](ours, tmp_path) == expected


def test_ray_data_finds_the_same_in_our_shards(ours: list[Path], without_shared_ray: None) -> None:
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        read = ray.data.read_webdataset([str(file) for file in ours], decoder=None, override_num_blocks=1).take_all()
    finally:
        ray.shutdown()
    assert contents([plain(example) for example in read]) == by_us(*ours)


def raw_files(folder: Path, prefix: str) -> Path:
    """The same members as files in a folder, for programs that make tars of files."""
    for number, values in enumerate(source()):
        place = folder / prefix
        place.mkdir(parents=True, exist_ok=True)
        (place / f"k{number:03d}.png").write_bytes(values["picture"])
        (place / f"k{number:03d}.npy").write_bytes(as_npy(values["array"]))
        (place / f"k{number:03d}.cls").write_text(str(values["label"]))
    return folder


def with_program(program: str, form: str) -> Callable[[Path, Path], None]:
    def write(raw: Path, file: Path) -> None:
        names = sorted(str(found.relative_to(raw)) for found in raw.rglob("*") if found.is_file() or found.is_dir())
        command = [program, f"--format={form}", "-cf", str(file), "--no-recursion", *names]
        subprocess.run(command, cwd=raw, check=True)

    return write


def with_tarfile(form: int) -> Callable[[Path, Path], None]:
    def write(raw: Path, file: Path) -> None:
        found = sorted(found for found in raw.rglob("*") if found.is_file())
        write_tar(file, [(str(each.relative_to(raw)), each.read_bytes()) for each in found], form)

    return write


def with_shard_writer(raw: Path, file: Path) -> None:
    with webdataset.TarWriter(str(file), encoder=False) as writer:
        for image in sorted(raw.rglob("*.png")):
            parts = {kind: image.with_suffix(f".{kind}").read_bytes() for kind in ("cls", "npy", "png")}
            writer.write({"__key__": str(image.relative_to(raw).with_suffix("")), **parts})


def with_several_shards(raw: Path, file: Path) -> None:
    with webdataset.ShardWriter(str(file.parent / "%06d.tar"), maxcount=17, encoder=False, verbose=0) as writer:
        for image in sorted(raw.rglob("*.png")):
            parts = {kind: image.with_suffix(f".{kind}").read_bytes() for kind in ("cls", "npy", "png")}
            writer.write({"__key__": str(image.relative_to(raw).with_suffix("")), **parts})


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "ShardWriter": with_several_shards,
    "TarWriter": with_shard_writer,
    **{f"GNU tar {form}": with_program("tar", form) for form in ("v7", "oldgnu", "gnu", "ustar", "posix")},
    **{f"bsdtar {form}": with_program("bsdtar", form) for form in ("ustar", "pax", "gnutar", "v7")},
    "tarfile ustar": with_tarfile(tarfile.USTAR_FORMAT),
    "tarfile gnu": with_tarfile(tarfile.GNU_FORMAT),
    "tarfile pax": with_tarfile(tarfile.PAX_FORMAT),
}
SHORT_NAMES = ("GNU tar v7", "bsdtar v7")
PREFIXES = {"plain": "", "folder": "folder/deeper", "long": "long/" + "x" * 80 + "/" + "y" * 80}


def written() -> list[Any]:
    """Every writer with every kind of names."""
    folders_of_v7 = pytest.mark.xfail(strict=True, reason="pack.shard takes V7's folders, NAME/ of type 0, for files")
    return [
        pytest.param(
            writer,
            prefix,
            id=f"{writer}-{name}",
            marks=[
                *([no_bsdtar] if writer.startswith("bsdtar") else []),
                *([folders_of_v7] if writer == "bsdtar v7" and prefix else []),
            ],
        )
        for writer in WRITERS
        for name, prefix in PREFIXES.items()
    ]


@pytest.mark.parametrize(("writer", "prefix"), written())
def test_we_find_the_same_in_every_writers_shards(writer: str, prefix: str, tmp_path: Path) -> None:
    if writer in SHORT_NAMES and len(prefix) > 90:
        prefix = "x" * 80
    raw = raw_files(tmp_path / "raw", prefix)
    train = tmp_path / "made" / "train"
    train.mkdir(parents=True)
    WRITERS[writer](raw, train / "0.tar")
    made = sorted(train.glob("*.tar"))
    assert by_us(*made) == files_of(raw) and len(files_of(raw)) == 3 * NUMBER
    manifest = scan_foreign(tmp_path / "made")
    arrays = Reader(LocalFiles(tmp_path / "made", verify=False), manifest, "train", ("npy", "png", "cls")).read(
        0, NUMBER
    )
    images, labels = digits(NUMBER)
    assert arrays["cls"].tolist() == labels.tolist()
    assert (arrays["npy"] == images).all() and (arrays["png"] == images).all()
