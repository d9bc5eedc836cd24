"""How far a run is, and what was measured on the way: all of a controller that outlives its process.

What a checkpoint holds beside tensors and settings is the fields of `Progress`, and of what they hold: each declares
its own (`streamtrain.stored`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamtrain.job import Job, Online
from streamtrain.measure.early_stopping import EarlyStopping
from streamtrain.measure.run_curves import Measures
from streamtrain.run.outcome.result import Evaluation
from streamtrain.stored import Stored
from streamtrain.values import Fingerprint, Skip


@dataclass
class Progress(Stored):
    """Where a controller is, and what it would decide by.

    Attributes:
        measures: what the curves remember.
        stopping: whether many passes stop early.
        step: updates in the state. used: examples in them, each use counted. seconds: spent on them.
        since: step from which the present part of the data is trained on; 0 unless it grows.
        bad: examples that were passed over, by split and stored number.
        fingerprint: of the workers that the run began with.
        evaluations, best: so far; ``best`` has the parameters that many passes would return.
    """

    measures: Measures
    stopping: EarlyStopping
    step: int = 0
    since: int = 0
    used: int = 0
    seconds: float = 0.0
    bad: dict[tuple[str, int], Skip] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None
    fingerprint: Fingerprint | None = None

    @property
    def left_out(self) -> dict[int, Skip]:
        """Training examples that were passed over, by stored number: who goes on need not look at them again."""
        return {number: skip for (split, number), skip in self.bad.items() if split == "train"}

    @classmethod
    def of(cls, job: Job) -> Progress:
        """Of a run that has not begun."""
        mode = job.mode
        if isinstance(mode, Online):
            stopping = EarlyStopping(1)
        else:
            stopping = EarlyStopping(mode.patience_examples or mode.patience, mode.min_delta)
        return cls(Measures.of(job), stopping)
