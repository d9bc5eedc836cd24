"""The global generators of Python, NumPy and PyTorch: kept as they were, or set from one seed.

They belong to the process. Who sets them needs it for himself meanwhile: another thread that draws would change what
both of them get.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from streamtrain.order import split_seed

WORD = 1 << 32


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leaves the global generators as they were; those of GPUs aside."""
    import torch  # late: 130 MB, which reading arrays does not need

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_all(seed: int) -> None:
    """Seeds the global generators, each with a number of its own: Python's and NumPy's give the same from the same.

    Not those of GPUs: to ask for that costs more than all others where there is none.
    """
    import torch

    of_python, of_numpy, of_torch = split_seed(seed, 3)
    random.seed(of_python)
    np.random.seed(divmod(of_numpy, WORD))
    torch.default_generator.manual_seed(of_torch)
