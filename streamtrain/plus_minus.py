"""What stands behind ± where ``s/√n`` holds the truth too seldom: few values, and fractions near 0 or 1."""

from __future__ import annotations

import math

SMALL = 30
"""Values below which the spread that they show is itself too uncertain to be taken for that of all."""


def student_factor(count: int | float) -> float:
    """What a standard error out of ``count`` values is multiplied by, to hold the truth as often as one of very many.

    The quantile of Student's t with ``count − 1`` degrees of freedom that a normal's is 1 at (Abramowitz & Stegun,
    26.7.5; to 1 % with two values, to 0.1 % with three). 1 from 30 values on, where it is below 1.02.
    """
    if count >= SMALL:
        return 1.0
    free = count - 1
    return 1 + 1 / (2 * free) + 1 / (4 * free**2) + 1 / (16 * free**3)


def fraction_error(count: int, part: float) -> float:
    """±1 of a fraction: half of Wilson's interval (1927) at one standard error; all of it where it is 0 or 1.

    ``√(p(1 − p)/n + 1/(4n²)) / (1 + 1/n)``. None of n wrong is no proof that none ever is: ``s/√n`` would say so.
    """
    half = math.sqrt(part * (1 - part) / count + 1 / (4 * count**2)) / (1 + 1 / count)
    return half if 0 < part < 1 else 2 * half
