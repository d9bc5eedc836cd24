"""What reading met on the way: the list of bad examples that were passed over, and a line when a store comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from streamtrain.errors import ShardError, complaint
from streamtrain.measure.cost import LoadingSince
from streamtrain.prepare.plan import Plan
from streamtrain.run.folder import RunFolder
from streamtrain.store import write_whole
from streamtrain.track.tracker import Tracker
from streamtrain.values import Loading, Skip

WORTH_SAYING_SECONDS = 1.0
"""Of waiting, all workers together, between two stints' ends."""


class Readers(Protocol):
    """All that read in a run."""

    def loading(self) -> Loading:
        """What reading has cost so far."""

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""


class LoaderHealth:
    """Asks all that read, after every stint.

    Args:
        skipped: bad examples that a run that goes on has passed over before; new ones are added to it.
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
        self._plan = plan
        self._tracker = tracker
        self._folder = folder
        self._say = say
        self._since = LoadingSince()
        self.skipped = {} if skipped is None else skipped
        self._listed = len(self.skipped)

    def look(self, readers: Readers) -> tuple[Loading, Loading]:
        """Takes up new bad examples; returns what reading has cost so far, and of it since the last look."""
        loading = readers.loading()
        read = self._since.after(loading)
        if read.skipped:
            self.skipped.update(readers.skipped())
        if read.retries > 0 and read.waited >= WORTH_SAYING_SECONDS:
            place = self._plan.place
            self._say(f"waited {read.waited:.1f} s for {place}: {read.retries} requests failed and were tried again")
        return loading, read

    def keep_list(self) -> None:
        """Keeps the list, where it has grown, as a file: a line of JSON an example, in the run's folder and tracker.

        Raises:
            ShardError: there are more than the job allows. OSError: the list could not be written.
        """
        if len(self.skipped) == self._listed:
            return
        self._listed = len(self.skipped)
        lines = [
            json.dumps({"split": split, "number": number, "example": skip.example, "reason": skip.reason})
            for (split, number), skip in sorted(self.skipped.items())
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
            (split, number), last = max(self.skipped.items())
            where = f"{last.example} ({split} {number})"
            expected, do = f"at most {most} bad examples", "repair the data, or raise data.max_bad_examples"
            raise ShardError(complaint(where, expected=expected, found=f"{skipped} so far; {last.reason}", do=do))
