"""Audits: a lane of every worker computed a second time by another, and compared bit by bit before the step is made.

Bits do not depend on who computes, so a difference is an error of a core or of memory. Which steps and lanes are
looked at follows from the job alone. Hardware that errs again and again is found by the next audit, since every
worker is looked at in each; what errs once, between two audits, is not. So the state after an audit is taken for
good, checkpoints are kept there only, and a run goes back to the last one when a difference is found.

An audit costs a lane's gradient and one more call of every worker; all wait for each other meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamtrain.errors import MiscomputedError, WorkerLost
from streamtrain.job import Job
from streamtrain.order import hosting_of, lane_seed
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.actors.members import Member

CHOICE = 1 << 40
"""Beyond any lane's number: audits choose by other random numbers than lanes draw."""
Gather = Callable[[Sequence[Any]], list[Any]]
"""Results of calls."""


@dataclass(frozen=True)
class Check:
    """A lane in an audit, by whom it is computed in the step, and by whom before that; workers by index."""

    lane: int
    worker: int
    auditor: int


def audited_steps(job: Job, first: int, until: int) -> Iterator[int]:
    """The steps from ``first`` on and before ``until`` that are audited: the last of each ``audit_every``."""
    every = job.audit_every
    return (step for step in range(first, until) if every and (step + 1) % every == 0)


def checks_of(step: int, seed: int, hosting: Sequence[range]) -> list[Check]:
    """A lane of every worker, chosen by (seed, step, worker), and its neighbour as the auditor; alone, itself."""
    return [
        Check(lanes[lane_seed(seed, step, CHOICE + worker) % len(lanes)], worker, (worker + 1) % len(hosting))
        for worker, lanes in enumerate(hosting)
    ]


def audit(plan: Plan, step: int, members: Sequence[Member], gather: Gather) -> dict[int, str]:
    """Has lanes of ``step``, which comes next, computed; their checksums by lane, for the workers to compare."""
    checks = _checks(plan, step, members)
    found = gather([members[each.auditor].worker.audit.remote(step, each.lane) for each in checks])
    return {each.lane: checksum for each, checksum in zip(checks, found, strict=True)}


def accuse(plan: Plan, error: MiscomputedError, members: Sequence[Member], gather: Gather) -> WorkerLost:
    """Finds who erred, by having all workers compute the lane again; the loss of that worker, naming its host."""
    (check,) = (each for each in _checks(plan, error.step, members) if each.lane == error.lane)
    again = gather([each.worker.audit.remote(error.step, error.lane) for each in members])
    suspects = erring(check, (error.found, error.expected), again)
    hosts = [each.host for each in gather([members[index].worker.fingerprint.remote() for index in suspects])]
    named = " or ".join(f"worker {index} on host {host}" for index, host in zip(suspects, hosts, strict=True))
    return WorkerLost(
        f"{named} computed other bits than it should for lane {error.lane} of step {error.step:,}, which was not made: "
        "a core or memory there errs; leave the host out, and test it"
    )


def erring(check: Check, claims: tuple[str, str], again: Sequence[str]) -> list[int]:
    """Which of the two who differ erred: who does not say the same twice, or else whom most workers contradict.

    Args:
        claims: checksums that the worker and its auditor gave.
        again: those that all workers give when asked once more.

    Returns:
        One worker's index; both, where that cannot be said.
    """
    pair = list(dict.fromkeys((check.worker, check.auditor)))
    claimed = dict(zip((check.worker, check.auditor), claims, strict=True))
    unsure = [index for index in pair if again[index] != claimed[index]]
    if len(unsure) == 1:
        return unsure
    (most, votes), *others = Counter(again).most_common()
    outvoted = [index for index in pair if again[index] != most]
    return outvoted if len(outvoted) == 1 and not (others and others[0][1] == votes) else pair


def _checks(plan: Plan, step: int, members: Sequence[Member]) -> list[Check]:
    return checks_of(step, plan.job.seed, hosting_of(plan.order.lanes, len(members)))
