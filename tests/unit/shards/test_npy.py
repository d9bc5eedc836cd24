"""Arrays of `.npy` members, read by several threads at a time."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from streamtrain.shards.codec import npy_header, read_npy


class Cyclic:
    """Garbage that runs Python when it is collected, so that threads change places at any time."""

    def __init__(self) -> None:
        self.itself: Any = self

    def __del__(self) -> None:
        sum(range(20))


def test_threads_that_parse_headers_do_not_disturb_each_other() -> None:
    """CPython 3.11 counts the depth of two parsers as one: without a lock, a SystemError now and then."""
    arrays = [np.empty((0, n), np.uint8) for n in range(15000)]
    files = [npy_header(array) for array in arrays]

    def read(turn: int) -> list[tuple[int, ...]]:
        found = []
        for file in files[turn::4]:
            Cyclic()
            found.append(read_npy(file).shape)
        return found

    switched, collected = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(3)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(read, range(4)))
    finally:
        sys.setswitchinterval(switched)
        gc.set_threshold(*collected)
    assert found == [[array.shape for array in arrays[turn::4]] for turn in range(4)]
