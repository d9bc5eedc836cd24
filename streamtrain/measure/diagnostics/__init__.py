"""Numbers about the updates themselves, out of norms that the exchange takes anyway at every so many steps.

Each of the first `EVERY` such steps gives points, then every `EVERY`-th: means with a memory of fifty are not much
newer in between, and a point costs the tracking server more than it costs the workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from streamtrain.measure.diagnostics.layers import EVERY, LayerMeans, Layers
from streamtrain.measure.diagnostics.noise_scale import Noise, NoiseScale
from streamtrain.measure.diagnostics.trajectory import Trajectory
from streamtrain.measure.diagnostics.update_ratio import update_ratio
from streamtrain.stored import Stored
from streamtrain.values import Update

__all__ = ["Diagnostics", "UpdateFigures"]


@dataclass(frozen=True)
class UpdateFigures:
    """Of one update: means of its layers, where there are new ones, its ratio, and the noise; where they are known."""

    layers: dict[str, LayerMeans]
    update_ratio: float | None
    noise: Noise | None


@dataclass
class Diagnostics(Stored):
    """All of them, update after update.

    Attributes:
        trajectory: how far the parameters went, and how many steps lie between two updates that carry `Norms`.
        noise, layers: the others that remember.
    """

    trajectory: Trajectory
    noise: NoiseScale = field(default_factory=NoiseScale)
    layers: Layers = field(default_factory=Layers)

    @classmethod
    def at_every(cls, steps: int) -> Self:
        """Of a run that has not begun, where every so many steps one update carries `Norms`."""
        return cls(Trajectory(steps))

    def add(self, update: Update) -> UpdateFigures | None:
        """What this update gives; mostly nothing."""
        if update.norms is None:
            return None
        self.trajectory.add(update.norms)
        layers = self.layers.add(update.norms)
        noise = self.noise.add(update.norms)
        number = update.step // self.trajectory.every + 1
        if number > EVERY and number % EVERY and not layers:
            return None
        return UpdateFigures(layers, update_ratio(update.norms.total), noise)
