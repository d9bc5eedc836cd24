"""Reading decoded minibatches against WebDataset, LitData and the limits: memory and the bare decoder.

Warm page cache. 28×28 uint8 and label in minibatches of 128 on one core; JPEG 500×375 in minibatches of 32. All
give complete tensors with labels; their content is checked against the source before anything is timed. Foreign tars
give their JPEGs' bytes: `foreign_readers`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

import streamtrain as st
from tests.benchmarks.foreign_readers import foreign_contenders
from tests.benchmarks.measuring import on_standard_error, one_core, rates, report, wants_json

EXAMPLES, BATCH = 32_768, 128
FEW = 4_096
"""Examples that the slow peers read."""
PHOTOS, PHOTO_BATCH = 192, 32
ROUNDS = 7


def small_examples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (EXAMPLES, 28, 28), np.uint8), random.integers(0, 10, EXAMPLES)


def photos() -> list[bytes]:
    """Smooth colours under noise, some 60 kB each, as photographs are."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(PHOTOS):
        coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic")[0].permute(1, 2, 0).numpy()
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        found.append(simplejpeg.encode_jpeg(noisy, 85, "RGB"))
    return found


def count(batches: Iterable[Any], label: Callable[[Any], Any]) -> int:
    return sum(len(label(batch)) for batch in batches)


def pack_small(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez(root / "small.npz", image=images, label=labels)
    for name, blocks in (("blocks", True), ("fixed", False)):
        options = st.PackOptions(splits=(1, 0, 0), seed=1, blocks=blocks)
        st.pack(root / "small.npz", root / name, options)


def check_small(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Every example once, with its label: compared as sets of bytes."""
    expected = sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))
    for name in ("blocks", "fixed"):
        found = []
        for batch in st.open(root / name).batches(BATCH):
            pairs = zip(batch["image"].numpy(), batch["label"].tolist(), strict=True)
            found += [image.tobytes() + bytes([label]) for image, label in pairs]
        assert sorted(found) == expected, name


def small_contenders(root: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], int]]:
    import litdata
    import webdataset

    tensors, targets = torch.from_numpy(images), torch.from_numpy(labels)
    blocks, fixed = (st.open(root / name).batches(BATCH) for name in ("blocks", "fixed"))
    litdata_folder = str(root / "litdata")
    peer = litdata.StreamingDataLoader(litdata.StreamingDataset(litdata_folder), batch_size=BATCH, num_workers=0)
    shards = sorted(str(file) for file in (root / "fixed" / "train").glob("*.tar"))

    def slices() -> int:
        starts = range(0, EXAMPLES, BATCH)
        copies = ((tensors[s : s + BATCH].clone(), targets[s : s + BATCH].clone()) for s in starts)
        return count(copies, lambda batch: batch[1])

    def by_webdataset() -> int:
        few = webdataset.WebDataset(shards, shardshuffle=False).slice(FEW)
        return count(few.decode().to_tuple("image.npy", "label.cls").batched(BATCH), lambda batch: batch[1])

    return {
        "slices of tensors in memory": slices,
        "blocks": lambda: count(blocks, lambda batch: batch["label"]),
        "fixed": lambda: count(fixed, lambda batch: batch["label"]),
        "litdata, 0 workers": lambda: count(peer, lambda batch: batch["label"]),
        "webdataset": by_webdataset,
    }


def numbered(number: int) -> dict[str, Any]:
    images, labels = small_examples() if not _HELD else _HELD[0]
    _HELD[:] = [(images, labels)]
    return {"image": images[number], "label": int(labels[number])}


_HELD: list[tuple[np.ndarray, np.ndarray]] = []


def pack_litdata(root: Path) -> None:
    import litdata

    with on_standard_error():
        litdata.optimize(numbered, list(range(EXAMPLES)), str(root / "litdata"), num_workers=1, chunk_bytes="64MB")


def pack_photos(root: Path, files: list[bytes]) -> None:
    for number, data in enumerate(files):
        folder = root / "photos" / str(number % 4)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.jpg").write_bytes(data)
    st.pack(root / "photos", root / "jpeg", st.PackOptions(splits=(1, 0, 0), seed=1))


def check_photos(root: Path, files: list[bytes]) -> None:
    expected = sorted((simplejpeg.decode_jpeg(data, "RGB").tobytes(), number % 4) for number, data in enumerate(files))
    found = []
    for batch in st.open(root / "jpeg").batches(PHOTO_BATCH):
        found += [(image.numpy().tobytes(), int(label)) for image, label in zip(*batch.values(), strict=True)]
    assert sorted(found) == expected


def photo_contenders(root: Path, files: list[bytes]) -> dict[str, Callable[[], int]]:
    import webdataset

    shards = sorted(str(file) for file in (root / "jpeg" / "train").glob("*.tar"))
    ours = st.open(root / "jpeg").batches(PHOTO_BATCH)

    def by_webdataset() -> int:
        decoded = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("image.jpg", "label.cls")
        return count(decoded.batched(PHOTO_BATCH), lambda batch: batch[1])

    return {
        "JPEG, simplejpeg alone": lambda: len([simplejpeg.decode_jpeg(data, "RGB") for data in files]),
        "JPEG, ours on one core": lambda: count(ours, lambda batch: batch["label"]),
        "JPEG, webdataset with Pillow": by_webdataset,
    }


def main() -> None:
    as_json = wants_json(__doc__)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="streamtrain-read-"))
    try:
        images, labels = small_examples()
        pack_small(root, images, labels)
        check_small(root, images, labels)
        pack_litdata(root)
        with one_core():
            contenders = small_contenders(root, images, labels)
            rates(contenders, 1)
            slow = {name: contenders.pop(name) for name in ("litdata, 0 workers", "webdataset")}
            found = rates(contenders, 5 * ROUNDS) | rates(slow, 3)
        files = photos()
        pack_photos(root, files)
        check_photos(root, files)
        with one_core():
            found |= rates(photo_contenders(root, files), ROUNDS)
            found |= rates(foreign_contenders(root, files), ROUNDS)
        one, two = (st.open(root / "jpeg", decode_threads=threads).batches(PHOTO_BATCH) for threads in (1, 2))
        threads = {"JPEG, 1 thread": one, "JPEG, 2 threads": two}
        found |= rates(
            {name: lambda b=b: count(b, lambda batch: batch["label"]) for name, b in threads.items()}, ROUNDS
        )
    finally:
        shutil.rmtree(root)
    ratios = {
        "fixed_vs_litdata": found["fixed"] / found["litdata, 0 workers"],
        "fixed_vs_webdataset": found["fixed"] / found["webdataset"],
        "blocks_vs_slice_copy": found["blocks"] / found["slices of tensors in memory"],
        "jpeg_vs_simplejpeg": found["JPEG, ours on one core"] / found["JPEG, simplejpeg alone"],
        "jpeg_vs_webdataset": found["JPEG, ours on one core"] / found["JPEG, webdataset with Pillow"],
        "foreign_vs_best_reader": found["foreign, ours"]
        / max(found[f"foreign, {peer}"] for peer in ("spdl", "webshart")),
        "jpeg_two_cores_vs_one": found["JPEG, 2 threads"] / found["JPEG, 1 thread"],
    }
    report("Reading decoded minibatches, examples/s", found, ratios, as_json=as_json)


if __name__ == "__main__":
    main()
