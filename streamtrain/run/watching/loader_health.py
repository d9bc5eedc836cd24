"""Is reading the bottleneck, and was anything passed over: what the controller tells the tracker about the loader."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Protocol

from streamtrain.errors import ShardError, complaint
from streamtrain.prepare.plan import Plan
from streamtrain.run.folder import RunFolder
from streamtrain.store import write_whole
from streamtrain.track.tracker import Tracker
from streamtrain.values import Loading, Reading, Skip

WORTH_SAYING_SECONDS = 1.0
"""Of waiting, all workers together, between two stints' ends."""


class Readers(Protocol):
    """All that read in a run."""

    @property
    def workers(self) -> int:
        """How many they are now."""

    def loading(self) -> Loading:
        """What reading has cost so far."""

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""


class LoaderHealth:
    """Curves under ``loader/``, and the file of skipped examples; see the module.

    Args:
        skipped: what a run that goes on has passed over before; new ones are added to it.
        say: takes a line where workers waited for a store that did not answer, and has come back.
    """

    def __init__(
        self,
        plan: Plan,
        tracker: Tracker,
        folder: RunFolder,
        skipped: dict[tuple[str, int], Skip] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan, self._tracker, self._folder, self._say = plan, tracker, folder, say
        self._before = Loading()
        self._skipped = {} if skipped is None else skipped

    def note(self, readers: Readers, step: int, seconds: float) -> None:
        """After a stint of ``seconds`` that ended with global ``step``.

        Raises:
            ShardError: more examples were skipped than the job allows. OSError: their list could not be written.
        """
        loading, before, now = readers.loading(), self._before, time.time()
        if any(its < was for its, was in zip(astuple(loading), astuple(before), strict=True)):
            # a lost worker's share went with it
            before = Loading()
        listed = len(self._skipped)
        if loading.skipped != before.skipped:
            self._skipped.update(readers.skipped())
        values = {
            "waiting_share": min(1.0, (loading.waited - before.waited) / (seconds * readers.workers)),
            "bytes_per_second": (loading.bytes_read - before.bytes_read) / seconds,
            "skipped": float(len(self._skipped)),
            "cache_hits": float(loading.cache_hits),
            "cache_misses": float(loading.cache_misses),
            "fetched_bytes_per_second": (loading.bytes_fetched - before.bytes_fetched) / seconds,
            "retries": float(loading.retries),
        }
        self._tracker.log([Reading(f"loader/{name}", value, step, now) for name, value in values.items()])
        again, waited = loading.retries - before.retries, loading.waited - before.waited
        if again > 0 and waited >= WORTH_SAYING_SECONDS:
            self._say(f"waited {waited:.1f} s for {self._plan.place}: {again} requests failed and were tried again")
        self._before = loading
        if len(self._skipped) > listed:
            self._list()

    def _list(self) -> None:
        """Keeps the list as a file, one line of JSON an example, in the run's folder and in the tracker."""
        lines = [
            json.dumps({"split": split, "number": number, "example": skip.example, "reason": skip.reason})
            for (split, number), skip in sorted(self._skipped.items())
        ]
        file = self._folder.skipped(len(lines))
        try:
            write_whole(file, "\n".join(lines).encode() + b"\n")
            self._tracker.artifact(file, "skipped")
        finally:
            self._check_number(len(lines))

    def _check_number(self, skipped: int) -> None:
        most = self._plan.job.data.max_bad_examples
        if skipped > most:
            (split, number), last = max(self._skipped.items())
            where = f"{last.example} ({split} {number})"
            expected, do = f"at most {most} bad examples", "repair the data, or raise data.max_bad_examples"
            raise ShardError(complaint(where, expected=expected, found=f"{skipped} so far; {last.reason}", do=do))
