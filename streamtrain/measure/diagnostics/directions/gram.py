"""Inner products of gradients at one place: of the minibatches that come next, and of held-out examples.

All that is asked of their directions follows from these, and a product of two that share no example is unbiased for
that of what they estimate: ``E gᵢᵀgⱼ = |G|²``, ``E gᵢᵀh = Gᵀ H``, with G the gradient of the loss that training sees
and H that of the risk. A vector's product with itself has the noise in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Products = NDArray[np.float64]
FEWEST = 4
"""Minibatches, and groups of held-out examples, below which nothing is said."""


@dataclass(frozen=True)
class Gram:
    """``products[i, j]`` of the mean gradients: of so many ``minibatches``, in their order, then of held-out groups."""

    products: Products
    minibatches: int

    @property
    def training(self) -> Products:
        """Of minibatches with each other."""
        return self.products[: self.minibatches, : self.minibatches]

    @property
    def mixed(self) -> Products:
        """Of minibatches (rows) with held-out groups (columns)."""
        return self.products[: self.minibatches, self.minibatches :]

    @property
    def held_out(self) -> Products:
        """Of held-out groups with each other."""
        return self.products[self.minibatches :, self.minibatches :]

    @property
    def says_enough(self) -> bool:
        """Whether there are enough of both."""
        return min(self.minibatches, len(self.products) - self.minibatches) >= FEWEST

    def without(self, each: int) -> Gram:
        """The same without one of them."""
        kept = np.delete(np.delete(self.products, each, 0), each, 1)
        return Gram(kept, self.minibatches - (each < self.minibatches))


def between(products: Products) -> float:
    """Mean of the products of two different ones."""
    count = len(products)
    return float(products.sum() - np.trace(products)) / (count * (count - 1))


def jackknife(estimate: Callable[[Any], float], gram: Gram) -> float:
    """Standard error of an estimate: of minibatches and of held-out groups, each left out in turn, added squared.

    Efron & Tibshirani 1993, equation 11.5, for two samples.
    """
    count = len(gram.products)
    total = 0.0
    for numbers in (range(gram.minibatches), range(gram.minibatches, count)):
        found = np.array([estimate(gram.without(each)) for each in numbers])
        total += (len(found) - 1) / len(found) * float(np.square(found - found.mean()).sum())
    return float(np.sqrt(total))
