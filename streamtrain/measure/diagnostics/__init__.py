"""Numbers about the updates themselves, out of norms that the exchange takes anyway at every so many steps."""

from __future__ import annotations

from streamtrain.measure.diagnostics.batch_efficiency import efficiencies
from streamtrain.measure.diagnostics.layers import Layers
from streamtrain.measure.diagnostics.noise_scale import NoiseScale
from streamtrain.measure.diagnostics.standard_error import standard_errors
from streamtrain.measure.diagnostics.trajectory import Trajectory
from streamtrain.measure.diagnostics.update_ratio import update_ratio
from streamtrain.values import Reading, Update

__all__ = ["Diagnostics"]


class Diagnostics:
    """All of them, update after update; ``every`` steps one update carries `Norms`.

    Attributes:
        trajectory: how far the parameters went.
    """

    def __init__(self, every: int) -> None:
        self._noise, self._layers, self.trajectory = NoiseScale(), Layers(), Trajectory(every)

    def add(self, update: Update, time: float) -> list[Reading]:
        """The points that this update gives; none where it carries no norms."""
        if update.norms is None:
            return []
        self.trajectory.add(update.norms)
        values = update_ratio(update.norms.total) | self._layers.add(update.norms)
        noise = self._noise.add(update.norms)
        if noise is not None:
            values |= noise.values() | standard_errors(noise, update.loss.count)
            values |= efficiencies(noise, update.loss.count)
        return [Reading(name, value, update.step, time) for name, value in values.items()]
