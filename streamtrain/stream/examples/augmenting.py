"""Augmentation: a user's random change of training examples, whose random numbers follow from seed, pass and number.

So an example of a pass is changed in the same way whoever reads it, and in another way in each pass (promise 11).
Costs about 30 µs an example beside the function, for its generator and the global ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.errors import users_code
from streamtrain.order import example_seed
from streamtrain.stream.examples.generators import seed_all

Augment = Callable[[dict[str, Any], np.random.Generator], Mapping[str, Any]]
_alone = threading.Lock()  # the global generators are the process's, so one example at a time has them


@dataclass(frozen=True)
class Augmentation:
    """A job's: ``function``, and the ``seed`` of the run."""

    function: Augment
    seed: int

    def in_pass(self, pass_index: int) -> PassAugmentation:
        """Of the examples in one pass."""
        return PassAugmentation(self, pass_index)


@dataclass(frozen=True)
class PassAugmentation:
    """The changes of one pass."""

    augmentation: Augmentation
    pass_index: int

    def augmented(self, example: dict[str, Any], number: int, where: str) -> dict[str, Any]:
        """The example with this number of the stored order, changed.

        The global generators are set from the same numbers as the function's own, and stay so: who calls this for
        several examples puts them back once.

        Args:
            where: names it in messages.

        Raises:
            JobError: the function fails.
        """
        seed = example_seed(self.augmentation.seed, self.pass_index, number)
        rng = np.random.Generator(np.random.Philox(key=seed))
        with _alone, users_code(f"{where}: data.augment", "mend it, or set data.on_bad_example to skip"):
            seed_all(seed)
            return dict(self.augmentation.function(example, rng))
