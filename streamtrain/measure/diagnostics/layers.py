"""Norms by layer: where gradients vanish or explode across depth (Deep Learning, 8.2.5).

Root mean squares over some of the steps that carry norms, since a deep model has hundreds of tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from streamtrain.stored import Stored
from streamtrain.values import LayerNorms, Norms

EVERY = 10
"""Steps with norms that one point is the mean of."""


@dataclass(frozen=True)
class LayerMeans:
    """Root mean squares of one tensor: its gradient's norm, and its update over it, ``None`` where it was zero."""

    gradient_norm: float
    update_ratio: float | None


@dataclass
class Layers(Stored):
    """Collects norms, and gives means of each layer's gradient and update at every `EVERY`-th.

    Attributes:
        waiting: norms by layer of the steps since the last point.
    """

    waiting: list[dict[str, LayerNorms]] = field(default_factory=list)

    def add(self, norms: Norms) -> dict[str, LayerMeans]:
        """By the parameter tensors' names; mostly empty."""
        self.waiting.append(norms.layers)
        if len(self.waiting) < EVERY:
            return {}
        waiting = self.waiting
        self.waiting = []
        found = {}
        for name in waiting[0]:
            layer = [each[name] for each in waiting]
            ratio = None
            if all(n.parameters for n in layer):
                ratio = math.sqrt(sum(n.update / n.parameters for n in layer) / EVERY)
            found[name] = LayerMeans(math.sqrt(sum(n.gradient for n in layer) / EVERY), ratio)
        return found
