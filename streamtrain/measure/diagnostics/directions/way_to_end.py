"""Cosine of the angle between −g and the way from there to where the run ended.

Small where local descent does not point to where it leads (Deep Learning, 8.2.7 and figure 8.4). It is known at the end
only, so gradients and parameters on the way are kept, in float32, at most `MOST` of them: of more, every second one is
forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MOST = 16
Vector = NDArray[np.float32]


@dataclass
class WayToEnd:
    """Of one process: ``points`` are the step, the gradient and the parameters there."""

    points: list[tuple[int, Vector, Vector]] = field(default_factory=list)

    def add(self, step: int, gradient: NDArray[np.floating], parameters: NDArray[np.floating]) -> None:
        """One more place on the way."""
        if len(self.points) == MOST:
            self.points = self.points[::2]
        self.points.append((step, gradient.astype(np.float32), parameters.astype(np.float32)))

    def cosines(self, end: NDArray[np.floating]) -> dict[int, float]:
        """By step; without places where the gradient or the way is 0."""
        found = {}
        for step, gradient, parameters in self.points:
            way = np.asarray(end, float) - parameters
            down = -gradient.astype(float)
            norms = float(np.linalg.norm(way) * np.linalg.norm(down))
            if norms > 0:
                found[step] = float(way @ down) / norms
        return found
