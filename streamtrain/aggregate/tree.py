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


def tree_sum(parts: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Sum of equally shaped ``parts`` (one a lane, in lane order) into ``out``, which aliases none of them."""
    if len(parts) == 1:
        return out.copy_(parts[0])
    if len(parts) == 2:
        return torch.add(parts[0], parts[1], out=out)
    left = split(len(parts))
    tree_sum(parts[:left], out)
    right = parts[left] if len(parts) - left == 1 else tree_sum(parts[left:], torch.empty_like(out))
    return out.add_(right)
