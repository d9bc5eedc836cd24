"""Keeps the last checkpoint of a run at hand, and the last few where they outlive it."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

from streamtrain.errors import Interrupted, WorkerLost
from streamtrain.job import Job
from streamtrain.run.checkpoints.checkpoint_files import BEST, MEASURED, Checkpoint, CheckpointFiles
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.values import known

if TYPE_CHECKING:
    import torch

    from streamtrain.run.outcome.result import Evaluation

NOTHING: Mapping[str, Any] = MappingProxyType({})
COST = 0.02
"""Part of the time that checkpoints may take: the next one waits longer where they take long."""
MOST_LOSSES = 8
"""Losses without progress that end a run."""


class Saves(Protocol):
    """Who has the state."""

    def save(self) -> dict[str, torch.Tensor]:
        """All of it as named tensors."""


class Keeper:
    """See the module.

    Args:
        job: of the run.
        settings: what must be the same when it goes on.
        files: where checkpoints outlive the run; ``None`` for nowhere.
        last: the checkpoint to go on from, where there is one.
        run_id: MLflow's, as far as it is known.
    """

    def __init__(
        self,
        job: Job,
        settings: Mapping[str, str],
        files: CheckpointFiles | None = None,
        last: Checkpoint | None = None,
        run_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._job = job
        self._settings = settings
        self._files = files
        self._last = last
        self._run_id = run_id
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[bool] | None = None
        self._due = time.monotonic() + job.checkpoints.seconds
        self._losses = 0
        self._furthest = -1
        self._best_step = -1
        self._asked: str | None = None

    @property
    def step(self) -> int:
        """Updates in the last checkpoint."""
        return 0 if self._last is None else self._last.step

    @property
    def start(self) -> tuple[dict[str, torch.Tensor], int] | None:
        """What workers begin with: the last checkpoint's state and step."""
        return None if self._last is None else (self._last.state, self.step)

    def begin(self) -> tuple[Progress, dict[str, torch.Tensor]]:
        """The last checkpoint's progress, under the job's present settings, and the best parameters until then.

        A new run's where there is none.
        """
        if self._last is None:
            return Progress.of(self._job), {}
        return Progress.from_json(dict(self._last.progress)).under(self._job), self._last.part(BEST)

    @property
    def measured(self) -> dict[str, torch.Tensor]:
        """The parameters whose measurement the last checkpoint has as outstanding."""
        return {} if self._last is None else self._last.part(MEASURED)

    def ask_to_stop(self, why: str) -> None:
        """The next `keep` writes a checkpoint and raises; may be called by a signal's handler."""
        self._asked = why

    @property
    def asked(self) -> str | None:
        """Why the run was asked to stop, if it was."""
        return self._asked

    def settle(self) -> str:
        """What a run leaves behind whose workers are gone, once what was begun is written."""
        if self._files is None:
            return "no checkpoint is left: checkpoints.enabled is off"
        if self._writing is not None:
            concurrent.futures.wait([self._writing])
        return "--resume goes on from the checkpoint before, where there is one"

    def keep(
        self,
        fleet: Saves,
        progress: Progress,
        best: Mapping[str, torch.Tensor],
        measured: Mapping[str, torch.Tensor] = NOTHING,
    ) -> None:
        """Takes a checkpoint where it is time for one, and writes it beside the training that goes on.

        Args:
            best: the parameters that many passes would return.
            measured: those whose measurement is outstanding.

        Raises:
            Interrupted: the run was asked to stop; the message says whether the checkpoint is written.
        """
        asked = self._asked
        busy = self._writing is not None and not self._writing.done()
        if asked is None and (busy or time.monotonic() < self._due):
            return
        if self._writing is not None and not busy:
            self._writing.result()  # raises what the writer did not expect
        self.take(fleet, progress, best, measured)
        if asked is not None:
            raise Interrupted(f"{asked} after step {progress.step:,}; {self._left()}")

    def take(
        self,
        fleet: Saves,
        progress: Progress,
        best: Mapping[str, torch.Tensor],
        measured: Mapping[str, torch.Tensor] = NOTHING,
    ) -> None:
        """Takes a checkpoint now, as `keep` does, and writes it beside what goes on."""
        started = time.monotonic()
        parts = {BEST: best, MEASURED: measured}
        tensors = fleet.save() | {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
        self._last = Checkpoint(tensors, progress.to_json(), self._settings, self._run_id())
        if self._files is not None:
            self._writing = self._writer.submit(self._write, self._files, self._last, progress.best)
        ended = time.monotonic()
        self._due = ended + max(self._job.checkpoints.seconds, (ended - started) / COST)

    def keep_best(self, chosen: Evaluation, parameters: Mapping[str, torch.Tensor]) -> None:
        """The run has ended, and these are the parameters that it was for."""
        if self._files is not None:
            last = Checkpoint({f"{BEST}/{name}": tensor for name, tensor in parameters.items()}, {}, {})
            self._writing = self._writer.submit(self._write_best, self._files, last, chosen)

    def _write(self, files: CheckpointFiles, checkpoint: Checkpoint, chosen: Evaluation | None) -> bool:
        written = files.write(checkpoint)
        if written and chosen is not None:
            self._write_best(files, checkpoint, chosen)
        return written

    def _write_best(self, files: CheckpointFiles, checkpoint: Checkpoint, chosen: Evaluation) -> bool:
        if chosen.step != self._best_step:
            held_out = chosen.generalization
            about: dict[str, float | None] = {"step": chosen.step, "examples_used": chosen.examples_used}
            for name, mean in (("loss", held_out.loss), ("error", held_out.error)):
                about |= {f"held_out_{name}": mean.mean, f"held_out_{name}_standard_error": known(mean.standard_error)}
            if files.write_best(checkpoint.part(BEST), about):
                self._best_step = chosen.step
        return self._best_step == chosen.step

    def note_loss(self, step: int, lost: WorkerLost) -> None:
        """All workers were lost after ``step`` updates.

        Raises:
            WorkerLost: not for the first time, and without getting any further.
            Interrupted: the run was asked to stop, so that none need be called in their place.
        """
        if self._asked is not None:
            raise Interrupted(f"{self._asked}, and all workers were lost; {self.settle()}")
        self._losses = self._losses + 1 if step <= self._furthest else 1
        self._furthest = max(step, self._furthest)
        if self._losses >= MOST_LOSSES:
            raise WorkerLost(
                f"all workers were lost {self._losses} times after step {self._furthest:,}, so it is not chance; look "
                f"at the examples that come then (`streamtrain inspect`), and at what the model does with them ({lost})"
            )

    def _left(self) -> str:
        """What a run that stops here leaves behind, once it is there."""
        if self._writing is None:
            return "no checkpoint is left: checkpoints.enabled is off"
        if self._writing.result():
            return "a checkpoint is written: go on with --resume"
        return f"its checkpoint could not be written: {self.settle()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Returns when what was begun is written; raises what the writer did not expect, unless something else did."""
        self._writer.shutdown()
        if kind is None and self._writing is not None:
            self._writing.result()
