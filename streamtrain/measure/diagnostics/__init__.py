"""Numbers about the updates themselves, out of norms that the exchange takes anyway at every so many steps.

Each of the first `EVERY` such steps gives points, then every `EVERY`-th: means with a memory of fifty are not much
newer in between, and a point costs the tracking server more than it costs the workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from streamtrain.measure.diagnostics.batch_efficiency import efficiencies
from streamtrain.measure.diagnostics.layers import EVERY, Layers
from streamtrain.measure.diagnostics.noise_scale import NoiseScale
from streamtrain.measure.diagnostics.standard_error import standard_errors
from streamtrain.measure.diagnostics.trajectory import Trajectory
from streamtrain.measure.diagnostics.update_ratio import update_ratio
from streamtrain.stored import Stored
from streamtrain.values import Reading, Update

__all__ = ["Diagnostics"]


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

    def add(self, update: Update, time: float) -> list[Reading]:
        """The points that this update gives; mostly none."""
        if update.norms is None:
            return []
        self.trajectory.add(update.norms)
        values = self.layers.add(update.norms)
        noise = self.noise.add(update.norms)
        number = (update.step + 1) // self.trajectory.every
        if number > EVERY and number % EVERY:
            return []
        values |= update_ratio(update.norms.total)
        if noise is not None:
            values |= noise.values() | standard_errors(noise, update.loss.count)
            values |= efficiencies(noise, update.loss.count)
        return [Reading(name, value, update.step, time) for name, value in values.items()]
