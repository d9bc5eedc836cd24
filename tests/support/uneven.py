"""Digits of which classes 8 and 9 are rare, and weigh more: what `st.Balanced` is for."""

from pathlib import Path

import numpy as np

from streamtrain.packing import PackOptions, pack
from tests.support.datasets import digits

RARE = 8
"""Classes from here on are."""


def pack_uneven(folder: Path, *, blocks: bool = True) -> Path:
    """About 1,220 training examples, of which each rare class has 30 or so."""
    images, labels = digits()
    kept = np.flatnonzero((labels < RARE) | (np.arange(len(labels)) % 5 == 0))
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = np.where(labels[kept] < RARE, 0.5, 4.0)
    np.savez(folder.parent / "uneven.npz", image=images[kept], label=labels[kept], weight=weights)
    pack(str(folder.parent / "uneven.npz"), folder, PackOptions(seed=3, shard_examples=500, blocks=blocks))
    return folder
