"""Small files that claim to be huge, or would become it: refused by name in one line, before memory is taken."""

import gzip
import hashlib
import http.server
import io
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streamtrain as st
from streamtrain.errors import DataError, ManifestError, ShardError, SourceError
from streamtrain.run.checkpoints.checkpoint_files import Checkpoint, CheckpointFiles
from streamtrain.shards import fetch_manifest, read_manifest
from streamtrain.shards.codec import form_of
from streamtrain.shards.foreign.walk import Trouble, walk
from streamtrain.shards.index import ShardIndex, read_index, write_index
from streamtrain.shards.shard import BLOCK, header, members
from streamtrain.store.remote import Store
from streamtrain.stream.examples.decode import decoder_of
from streamtrain.stream.fetch import unpacked
from tests.support.datasets import pack_digits

SIDE = 9000
MOST = 48 << 20
"""Bytes that refusing may take: below what any of these bombs becomes."""


def peak(call: Callable[[], object]) -> int:
    """Bytes by which the call makes this process grow at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it has now
    before = kilobytes("VmRSS")
    call()
    return (kilobytes("VmHWM") - before) << 10


def kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def refused(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    """The call raises this, in one line, and stays small."""

    def attempt() -> None:
        with pytest.raises(kind, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)

    assert peak(attempt) < MOST


IMAGES = {
    "plain.png": ("L", {"compress_level": 1}),
    "palette.png": ("P", {"compress_level": 1}),
    "photo.jpg": ("L", {"quality": 1}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_larger_than_the_manifest_says_is_not_decoded(name: str, tmp_path: Path) -> None:
    mode, options = IMAGES[name]
    (tmp_path / "raw" / "a").mkdir(parents=True)
    Image.new(mode, (SIDE, SIDE)).save(tmp_path / "raw" / "a" / name, **options)  # type: ignore[arg-type]
    assert (tmp_path / "raw" / "a" / name).stat().st_size < SIDE * SIDE // 50
    st.pack(str(tmp_path / "raw"), tmp_path / "packed", st.PackOptions(splits=(1, 0, 0)))
    manifest = tmp_path / "packed" / "manifest.json"
    card = json.loads(manifest.read_text())
    (field,) = (field for field in card["fields"] if field["name"] == "image")
    field["shape"][:2] = [28, 28]
    manifest.write_text(json.dumps(card))
    for threads, size in ((1, None), (2, (14, 14))):
        batches = st.open(tmp_path / "packed", decode_threads=threads, image_size=size)
        message = rf"example '0', field 'image': expected a readable .*{SIDE}×{SIDE} pixels, more than 784; mend it"
        refused(lambda batches=batches: batches[0:1], ShardError, message)  # type: ignore[misc]


def test_what_only_calls_itself_an_image_starts_no_program() -> None:
    """Pillow would hand PostScript to Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(script)) as image:
        assert image.format == "EPS"
    with pytest.raises(ValueError, match="no image that Pillow knows"):
        decoder_of("png")(np.frombuffer(script, np.uint8), None)
    with pytest.raises(ValueError, match="no image that Pillow knows"):
        form_of("image.png", script)


def npy(shape: tuple[int, ...]) -> bytes:
    """An array's header, with 8 bytes of content."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(8)


@pytest.mark.parametrize("shape", [(1 << 30,), (1 << 62, 1 << 62), (0, 1 << 40, 1 << 40)])
def test_an_array_is_as_long_as_its_bytes(shape: tuple[int, ...]) -> None:
    data = np.frombuffer(npy(shape), np.uint8)
    refused(lambda: decoder_of("npy")(data, None), ValueError, r"8 bytes of content for uint8 of shape")


def test_an_example_that_leaves_no_room_for_its_batch_is_named(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits", st.PackOptions(seed=1), examples=40)
    huge = np.broadcast_to(np.uint8(0), (1 << 45,))
    batches = st.open(tmp_path / "digits", map=lambda _: {"x": huge})
    refused(lambda: batches[0:2], ShardError, r"example '\d+', field 'x': expected 2 of them to fit in memory, found")


def test_an_index_that_is_compressed_is_none_of_ours(tmp_path: Path) -> None:
    place = np.zeros((1, 1), np.int64)
    write_index(tmp_path / "good.npz", ShardIndex(np.array([b"k"]), ("x",), place, place, 10, ""))
    assert read_index(tmp_path / "good.npz", 1, 10, "") is not None
    with np.load(tmp_path / "good.npz") as parts:
        np.savez_compressed(tmp_path / "bomb.npz", **{**parts, "other": np.zeros(MOST * 2, np.uint8)})
    assert peak(lambda: read_index(tmp_path / "bomb.npz", 1, 10, "")) < MOST
    assert read_index(tmp_path / "bomb.npz", 1, 10, "") is None


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_a_header_for_a_name_is_short(kind: bytes, tmp_path: Path) -> None:
    """A sparse file: no disk holds what it would take of memory."""
    block, size = bytearray(header(b"name", 1 << 30)), 1 << 30
    block[148:156], block[156:157] = b" " * 8, kind
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block))
    os.truncate(tmp_path / "a.tar", 3 * BLOCK + size)
    message = r"a\.tar, at byte 0: expected a header of at most 1048576 bytes for a name, found 1073741824"
    refused(lambda: list(members(tmp_path / "a.tar")), ShardError, message)
    import mmap

    with (tmp_path / "a.tar").open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found: list[object] = []
        assert peak(lambda: found.append(next(walk(data)))) < MOST
    assert found == [Trouble("damaged header", None, 0, "1073741824 bytes for a name")]


def test_a_compressed_shard_unpacks_to_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(unpacked, "ALWAYS_ALLOWED", 1 << 20)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "0.tar.gz").write_bytes(gzip.compress(bytes(MOST * 2), 1))
    refused(lambda: st.open(tmp_path / "data"), ShardError, r"0\.tar\.gz: expected at most [\d,]+ bytes, 100 times")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_an_example_of_a_source_fits_in_the_memory_for_all(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", x=np.zeros((2, 250 << 20), np.uint8))
    assert (tmp_path / "rows.npz").stat().st_size < 1 << 20
    options, message = st.PackOptions(memory_bytes=1000), r"rows\.npz: expected examples of at most [\d,]+ bytes, found"
    refused(lambda: st.pack(str(tmp_path / "rows.npz"), tmp_path / "packed", options), SourceError, message)
    lying = (tmp_path / "rows.npz").read_bytes().replace(struct.pack("<I", (500 << 20) + 128), struct.pack("<I", 200))
    (tmp_path / "lying.npz").write_bytes(lying)
    refused(lambda: st.pack(str(tmp_path / "lying.npz"), tmp_path / "packed"), SourceError, r"lying\.npz: expected arr")
    assert not list(tmp_path.glob("*packed*"))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A checkpoint's JSON, and what tells that it is passed over."""
    import torch

    warnings: list[str] = []
    files = CheckpointFiles(str(tmp_path / "kept"), 2, warnings.append)
    assert files.write(Checkpoint({"parameters/w": torch.zeros(3)}, {"step": 7}, {}))
    assert files.newest() is not None and not warnings

    def passed_over(reason: str) -> None:
        assert peak(lambda: warnings.append(str(files.newest()))) < MOST
        assert len(warnings) == 2 and re.search(rf"000007\.json is passed over: .*{reason}", warnings[0]), warnings
        assert warnings[1] == "None" and "\n" not in warnings[0]

    yield tmp_path / "kept" / "000000000007.json", passed_over


def altered(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Changes a checkpoint's JSON, and its checksum with it."""
    body = json.loads(file.read_text())
    change(body)
    del body["sha256"]
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(body))


def test_a_checkpoint_is_as_large_as_it_says(kept: tuple[Path, Callable[[str], None]]) -> None:
    os.truncate(kept[0].with_suffix(".safetensors"), 1 << 40)
    kept[1](r"safetensors has 1,099,511,627,776 bytes, expected \d+")


def test_a_checkpoints_json_is_small(kept: tuple[Path, Callable[[str], None]]) -> None:
    os.truncate(kept[0], 1 << 40)
    kept[1]("1,099,511,627,776 bytes, expected at most")


def test_a_checkpoints_header_is_in_it(kept: tuple[Path, Callable[[str], None]]) -> None:
    data = struct.pack("<Q", 1 << 60) + bytes(100)
    kept[0].with_suffix(".safetensors").write_bytes(data)
    sums = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    altered(kept[0], lambda body: body.update(tensors=sums))
    kept[1]("header too large")


def test_a_checkpoint_that_lacks_something_is_passed_over(kept: tuple[Path, Callable[[str], None]]) -> None:
    altered(kept[0], lambda body: body.pop("version"))
    kept[1]("version")


def test_a_manifest_has_its_bound(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    os.truncate(tmp_path / "manifest.json", 1 << 40)
    refused(lambda: read_manifest(tmp_path), ManifestError, "expected at most 1,073,741,824 bytes, found 1,099,511")


def test_what_a_server_compresses_unasked_is_not_unpacked() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(MOST * 2)) + packer.flush()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(bomb)))
            self.end_headers()
            self.wfile.write(bomb)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        store = Store(f"http://127.0.0.1:{server.server_address[1]}/data")
        refused(
            lambda: fetch_manifest(store), DataError, "manifest.json: expected the manifest that `streamtrain pack`"
        )
        server.shutdown()
