"""The curves by step: each point is the mean over a fixed number of steps, so that points do not depend on pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamtrain.measure.diagnostics.clipping import clipping
from streamtrain.measure.risk import pooled
from streamtrain.stored import Stored
from streamtrain.values import Risk, Update

SMOOTHED_STEPS = 100


@dataclass(frozen=True)
class StepMeans:
    """Means over some steps, of which ``step`` is the last; the rate is that of the last."""

    step: int
    examples: float
    loss: float
    error: float
    gradient_norm: float
    clipped_fraction: float
    cut: float
    learning_rate: float


@dataclass
class MinibatchCurves(Stored):
    """Collects updates, ``waiting``, and gives the means of every ``every`` steps."""

    every: int
    waiting: list[Update] = field(default_factory=list)

    def add(self, update: Update) -> StepMeans | None:
        """The means that this update completes; mostly none."""
        self.waiting.append(update)
        return None if (update.step + 1) % self.every else self.rest()

    def rest(self) -> StepMeans | None:
        """Those of the steps that are still waiting, if any: asked for at the run's end."""
        waiting = self.waiting
        self.waiting = []
        return _means(waiting) if waiting else None


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


def _means(updates: Sequence[Update]) -> StepMeans:
    risk = pooled(Risk(update.loss, update.error) for update in updates)
    return StepMeans(
        updates[-1].step,
        risk.loss.count / len(updates),
        risk.loss.mean,
        risk.error.mean,
        sum(u.gradient_norm for u in updates) / len(updates),
        *clipping(updates),
        updates[-1].learning_rate,
    )
