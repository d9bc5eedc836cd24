"""Drift: does a feature, or the share of a class, change along the stored order?

This is what a window shuffle leaves behind. Examples only travel as far as the buffer reaches, so neighbours may
look random while the first thousand examples are not like the last thousand.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.sample import ranked
from streamtrain.inspect.audit.statistics.balance import class_balance
from streamtrain.inspect.audit.statistics.evidence import Evidence
from streamtrain.inspect.audit.statistics.label_runs import normal_p_value
from streamtrain.inspect.audit.statistics.permutation import p_value

PARTS = (4, 16, 64)
SMALLEST_PART = 32
FEWEST_UNCOMMON = 20.0
"""Examples with another than the commonest value that a part must expect, for χ² to hold far out in its tail."""


def feature_drift(name: str, values: NDArray[np.float64]) -> list[Evidence]:
    """Kruskal & Wallis's test (1952) that consecutive parts of the order have one distribution.

    With ranks r, of part g the mean r̄_g over n_g examples: H = (n-1) Σ n_g (r̄_g - r̄)² / Σ (r - r̄)², which
    corrects for ties; χ² of parts - 1 degrees of freedom. The effect is η² = H/(n-1), the share of the ranks'
    variance that lies between the parts. By shuffling where values are rare.
    """
    from scipy.stats import chi2

    z = ranked(values)
    n = len(values)
    uncommon = n - int(np.unique(values, return_counts=True)[1].max())
    found = []
    for parts, groups in _partitions(n):
        between = _between(groups, z)
        says = (
            f"{name} between {parts} consecutive parts: {between:.2%} of its variance, {(parts - 1) / n:.2%} expected"
        )
        approximate = float(chi2.sf((n - 1) * between, parts - 1))
        rare = uncommon / parts < FEWEST_UNCOMMON
        probability = p_value(z, functools.partial(_between, groups), approximate, rare=rare)
        found.append(Evidence("drift over parts", name, parts, probability, between, says))
    return found


def _between(groups: NDArray[np.int64], z: NDArray[Any]) -> float:
    """The share of the ranks' variance that lies between groups."""
    return float((np.bincount(groups, z) ** 2 / np.bincount(groups)).sum()) / len(z)


def class_drift(labels: NDArray[np.int64]) -> list[Evidence]:
    """The same for the shares of the classes: see `balance`."""
    tests = [class_balance("drift over parts", labels, groups) for parts, groups in _partitions(len(labels))]
    return [test for test in tests if test is not None]


def key_trend(places: NDArray[np.int64], segments: NDArray[np.int64]) -> Evidence | None:
    """Spearman's rank correlation (1904) of an example's place in the order with its key's, within each segment.

    Keys that were given before shuffling tell where an example came from, so a buffer leaves a trend. A segment is
    what was seen of one shard in one stretch, since keys may name the shard. Its correlation ρ over k examples has
    mean 0 and variance 1/(k-1) in a uniformly random order; Σ (k-1) ρ over the segments is compared with a normal
    variable of variance Σ (k-1). Segments whose keys just count up or down were numbered after shuffling, or are
    sorted, which keys cannot tell apart; they are left out.

    Returns:
        ``None`` where no segment is left. The effect is the mean of ρ, weighted by k-1.
    """
    total = 0.0
    weight = 0
    for part in np.split(places, np.flatnonzero(np.diff(segments)) + 1):
        steps = np.diff(part)
        if len(part) >= SMALLEST_PART and not (np.all(steps > 0) or np.all(steps < 0)):
            ranks = np.argsort(np.argsort(part))
            total += (len(part) - 1) * float(np.corrcoef(ranks, np.arange(len(part)))[0, 1])
            weight += len(part) - 1
    if not weight:
        return None
    says = f"keys and the order within a shard: rank correlation {total / weight:+.4f}"
    return Evidence("drift over parts", "keys", 1, normal_p_value(total, 0.0, weight), total / weight, says)


def _partitions(n: int) -> list[tuple[int, NDArray[np.int64]]]:
    return [(parts, np.arange(n) * parts // n) for parts in PARTS if n >= parts * SMALLEST_PART]
