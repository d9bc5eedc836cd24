"""How far a run is, and what was measured on the way: all of a controller that outlives its process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

from streamtrain.job import Job, Online
from streamtrain.measure.cost import MeasuringTime
from streamtrain.measure.diagnostics import Diagnostics
from streamtrain.measure.early_stopping import EarlyStopping
from streamtrain.measure.progressive import PassRisks, Progressive
from streamtrain.measure.step_curves import MinibatchCurves
from streamtrain.run.checkpoints.encoding import decoded, encoded
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import Skip

SMOOTHED_STEPS = 100
"""Steps whose mean gradient norm is the norm at the stop."""


@dataclass
class Progress:
    """See the module.

    Attributes:
        step: updates in the state. used: examples in them, each use counted. seconds: spent on them.
        since: step from which the present part of the data is trained on; 0 unless it grows.
        skipped: minibatches that were passed over. bad: examples that were, by split and stored number.
        overflowed: those of the minibatches whose gradient was only too large for fp16.
        passes: before the updates, pass by pass; of many passes only.
        late_lanes, late_examples: that updates did not wait for, each time counted.
        evaluations, best: so far; ``best`` has the parameters that many passes would return.
    """

    curves: MinibatchCurves
    diagnostics: Diagnostics
    progressive: Progressive
    measuring: MeasuringTime
    probing: MeasuringTime
    stopping: EarlyStopping
    step: int = 0
    since: int = 0
    used: int = 0
    seconds: float = 0.0
    skipped: int = 0
    overflowed: int = 0
    late_lanes: int = 0
    late_examples: int = 0
    bad: dict[tuple[str, int], Skip] = field(default_factory=dict)
    passes: PassRisks = field(default_factory=PassRisks)
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED_STEPS))
    evaluations: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None

    @property
    def left_out(self) -> dict[int, Skip]:
        """Training examples that were passed over, by stored number: who goes on need not look at them again."""
        return {number: skip for (split, number), skip in self.bad.items() if split == "train"}

    @classmethod
    def of(cls, job: Job) -> Progress:
        """Of a run that has not begun."""
        mode, every = job.mode, job.tracking.log_every
        if isinstance(mode, Online):
            window, stopping = mode.window, EarlyStopping(1)
        else:
            window, stopping = Online.window, EarlyStopping(mode.patience_examples or mode.patience, mode.min_delta)
        most, curves = job.evaluate.max_fraction_of_time, MinibatchCurves(every)
        measuring, probing = MeasuringTime(most), MeasuringTime(most, "probe")
        return cls(curves, Diagnostics(every), Progressive(window), measuring, probing, stopping)

    def to_json(self) -> dict[str, object]:
        """In JSON's types."""
        return {each.name: encoded(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_json(cls, found: dict[str, object]) -> Progress:
        """What `to_json` gave.

        Raises:
            ValueError: it did not.
        """
        if set(found) != {each.name for each in fields(cls)}:
            raise ValueError(f"not a run's progress: {sorted(found)}")
        return cls(**{name: decoded(value) for name, value in found.items()})
