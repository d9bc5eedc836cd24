"""A look inside a few steps: torch's profiler in every worker, and one Chrome trace of them all."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from streamtrain.store import write_whole

if TYPE_CHECKING:
    from streamtrain.job import Job
    from streamtrain.run.fleet.protocol import Fleet
    from streamtrain.run.folder import OptionalFiles, RunFolder
    from streamtrain.track.terminal import Terminal
    from streamtrain.track.tracker import Tracker

Made = TypeVar("Made")
WARM_STEPS, TRACED_STEPS = 5, 5
"""Steps that are left out at the beginning, since first steps are slower, and those that are traced after them."""


def traced(updates: Iterator[Made], keep: Callable[[str], None]) -> Iterator[Made]:
    """The same updates; a trace of a few of the steps goes to ``keep``, as JSON."""
    yield from itertools.islice(updates, WARM_STEPS)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(TRACED_STEPS):
            with torch.profiler.record_function("step"):
                update = next(updates, None)
            if update is None:
                break
            yield update
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        keep(Path(file.name).read_text())
    yield from updates


def merged(traces: Sequence[str]) -> str:
    """The workers' traces as one, on one clock; every process says whose it is."""
    found = [json.loads(trace) for trace in traces]
    start = min(trace.get("baseTimeNanoseconds", 0) for trace in found)
    numbers: dict[tuple[int, Any], int] = {}
    events = []
    for worker, trace in enumerate(found):
        later = (trace.get("baseTimeNanoseconds", 0) - start) / 1000
        for event in trace["traceEvents"]:
            place = (worker, event.get("pid"))
            if place not in numbers:
                numbers[place] = len(numbers)
                named = {"name": f"worker {worker}, {place[1]}"}
                events.append({"ph": "M", "name": "process_name", "pid": numbers[place], "args": named})
            if event.get("ph") == "M" and event.get("name") == "process_name":
                continue
            moved = {"ts": event["ts"] + later} if "ts" in event else {}
            events.append({**event, "pid": numbers[place], **moved})
    return json.dumps({"baseTimeNanoseconds": start, "displayTimeUnit": "ms", "traceEvents": events})


class Traces:
    """Of a run whose job asks for a profile: one file and artifact, once all workers have theirs."""

    def __init__(
        self, job: Job, tracker: Tracker, terminal: Terminal, folder: RunFolder, optional: OptionalFiles
    ) -> None:
        self._wanted = job.profile
        self._tracker = tracker
        self._terminal = terminal
        self._file = folder.trace
        self._optional = optional

    def keep(self, fleet: Fleet) -> None:
        """Writes them, where they are wanted and there."""
        if not self._wanted:
            return
        traces = [trace for trace in fleet.traces() if trace is not None]
        if len(traces) == fleet.workers:
            self._wanted = False
            with self._optional.writing(self._file):
                write_whole(self._file, merged(traces).encode())
                self._tracker.artifact(self._file, "profile")
                where = f"a trace of {len(traces)} worker(s) is in {self._file}"
                self._terminal.line(f"{where}; open it at https://ui.perfetto.dev")
