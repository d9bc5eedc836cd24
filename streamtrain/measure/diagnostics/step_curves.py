"""The curves by step: each point is the mean over a fixed number of steps, so that points do not depend on pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamtrain.measure.diagnostics.clipping import clipping
from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Reading, Risk, Update

SMOOTHED_STEPS = 100


@dataclass
class MinibatchCurves(Stored):
    """Collects updates, ``waiting``, and gives the points of every ``every`` steps."""

    every: int
    waiting: list[Update] = field(default_factory=list)

    def add(self, update: Update, time: float) -> list[Reading]:
        """The points that this update completes, at its step; usually none."""
        self.waiting.append(update)
        if (update.step + 1) % self.every:
            return []
        return self.rest(time)

    def rest(self, time: float) -> list[Reading]:
        """The point of the steps that are still waiting, at the run's end."""
        waiting = self.waiting
        self.waiting = []
        return _points(waiting, time) if waiting else []


@dataclass
class LastNorms(Stored):
    """Gradient norms of the last `SMOOTHED_STEPS` updates: their mean at the stop says how small gradients got."""

    recent: deque[float] = field(default_factory=deque)

    def add(self, update: Update) -> None:
        """Takes in one update whose minibatch was used."""
        self.recent.append(update.gradient_norm)
        if len(self.recent) > SMOOTHED_STEPS:
            self.recent.popleft()

    @property
    def mean(self) -> float:
        """Over those updates; 0 before the first."""
        return sum(self.recent) / max(1, len(self.recent))


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
