"""Extreme eigenvalues of a symmetric matrix out of products with it alone (Lanczos 1950; Golub & Van Loan, 10.1).

Full reorthogonalization, so no ghost eigenvalues; ``iterations`` vectors are kept. Each value comes with its residual
``|A v − λ v|``: some eigenvalue lies within that distance of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

LEVEL = 1e-3
"""Part of the larger end's size within which an eigenvalue counts as 0."""


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest Ritz values and their residuals.

    ``negative`` is an estimate of the part of all eigenvalues that lie below −`LEVEL` of the larger end's size: the
    weight of such Ritz values, ``Σ τᵢ²`` with τ the first components of their vectors (stochastic Lanczos quadrature,
    Ubaru, Chen & Saad 2017). Out of one random vector, so it is off by some ``√(2 p/size)`` of p.
    """

    smallest: float
    smallest_residual: float
    largest: float
    largest_residual: float
    negative: float = 0.0


def extremes(
    product: Callable[[torch.Tensor], torch.Tensor], size: int, *, iterations: int = 40, tolerance: float = 1e-3
) -> Extremes:
    """Both ends of the spectrum.

    Args:
        product: the matrix times a float64 vector.
        iterations: at most so many products; as many as ``size`` give all eigenvalues.
        tolerance: stop when both residuals are below this part of the larger end's size.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        following = product(basis[-1])
        diagonal.append(float(following @ basis[-1]))
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            for each in basis:
                following -= (following @ each) * each
        beside.append(float(following.norm()))
        found = _ends(diagonal, beside)
        scale = max(abs(found.smallest), abs(found.largest))
        worst = max(found.smallest_residual, found.largest_residual)
        if len(basis) == min(iterations, size) or worst <= tolerance * scale or beside[-1] <= 1e-12 * scale:
            return found
        basis.append(following / beside[-1])


def _ends(diagonal: list[float], beside: list[float]) -> Extremes:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for index, value in enumerate(beside[:-1]):
        matrix[index, index + 1] = matrix[index + 1, index] = value
    values, vectors = torch.linalg.eigh(matrix)
    residuals = (vectors[-1] * beside[-1]).abs()
    level = LEVEL * max(abs(float(values[0])), abs(float(values[-1])))
    negative = float(vectors[0].square()[values < -level].sum())
    return Extremes(float(values[0]), float(residuals[0]), float(values[-1]), float(residuals[-1]), negative)
