"""The one fixed binary tree in which everything is summed over the lanes (promise 5).

A node over ``n`` lanes splits at the largest power of two below ``n``. So every aligned run of
``2^k`` lanes is a whole subtree, which its worker may add up before anything travels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def split(lanes: int) -> int:
    """Lanes in the left subtree of a node over ``lanes >= 2``."""
    return 1 << ((lanes - 1).bit_length() - 1)


def tree_sum_(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of equally shaped ``parts`` (one a lane, in lane order), made in the first of them; others are used up."""
    if len(parts) == 1:
        return parts[0]
    left = split(len(parts))
    return tree_sum_(parts[:left]).add_(tree_sum_(parts[left:]))
