"""The stored order: a uniformly random permutation, made once; a function of the seed and the number of examples.

Example ``i`` of the source gets 64 random bits that depend on the seed and on ``i`` alone, and the
stored order is that of these keys (ties, one in ten billion at a million examples, by ``i``): a uniform
permutation (Rao 1961, Sandelius 1962). Any part of the examples can be sorted by itself, and sorted parts
merged, in any number and sizes, with the same result.

Where the splits are given, and not cut from that order, the first two bits of a key are its split's number: every
split is then one range of the stored order, and within it a uniform permutation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORDS = 4
"""Keys that the generator gives for one value of its counter."""
SPLIT_BITS = 2
"""Of a key that are its split's, where the splits are given."""


def sort_keys(seed: int, start: int, stop: int, splits: NDArray[np.uint8] | None = None) -> NDArray[np.uint64]:
    """Keys of the examples ``[start, stop)``, from a counter-based generator (Philox).

    Args:
        splits: each example's split by its number, below 4, where the splits are given.
    """
    counter, within = divmod(start, WORDS)
    raw: NDArray[np.uint64] = np.random.Philox(key=seed, counter=counter).random_raw(stop - start + within)
    keys = raw[within:]
    if splits is None:
        return keys
    return (keys >> np.uint64(SPLIT_BITS)) | (splits.astype(np.uint64) << np.uint64(64 - SPLIT_BITS))


def order_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """What sorts the keys, equal ones by their place.

    Each key's place takes its lowest bits: numbers are sorted ten times as fast as numpy's `argsort` sorts places. Keys
    that differ in those bits alone, a few in a million, are sorted once more.
    """
    bits = np.uint64(len(keys).bit_length())
    places = (np.uint64(1) << bits) - np.uint64(1)
    ranked = keys & ~places
    ranked |= np.arange(len(keys), dtype=np.uint64)
    ranked.sort()
    order: NDArray[np.int64] = (ranked & places).view(np.int64)
    ranked >>= bits
    same = ranked[1:] == ranked[:-1]
    if same.any():
        close = np.flatnonzero(np.append(same, False) | np.append(False, same))
        order[close] = order[close][np.argsort(keys[order[close]], kind="stable")]
    return order


def stored_order(seed: int, examples: int) -> NDArray[np.int64]:
    """Stored position -> number in the source, for a data set of this size; needs 24 bytes an example."""
    return order_of(sort_keys(seed, 0, examples))
