"""Whether the workers of a run compute the same bits: their fingerprints against that which the run began with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.values import Fingerprint

MOST_TOLD = 4
"""Differences that a line names; one cause often shows in several."""


class Likeness:
    """What the workers have in common, and what the job's ``bits`` makes of a difference.

    Args:
        began: the fingerprint that a run began with which goes on; of a new run, that of the first worker.
        say: takes a line about a difference that is allowed, or about a worker that is turned away.

    Attributes:
        fingerprint: that all are compared with; ``None`` before the first worker.
        told: the differences that were allowed.
    """

    def __init__(self, job: Job, began: Fingerprint | None, say: Callable[[str], None]) -> None:
        self._job = job
        self._say = say
        self._goes_on = began is not None
        self.fingerprint = began
        self.told: list[str] = []

    def check(self, found: Sequence[Fingerprint]) -> None:
        """The workers of the first formation; allowed differences are told.

        Raises:
            ConfigError: one differs, and the job does not allow it.
        """
        if self.fingerprint is None:
            self.fingerprint = found[0]
        for each in found:
            if self._differs(each):
                raise ConfigError(self._refusal(self._named(each)))
        self._goes_on = False

    def find_strangers(self, found: Sequence[Fingerprint]) -> list[int]:
        """Which of those who come later differ, and are to be turned away; a line for each."""
        refused = [index for index, each in enumerate(found) if self._differs(each)]
        for index in refused:
            self._say(
                f"a worker on host {found[index].host} is turned away: {self._refusal(self._named(found[index]))}"
            )
        return refused

    def _differs(self, other: Fingerprint) -> bool:
        """Whether it does, and is not allowed to."""
        named = self._named(other)
        if named and self._job.bits == "any" and named not in self.told:
            self.told.append(named)
            self._say(f"bits may differ from host to host, as bits=any allows: {named}")
        return bool(named) and self._job.bits != "any"

    def _named(self, other: Fingerprint) -> str:
        differences = [] if self.fingerprint is None else self.fingerprint.differences(other)
        more = len(differences) - MOST_TOLD
        return ", ".join(differences[:MOST_TOLD]) + (f", and {more} more" if more > 0 else "")

    def _refusal(self, named: str) -> str:
        where = "--resume, bits" if self._goes_on else "bits"
        expected = "what the run began with" if self._goes_on else "workers that compute the same bits"
        do = "use hosts and libraries of one kind, or allow it by --bits any"
        if self._job.bits == "same":
            do = "use hosts and libraries of one kind, a new run with --bits portable, or allow it by --bits any"
        return complaint(where, expected=expected, found=named, do=do)
