"""Class balance: are the classes shared out over shards, or over parts of the order, as by chance?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.statistics.evidence import Evidence, Statistic
from streamtrain.inspect.audit.statistics.permutation import p_value

FEWEST = 5
"""Examples of a class that a group must expect, for χ² to be a fair approximation (Cochran 1954)."""
ENOUGH = 20.0
"""The same for it to be one far out in its tail, where alarms are given."""


def class_balance(statistic: Statistic, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Evidence | None:
    """Pearson's χ² of a table of groups by classes, both margins given.

    X² = Σ (O - E)²/E with E = (row total)(column total)/n has mean n/(n-1) (r-1)(c-1) in a uniformly random
    order (Haldane 1940), so (n-1)/n X² is compared with χ² of (r-1)(c-1) degrees of freedom. Groups and
    classes that are too small for it are taken together.

    Returns:
        ``None`` where fewer than two groups or classes are left. The effect is Cramér's V,
        √(X² / (n min(r-1, c-1))): 1 where the group tells the class, 0 for a perfect balance.
    """
    from scipy.stats import chi2

    group = _large_groups(np.unique(groups, return_inverse=True)[1])
    smallest = int(np.bincount(group).min())
    label = _common_classes(np.unique(labels, return_inverse=True)[1], FEWEST * len(labels) / smallest)
    rows, columns = int(group.max()) + 1, int(label.max()) + 1
    if rows < 2 or columns < 2:
        return None
    n = len(label)
    expected = np.outer(np.bincount(group), np.bincount(label)) / n
    chi_squared = _chi_squared(expected, group, label)
    degrees = (rows - 1) * (columns - 1)
    effect = math.sqrt(chi_squared / (n * min(rows - 1, columns - 1)))
    found = f"χ² {chi_squared:,.0f} with {degrees:,} degrees of freedom, Cramér's V {effect:.3f}"
    says = f"shares of the classes over {rows} {statistic.rpartition(' ')[2]}: {found}"
    approximate = float(chi2.sf(chi_squared * (n - 1) / n, degrees))
    rare = expected.min() < ENOUGH
    probability = p_value(label, functools.partial(_chi_squared, expected, group), approximate, rare=rare)
    return Evidence(statistic, "classes", rows, probability, effect, says)


def _chi_squared(expected: NDArray[np.float64], group: NDArray[np.int64], label: NDArray[Any]) -> float:
    """X² of an order."""
    rows, columns = expected.shape
    table = np.bincount(group * columns + label, minlength=rows * columns).reshape(rows, columns)
    return float(((table - expected) ** 2 / expected).sum())


def _large_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of less than a quarter of the mean, as the last shard may be, go into the one before."""
    sizes = np.bincount(groups)
    large = np.cumsum(sizes >= sizes.mean() / 4) - 1
    return np.asarray(large.clip(min=0)[groups], np.int64)


def _common_classes(labels: NDArray[np.int64], fewest: float) -> NDArray[np.int64]:
    """Classes of less than ``fewest`` examples taken together as one, with the next larger one if that is too few."""
    counts = np.bincount(labels)
    order = np.argsort(counts, kind="stable")
    rare = int((counts < fewest).sum())
    if 0 < rare < len(counts) and counts[order[:rare]].sum() < fewest:
        rare += 1
    renamed = np.empty(len(counts), np.int64)
    renamed[order] = (np.arange(len(counts)) - max(rare - 1, 0)).clip(min=0)
    return np.asarray(renamed[labels], np.int64)
