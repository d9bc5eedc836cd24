"""Workers and streamers as Ray actors, and what becomes of a run that loses some of them.

Ray places the processes and carries a call a second; bytes of a step never go through it. When a worker, a
streamer or a host is lost, the others go on from the step they are in, with its lanes, until a new one is there: the
bits are the same for any number of workers, and every worker has the whole state. Where nobody is left, and where
parts were taken from a pool, `WorkerLost` goes to the controller, who begins anew from a checkpoint by `restart`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.cloudpickle

from streamtrain.errors import MiscomputedError, ShardError, TrainingError, WorkerLost, complaint
from streamtrain.model.evaluation import measured_together
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.actors.auditing import accuse, audit, audited_steps
from streamtrain.run.fleet.actors.fatal_example import find_fatal_example
from streamtrain.run.fleet.actors.forming import Formation, admit
from streamtrain.run.fleet.actors.members import Member, keep_living, kill, usage_of
from streamtrain.run.fleet.actors.recruiting import Recruiter
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.track.system import Usage
from streamtrain.values import Fingerprint, Loading, Recovery, Risk, Skip, StepTimes, Update

if TYPE_CHECKING:
    import torch

Answer = TypeVar("Answer")
SUSPICIOUS, MOST_LOSSES = 2, 8
"""Losses in the same step for which an example is sought that causes them, and those that end a run without one."""


class RayFleet:
    """All workers of a run as actors; a `Fleet` for the controller. Use it as a context.

    Args:
        start: a checkpoint's tensors and step, to begin with.
        say: takes a line about what is waited for.
        began: the fingerprint of the run that goes on.

    Attributes:
        likeness: what the workers have in common.
    """

    def __init__(
        self,
        plan: Plan,
        start: tuple[Mapping[str, torch.Tensor], int] | None = None,
        say: Callable[[str], None] = lambda _: None,
        began: Fingerprint | None = None,
    ) -> None:
        self._recruiter = Recruiter(plan, start, say)
        self.likeness = Likeness(plan.job, began, say)
        self._members: list[Member] = []
        self._skipped: dict[tuple[str, int], Skip] = {}
        self._losses: list[int] = []
        self._recoveries: list[Recovery] = []
        self._formation = Formation(self._recruiter)
        self._step = 0
        self._target = 0
        self._lost_in = range(0)
        self._at = 0  # updates in the state: more than _step where a stint has lost a worker

    def __enter__(self) -> RayFleet:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._members)

    @property
    def _plan(self) -> Plan:
        return self._recruiter.plan

    def recovered(self) -> list[Recovery]:
        """Every time that the run went on after a loss since this was last asked."""
        recovered = self._recoveries
        self._recoveries = []
        return recovered

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        """New workers in place of all, from a checkpoint's tensors and step, or from the beginning."""
        began = time.monotonic()
        before = self._lost_in
        self._lost_in = range(self._step, self._target)
        self._stop()
        self._recruiter.start = start
        self._start()
        again = range(max(before.start, self._lost_in.start), min(before.stop, self._lost_in.stop))
        if again and self._leave_out_fatal(self._lost_in):
            self._form(self._members, self._step, self._members[0])
        self._recoveries.append(Recovery(self._step, time.monotonic() - began, len(self._members)))

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state; those made, each once, whoever was lost meanwhile."""
        self._target = step
        made: dict[int, Update] = {}  # by step: who is lost may have made one that the others then make again

        def take(updates: Sequence[Update]) -> None:
            made.update({update.step: update for update in updates if update.step >= self._step})

        def go_on() -> None:
            self._welcome()
            began = time.monotonic()
            audited: dict[int, str] = {}
            for until in (*audited_steps(self._plan.job, self._at, step), step):
                for updates in self._all("advance", until, audited):
                    take(updates)
                self._at = until
                audited = audit(self._plan, until, self._members, self._formation.gather) if until < step else {}
            self._formation.longest_stint = max(self._formation.longest_stint, time.monotonic() - began)

        try:
            self._insist(go_on, take)
        except MiscomputedError as error:  # also earlier steps may be wrong: nobody goes on from here
            raise accuse(self._plan, error, self._members, self._formation.gather) from None
        self._step = step
        return [made[number] for number in sorted(made)]

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]], *, by_class: bool = False) -> list[Risk]:
        """Risk on each slice, in the order of ``slices``; workers take what goes together in turn."""
        batches = measured_together(self._plan.job, self._plan.example_bytes, slices, whole=by_class)

        def evaluate() -> list[Risk]:
            count = len(self._members)
            calls = (
                each.worker.evaluate.remote(split, batches[i::count], by_class=by_class)
                for i, each in enumerate(self._members)
            )
            shares = self._each([*calls])
            return [risk for index in range(len(batches)) for risk in shares[index % count][index // count]]

        return self._insist(evaluate)

    def extend(self, plan: Plan, step: int) -> None:
        """Goes on with more data, or other minibatches, from global ``step``; streamers first: workers read from them.

        Where somebody is lost meanwhile, the others do it all again.
        """
        plan = replace(plan, left_out={**plan.left_out, **self._plan.left_out})
        self._recruiter.plan = plan
        self._recruiter.dismiss(self._members)
        placed = ray.put(plan)

        def extend() -> None:
            self._tell_streamers(placed)
            streams = self._recruiter.open_streams(self._members, step)
            self._each([m.worker.extend.remote(placed, own) for m, own in zip(self._members, streams, strict=True)])

        self._insist(extend)
        self._recruiter.call_others(self._members)

    def usage(self) -> Usage:
        """What the hosts and GPUs are used for now, told by one worker of each, by the host's address."""
        return self._insist(
            lambda: usage_of(self._members, self._recruiter.places(self._members), self._formation.gather)
        )

    def loading(self) -> Loading:
        """What reading has cost all workers so far."""
        return self._insist(lambda: sum(self._all("loading"), Loading()))

    def traces(self) -> list[str | None]:
        """Every worker's Chrome trace of a few steps, as JSON, where it is there."""
        return self._insist(lambda: self._all("trace"))

    def times(self) -> StepTimes:
        """What the steps of all workers have been spent on so far."""
        return self._insist(lambda: sum(self._all("times"), StepTimes()))

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number, also by those who are lost."""

        def ask() -> list[dict[tuple[str, int], Skip]]:
            actors = [actor for each in self._members for actor in each.actors]
            return self._formation.gather([actor.skipped.remote() for actor in actors])

        for skipped in self._insist(ask):
            self._skipped |= skipped
        return dict(self._skipped)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state, of the first worker: all have the same."""
        parameters: dict[str, torch.Tensor] = self._of_first("snapshot")
        return parameters

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones."""
        distance: float = self._of_first("distance")
        return distance

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""
        tensors: dict[str, torch.Tensor] = self._of_first("save")
        return tensors

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without what the optimizer keeps."""
        self._insist(lambda: self._all("restore", ray.put(parameters)))

    def _start(self) -> None:
        self._members = self._recruiter.take_room()
        self.likeness.check(self._formation.gather([each.worker.fingerprint.remote() for each in self._members]))
        start = self._recruiter.start
        self._step = self._target = 0 if start is None else start[1]
        self._form(self._members, self._step, None)
        self._recruiter.call_others(self._members)

    def _form(self, members: Sequence[Member], step: int, holder: Member | None) -> None:
        """A new formation, which goes on from ``step``."""
        self._formation.form(members, step, holder)
        self._at = step

    def _insist(self, call: Callable[[], Answer], take: Callable[[Sequence[Update]], None] = lambda _: None) -> Answer:
        """What the call answers, by those who are left where somebody is lost in it.

        Args:
            take: is given updates that the survivors made in a call that did not end.
        """
        while True:
            try:
                return call()
            except WorkerLost as lost:
                self._go_on_without(lost, take)

    def _go_on_without(self, lost: WorkerLost, take: Callable[[Sequence[Update]], None]) -> None:
        """A new formation of those who are left, however many more are lost in it; others are on their way."""
        stopped = None
        while True:  # each time fewer are left
            left = self._those_left(lost)
            try:
                standings = self._formation.standings(left)
                holder, standing = max(zip(left, standings, strict=True), key=lambda pair: pair[1].step)
                if standing.step < 0:
                    raise lost
                if stopped is None:
                    stopped = time.monotonic() - standing.seconds
                    self._note_loss(standing.step, lost)
                take(self._formation.gather([holder.worker.last_updates.remote()])[0])
                self._recruiter.call_others(left)
                self._form(left, standing.step, holder)
                self._recoveries.append(Recovery(standing.step, time.monotonic() - stopped, len(left), str(lost)))
                return
            except WorkerLost as another:
                if another is lost:
                    raise
                lost = another

    def _those_left(self, lost: WorkerLost) -> list[Member]:
        """Who lives; a worker whose streamers are lost reads from those it has left, or itself.

        Raises:
            WorkerLost: nobody, or they take their parts from a pool.
            Exception: what stopped a streamer that stopped by itself: the cause of its worker's loss.
        """
        left = keep_living(self._members, self._formation.gather, scattered=self._formation.scattered)
        if not left or self._plan.job.pooled:
            raise lost
        self._members = left
        return left

    def _note_loss(self, step: int, lost: WorkerLost) -> None:
        """Looks for the cause where a step has lost workers before; raises it, or that it is too often."""
        self._losses = [*(at for at in self._losses if at == step), step]
        if len(self._losses) == SUSPICIOUS:
            self._leave_out_fatal(range(step, step + 1))
        if len(self._losses) >= MOST_LOSSES:
            raise TrainingError(
                f"step {step}: workers were lost in it {len(self._losses)} times, so it is not chance; no example "
                f"of its minibatch does that by itself: look at the model, and at the memory that it takes ({lost})"
            )

    def _leave_out_fatal(self, steps: range) -> bool:
        """Whether an example in these steps ends whoever uses it; it is left out from now on.

        Raises:
            ShardError: it is not to be left out.
        """
        plan = self._plan
        first = self._members[0]
        parameters = first.worker.snapshot.remote()
        number = find_fatal_example(plan, steps, lambda: self._recruiter.examiner(first.bundle, parameters))
        if number is None:
            return False
        where, found = plan.reader("train").where(number), "one that ends every worker that uses it"
        do = "repair it, or set data.on_bad_example to skip"
        message = complaint(where, expected="an example that can be used", found=found, do=do)
        if plan.job.data.on_bad_example == "stop":
            raise ShardError(message)
        self._recruiter.plan = replace(plan, left_out={**plan.left_out, number: Skip(where, message)})
        self._recruiter.dismiss(self._members)
        placed = ray.put(self._plan)
        self._all("leave_out", placed)
        self._tell_streamers(placed)
        return True

    def _tell_streamers(self, placed: Any) -> None:
        """Hands the plan, as placed in Ray's store, to those who read."""
        self._formation.gather([one.extend.remote(placed) for each in self._members for one in each.streamers])

    def _welcome(self) -> None:
        """Forms anew where somebody has come who was on the way; those whose bits would differ are turned away."""
        arrived = self._recruiter.collect_arrivals(self._members)
        arrived, strangers = admit(arrived, self._members, self.likeness, self._formation.gather)
        for each in strangers:
            self._recruiter.turn_away(each)
        if arrived:
            holder = self._members[0]
            step = self._formation.standings(self._members[:1])[0].step
            members = {each.bundle.number: each for each in (*self._members, *arrived)}
            self._members = [members[number] for number in sorted(members)]
            self._form(self._members, step, members[holder.bundle.number])

    def _of_first(self, method: str) -> Any:
        return self._insist(lambda: self._formation.gather([getattr(self._members[0].worker, method).remote()])[0])

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._each([getattr(each.worker, method).remote(*arguments) for each in self._members])

    def _each(self, calls: Sequence[Any]) -> list[Any]:
        """Results of a call of every worker; ends those that do not answer while others do."""
        try:
            return self._formation.gather(calls)
        except WorkerLost:
            silent = ray.wait(list(calls), num_returns=len(calls), timeout=0)[1]
            for call, each in zip(calls, self._members, strict=True):
                kill(each.actors if call in silent else ())
            raise

    def _stop(self) -> None:
        self._recruiter.dismiss(self._members)
        kill(actor for each in self._members for actor in each.actors)
        self._recruiter.give_back_room()
        self._members = []
