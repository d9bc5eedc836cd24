"""The curves by step: each point is the mean over a fixed number of steps, so that points do not depend on pace."""

from __future__ import annotations

from collections.abc import Sequence

from streamtrain.measure.diagnostics.clipping import clipping
from streamtrain.measure.risk import pooled
from streamtrain.values import Reading, Risk, Update


class MinibatchCurves:
    """Collects updates and gives the points of every ``every`` steps."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._waiting: list[Update] = []

    def add(self, update: Update, time: float) -> list[Reading]:
        """The points that this update completes, at its step; usually none."""
        self._waiting.append(update)
        if (update.step + 1) % self._every:
            return []
        return self.rest(time)

    def rest(self, time: float) -> list[Reading]:
        """The point of the steps that are still waiting, at the run's end."""
        waiting, self._waiting = self._waiting, []
        return _points(waiting, time) if waiting else []


def _points(updates: Sequence[Update], time: float) -> list[Reading]:
    risk = pooled(Risk(update.loss, update.error) for update in updates)
    last = updates[-1]
    values = {
        "minibatch/loss": risk.loss.mean,
        "minibatch/error": risk.error.mean,
        "gradient/norm": sum(u.gradient_norm for u in updates) / len(updates),
        **clipping(updates),
        "learning_rate": last.learning_rate,
    }
    return [Reading(name, value, last.step, time) for name, value in values.items()]
