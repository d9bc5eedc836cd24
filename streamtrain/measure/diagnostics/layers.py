"""Norms by layer: where gradients vanish or explode across depth (Deep Learning, 8.2.5).

Root mean squares over some of the steps that carry norms, since a deep model has hundreds of tensors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from streamtrain.stored import Stored
from streamtrain.values import LayerNorms, Norms

EVERY = 10
"""Steps with norms that one point is the mean of."""


@dataclass
class Layers(Stored):
    """Collects norms, and gives points of each layer's gradient and update at every `EVERY`-th.

    Attributes:
        waiting: norms by layer of the steps since the last point.
    """

    waiting: list[dict[str, LayerNorms]] = field(default_factory=list)

    def add(self, norms: Norms) -> dict[str, float]:
        """``layer_gradient_norm/NAME`` and ``layer_update_ratio/NAME``; mostly empty."""
        self.waiting.append(norms.layers)
        if len(self.waiting) < EVERY:
            return {}
        waiting = self.waiting
        self.waiting = []
        values = {}
        for name in waiting[0]:
            layer = [each[name] for each in waiting]
            shown = re.sub(r"[^\w.\- ]", "_", name)  # what MLflow takes
            values[f"layer_gradient_norm/{shown}"] = math.sqrt(sum(n.gradient for n in layer) / EVERY)
            if all(n.parameters for n in layer):
                ratio = sum(n.update / n.parameters for n in layer) / EVERY
                values[f"layer_update_ratio/{shown}"] = math.sqrt(ratio)
        return values
