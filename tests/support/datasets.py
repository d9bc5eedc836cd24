"""Small real data: scikit-learn's digits, 1,797 images of 8×8, scaled up to 28×28 where the demo's model wants it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest


def digits(examples: int = 1797, *, wide: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, uint8 (n, 8, 8) or (n, 28, 28), and labels, int64 (n,)."""
    from sklearn.datasets import load_digits  # late: whoever trains a test's job imports this file

    loaded = load_digits()
    images = (loaded.images[:examples] * 15).astype(np.uint8)
    if wide:
        images = np.pad(np.kron(images, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    return images, loaded.target[:examples].astype(np.int64)


def save_digits(file: Path, examples: int = 1797, *, wide: bool = False) -> Path:
    """The digits as NPZ with the fields ``image`` and ``label``."""
    images, labels = digits(examples, wide=wide)
    np.savez(file, image=images, label=labels)
    return file


def pack_digits(
    folder: Path, options: PackOptions | None = None, *, examples: int = 1797, wide: bool = False
) -> Manifest:
    """Packs the digits into ``folder``, one a sample unless the options say so; their source stays beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = save_digits(folder.parent / "digits.npz", examples, wide=wide)
    options = options or PackOptions(seed=3, shard_examples=500)
    return pack(str(source), folder, replace(options, blocks=bool(options.blocks)))
