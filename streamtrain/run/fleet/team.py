"""Who trains: workers that were lost or joined, and whether their bits are of one kind."""

from __future__ import annotations

import time

from streamtrain.job import Job
from streamtrain.measure.run_curves import RunCurves
from streamtrain.run.fleet.protocol import Fleet
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import Tracker


class Team:
    """Looks at a run's fleet, and tells what has changed.

    Args:
        curves: of the run.
    """

    def __init__(self, job: Job, fleet: Fleet, curves: RunCurves, tracker: Tracker, terminal: Terminal) -> None:
        self._job = job
        self._fleet = fleet
        self._curves = curves
        self._tracker = tracker
        self._terminal = terminal
        self._workers = 0
        self._bits = ""

    def tell(self, step: int) -> None:
        """A line, a point and a tag for every recovery since the last call; a line where workers joined.

        Args:
            step: updates in the state.
        """
        recovered = self._fleet.recovered()
        before = self._workers
        self._workers = self._fleet.workers
        if not recovered and before and self._workers > before:
            self._terminal.line(f"{self._workers - before} joined: {self._workers} workers at step {step:,}")
        for each in recovered:
            self._terminal.line(
                f"{each.lost + '; ' if each.lost else ''}going on at step {each.step:,} with {each.workers} worker(s), "
                f"{each.seconds:.1f} s after the last update"
            )
            self._tracker.log(self._curves.recovery(each, time.time()))
        if recovered:
            self._tracker.tag("recoveries", str(self._curves.recoveries))
        tagged = self._bits
        self._bits = "; ".join([self._job.bits, *self._fleet.likeness.told])
        if tagged != self._bits:
            self._tracker.tag("bits", self._bits)
