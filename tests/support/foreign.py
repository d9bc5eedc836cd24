"""Shards that somebody else wrote: real examples in any order, and tars with any members."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tests.support.datasets import digits


def write_tar(file: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of these members, as Python's `tarfile` writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def write_digits(folder: Path, order: Sequence[int], *, split: str = "train", shard_examples: int = 300) -> Path:
    """The digits in this order, named by their place in it, as ``cls`` and ``npy``."""
    images, labels = digits()
    for start in range(0, len(order), shard_examples):
        write_tar(
            folder / split / f"{start // shard_examples:04d}.tar",
            [
                member
                for place, number in enumerate(order[start : start + shard_examples], start)
                for member in (
                    (f"{split}{place:06d}.cls", b"%d" % labels[number]),
                    (f"{split}{place:06d}.npy", as_npy(images[number])),
                )
            ],
        )
    return folder


def as_npy(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    """The array as the content of an ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def buffered(order: Iterable[int], size: int, seed: int) -> list[int]:
    """What a shuffle buffer of ``size`` makes of an order, as `webdataset.shuffle(size)` does."""
    generator = np.random.default_rng(seed)
    buffer: list[int] = []
    out: list[int] = []
    for number in order:
        if len(buffer) < size:
            buffer.append(number)
        else:
            place = int(generator.integers(size))
            out.append(buffer[place])
            buffer[place] = number
    generator.shuffle(buffer)
    return out + buffer
