"""Checksums computed beside the writing are those of the whole, however the bytes come."""

from __future__ import annotations

import hashlib
import itertools
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.store import checksums
from streamtrain.store.checksums import Checksums

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


@given(
    st.lists(st.integers(0, len(CONTENT)), max_size=30), st.integers(1, 70_000), st.sampled_from([1, 5_000, 1 << 20])
)
@settings(max_examples=60)
def test_they_are_those_of_the_whole(cuts: list[int], piece: int, behind: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "BEHIND", behind)
        sums = Checksums(piece)
        for start, stop in itertools.pairwise([0, *sorted(cuts), len(CONTENT)]):
            sums.add(memoryview(CONTENT)[start:stop])
        sha256, found = sums.finish()
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert found == [zlib.crc32(CONTENT[at : at + piece]) for at in range(0, len(CONTENT), piece)]


def test_discarded_ones_leave_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BEHIND", 1)
    sums = Checksums(100)
    sums.add(CONTENT)
    assert any(thread.name.startswith("checksums") for thread in threading.enumerate())
    sums.discard()
    sums.discard()
    assert not any(thread.name.startswith("checksums") for thread in threading.enumerate())
