"""Several data sets read as one, each with its share of every minibatch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from streamtrain.checks import require
from streamtrain.job.settings import OneSetting

CLOSE = 1e-9
"""How far a share may be from the fraction that it is taken for: 1/3 and 0.1 are no numbers of a computer."""
FINEST, MOST_PLACES = 10_000, 100_000
"""Largest denominator of a share, and of all together."""
DO = 'e.g. st.Mixture({"data/a": 0.7, "data/b": 0.3})'


@dataclass(frozen=True)
class Mixture(OneSetting):
    """Of any first examples of a run, each data set has its share, rounded down or up.

    Each goes round its own training examples, where the last minibatch left it, whatever the others do. A pass uses as
    many examples as all of them have. In online mode no example comes twice: the pass ends when one is used up.
    """

    shares: Mapping[str, float]
    """Folder -> share of every minibatch: above 0, adding up to 1; fractions or decimals, as 1/3 or 0.25."""

    def __post_init__(self) -> None:
        shares = self.shares
        given = isinstance(shares, Mapping) and len(shares) > 0
        require(given, "st.Mixture", "shares by data sets", shares, DO)
        for url, share in shares.items():
            named = bool(url) and isinstance(url, str | os.PathLike)
            require(named, "st.Mixture", "folders of data sets", url, DO)
            number = isinstance(share, int | float) and not isinstance(share, bool) and math.isfinite(share)
            do = "give each its part of a minibatch"
            require(number and 0 < share <= 1, f"st.Mixture, {url}", "a share above 0 and up to 1", share, do)
        total = math.fsum(shares.values())
        do = "change them so that they do"
        require(abs(total - 1) <= CLOSE, "st.Mixture", "shares that add up to 1", f"{total:.10g}", do)
        fractions = [Fraction(share).limit_denominator(FINEST) for share in shares.values()]
        exact = all(abs(f - s) <= CLOSE for f, s in zip(fractions, shares.values(), strict=True))
        places = math.lcm(*(fraction.denominator for fraction in fractions))
        fine = exact and sum(fractions) == 1 and places <= MOST_PLACES
        do = "round them, e.g. to four decimals"
        require(fine, "st.Mixture", "shares with few decimals, or simple fractions", list(shares.values()), do)

    @property
    def urls(self) -> tuple[str, ...]:
        """The data sets, in their order."""
        return tuple(str(url) for url in self.shares)

    @property
    def weights(self) -> tuple[int, ...]:
        """The shares as whole numbers."""
        fractions = [Fraction(share).limit_denominator(FINEST) for share in self.shares.values()]
        places = math.lcm(*(fraction.denominator for fraction in fractions))
        return tuple(int(fraction * places) for fraction in fractions)

    def __str__(self) -> str:
        return ", ".join(f"{url}: {share:.6g}" for url, share in self.shares.items())
