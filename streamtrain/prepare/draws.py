"""Whether a user's function draws random numbers: it is tried twice on the same examples, and the generators looked at.

Promise 11: a random number that touches an example follows from the seed, the pass and the example's number, and
promise 12: held-out examples are seen as they are. So `data.map` and `data.transform`, which every phase calls, must
not draw: what they drew would differ from run to run, or with the number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from streamtrain.errors import JobError, complaint
from streamtrain.stream.examples.generators import seed_all

FIRST_SEED, SECOND_SEED = 1, 2
"""Of the global generators in the two tries."""


SEES_HELD_OUT = "take the random part out: map and transform see held-out examples too, and all of a pass the same way"
MAY_DRAW = (
    "draw from the generator that it is given, or from the global ones of Python, NumPy and PyTorch, which are set"
)


def try_twice(what: str, call: Callable[[], Mapping[str, Any]], do: str = SEES_HELD_OUT) -> Mapping[str, Any]:
    """What a function gives.

    Args:
        what: its name, as messages name it.
        call: calls it on the same examples; gives arrays or tensors by name.
        do: advice to who draws elsewhere than it may.

    Raises:
        JobError: it gives something else the second time, or draws from a global generator.
    """
    seed_all(FIRST_SEED)
    before = _states()
    first = call()
    drawn = [name for name, state in _states().items() if state != before[name]]
    seed_all(SECOND_SEED)
    second = call()
    expected = "the same from the same examples each time"
    for name in first:
        if name not in second or not same_bits(first[name], second[name]):
            raise JobError(complaint(what, expected=expected, found=f"another {name!r} in a second try", do=do))
    if drawn:
        raise JobError(complaint(what, expected=expected, found=f"that it draws from {', '.join(drawn)}", do=do))
    return first


def same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays or tensors are the same in type, shape and every bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.layout != torch.strided or one.is_quantized:
            return torch.equal(one.to_dense(), other.to_dense()) if one.layout == other.layout else False
        return torch.equal(_bytes_of(one), _bytes_of(other))
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _states() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (name, np.asarray(keys).tobytes(), *rest),
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
    }
