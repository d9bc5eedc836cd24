"""Drift: does a feature, or the share of a class, change along the stored order?

This is what a window shuffle leaves behind. Examples only travel as far as the buffer reaches, so neighbours may
look random while the first thousand examples are not like the last thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.prepare.audit.balance import class_balance
from streamtrain.prepare.audit.evidence import Evidence
from streamtrain.prepare.audit.sample import ranked

PARTS = (4, 16, 64)
SMALLEST_PART = 32


def feature_drift(name: str, values: NDArray[np.float64]) -> list[Evidence]:
    """Kruskal & Wallis's test (1952) that consecutive parts of the order have one distribution.

    With ranks r, of part g the mean r̄_g over n_g examples: H = (n-1) Σ n_g (r̄_g - r̄)² / Σ (r - r̄)², which
    corrects for ties; χ² of parts - 1 degrees of freedom. The effect is η² = H/(n-1), the share of the ranks'
    variance that lies between the parts.
    """
    from scipy.stats import chi2

    z, n = ranked(values), len(values)
    found = []
    for parts, groups in _partitions(n):
        sizes = np.bincount(groups)
        between = float((np.bincount(groups, z) ** 2 / sizes).sum()) / n
        says = (
            f"{name} between {parts} consecutive parts: {between:.2%} of its variance, {(parts - 1) / n:.2%} expected"
        )
        p_value = float(chi2.sf((n - 1) * between, parts - 1))
        found.append(Evidence("drift over parts", name, parts, p_value, between, says))
    return found


def class_drift(labels: NDArray[np.int64]) -> list[Evidence]:
    """The same for the shares of the classes: see `balance`."""
    tests = [class_balance("drift over parts", labels, groups) for parts, groups in _partitions(len(labels))]
    return [test for test in tests if test is not None]


def _partitions(n: int) -> list[tuple[int, NDArray[np.int64]]]:
    return [(parts, np.arange(n) * parts // n) for parts in PARTS if n >= parts * SMALLEST_PART]
