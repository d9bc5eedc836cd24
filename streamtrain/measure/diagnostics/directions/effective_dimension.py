"""Effective dimension of the gradients' spread: ``(tr Σ)² / tr(Σ²)``, the participation ratio of Σ's eigenvalues.

Few dimensions mean redundant examples: their gradients differ in the same few ways (Deep Learning, 8.1.3). With
``u = (g₁ − g₂)/√2`` out of disjoint pairs of minibatches, ``E |u|²|v|² = (tr Σ)²`` and ``E (uᵀv)² = tr(Σ²)``, both up
to the minibatch's size, which cancels. Each is averaged over all pairs of pairs, and the ratio taken; with few of them
it is noisy, and somewhat too large.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.measure.diagnostics.directions.gram import Gram


def effective_dimension(gram: Gram) -> float:
    """At least 1; NaN without noise."""
    count = gram.minibatches // 2
    signs = np.zeros((count, gram.minibatches))
    signs[np.arange(count), 2 * np.arange(count)] = 1
    signs[np.arange(count), 2 * np.arange(count) + 1] = -1
    products = signs @ gram.training @ signs.T / 2
    sizes = np.diagonal(products)
    apart = ~np.eye(count, dtype=bool)
    squared = float(np.square(products[apart]).mean())
    return max(1.0, float(np.outer(sizes, sizes)[apart].mean()) / squared) if squared > 0 else math.nan
