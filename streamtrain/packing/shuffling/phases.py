"""The phases of `pack`: who does their parts (this process, or tasks that `run` starts), and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streamtrain.packing.shuffling.runs import bad_examples
from streamtrain.packing.shuffling.runs.sorted_runs import Run
from streamtrain.packing.shuffling.scatter import Done, Scatter, finished_runs, ranges

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, examples done in it, and examples in all where that is known."""


class Spread(Protocol):
    """Who does the parts of a phase."""

    def tasks(self, source_bytes: int | None) -> int:
        """How many tasks are worth their while for a source of about this size."""
        ...

    def __call__(self, function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int, done: Done) -> None:
        """Does the function on all parts, so many at once, in any order; says how many further examples are done."""
        ...


class Here:
    """All parts in this process, one after the other."""

    def tasks(self, source_bytes: int | None) -> int:  # noqa: ARG002 - it makes no difference here
        """One."""
        return 1

    def __call__(self, function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int, done: Done) -> None:  # noqa: ARG002
        """Does the function on all parts."""
        for part in parts:
            function(part, done)


@dataclass(frozen=True)
class Phases:
    """Does one phase after the other.

    Attributes:
        spread: who does the parts.
        tasks: at once.
        memory_bytes: of all tasks, for the examples on their way.
        progress: hears how far each phase is.
    """

    spread: Spread
    tasks: int
    memory_bytes: int
    progress: Progress

    @property
    def task_bytes(self) -> int:
        """Memory of one task."""
        return max(1, self.memory_bytes // self.tasks)

    def __call__(
        self, phase: str, function: Callable[[Any, Done], None], parts: Sequence[Any], there: int, total: int | None
    ) -> None:
        """A phase, of which ``there`` examples are done already."""
        finished = there
        self.progress(phase, finished, total)

        def done(examples: int) -> None:
            nonlocal finished
            finished += examples
            self.progress(phase, finished, total)

        (self.spread if min(len(parts), self.tasks) > 1 else Here())(function, parts, self.tasks, done)
        self.progress(phase, finished, finished)

    def scatter(self, phase: str, scatter: Scatter) -> list[Run]:
        """All runs of a source, in its order; those that are there already are not made again.

        Raises:
            RefusedExamples: some examples cannot be taken, and ``scatter.most_bad`` says that they must.
        """
        scatter.folder.mkdir(exist_ok=True)
        parts = ranges(scatter.source, self.tasks, self.task_bytes)
        there = sum(run.stop - run.start for part in parts for run in finished_runs(scatter.folder, part))
        self(phase, scatter, parts, there, scatter.source.count)
        runs = [run for part in parts for run in finished_runs(scatter.folder, part)]
        bad = [each for run in runs for each in run.bad]
        if bad and scatter.most_bad is not None:
            raise bad_examples.RefusedExamples(bad)
        return runs
