"""A worker: hosts some lanes, computes their gradients, takes part in the exchange.

A plain class, made an actor in `recruiting`.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.collective.group import Address
from streamtrain.aggregate.exchange.contract import Exchange, Pending
from streamtrain.aggregate.exchange.device_exchange import settle
from streamtrain.aggregate.exchange.join import Participant, Seat
from streamtrain.aggregate.exchange.memory import Frozen, Handle
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.moments import NoWeight, WrongWeight
from streamtrain.aggregate.saved import collect_tensors, restore
from streamtrain.aggregate.state import State
from streamtrain.job import BatchSize
from streamtrain.model.gradient import build_model
from streamtrain.model.machine.device import give_back_freed_memory, gpu_usage, prepare_process
from streamtrain.model.machine.fingerprint import take_fingerprint
from streamtrain.model.whole_minibatch import WholeMinibatchGradient, make_gradient
from streamtrain.order import lane_seed
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.processes.audit import Audit, checksum, private_lane
from streamtrain.run.fleet.processes.clock import Clock, TimedAggregator
from streamtrain.run.fleet.processes.measurer import measure_slices
from streamtrain.run.fleet.processes.supply import Supply
from streamtrain.run.loop import pooled_updates, updates
from streamtrain.run.watching.trace import Made, traced
from streamtrain.stream.ahead.copies import batches_of
from streamtrain.stream.ahead.streamer import StreamHandle
from streamtrain.track.system import HostUsage
from streamtrain.values import Arrays, Fingerprint, Loading, Risk, Selection, Skip, StepTimes, Update

MEASURED = 5
"""Steps of a block, in one of which a batch that follows the gradient's noise has it measured."""


@dataclass(frozen=True)
class Standing:
    """How far a worker is: updates in its state, -1 where it has none yet, and seconds since the last of them."""

    step: int
    seconds: float


class Worker:
    """Hosts some lanes of a run, over one formation after another.

    Calls come in this order: ``offer_memory`` or ``make_store`` of one worker, ``join`` of all, then ``advance``,
    ``evaluate`` and ``snapshot`` as often as wanted. ``join`` begins a new formation, at any step. When a worker was
    lost, ``standing`` and ``last_updates`` say what the others have; who lacks it gets it by ``receive``, or with
    the memory.

    Args:
        start: a checkpoint's tensors and step, to begin with.
    """

    def __init__(self, plan: Plan, start: tuple[Mapping[str, torch.Tensor], int] | None = None) -> None:
        prepare_process(plan.job)
        self._plan = plan
        self._start = start
        self._gradient = make_gradient(plan.job)
        self._supply = Supply(plan)
        self._participant = Participant(
            plan.job,
            self._gradient.layout,
            lanes=plan.order.lanes,
            pass_steps=plan.order.steps,
            fill=self._fill,
            parameters=self._gradient.parameters,
            frozen=Frozen(self._gradient.model),
        )
        self._audit = Audit(self._gradient.layout)
        self._clock = Clock()
        self._host = HostUsage(Path.cwd())
        self._trace: str | None = None
        self._last_updates: list[Update | Pending] = []
        self._moved = time.monotonic()

    def process_number(self) -> int:
        """This process's."""
        return os.getpid()

    def fingerprint(self) -> Fingerprint:
        """What chooses the kernels of this process."""
        return take_fingerprint(self._plan.job)

    def make_store(self, host: str) -> Address:
        """Opens the place where workers of several hosts ask for each other; ``host`` is this one's address."""
        return self._participant.open_store(host)

    def standing(self) -> Standing:
        """How far this worker is."""
        return Standing(self._participant.step, time.monotonic() - self._moved)

    def last_updates(self) -> list[Update]:
        """Updates of the last ``advance``, also where it did not end well."""
        return settle(self._last_updates)

    def receive(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Takes over another worker's state, as ``save`` gave it, for the formation that comes."""
        self._start = tensors, step
        self._participant.forget()

    def offer_memory(self, step: int) -> Handle | None:
        """Names the block in which the workers of one host meet, with this one's state after ``step`` updates.

        Makes it where there is none; it has no name where there is never more than one worker.
        """
        return self._participant.offer_memory(step)

    def join(self, seat: Seat, streams: Sequence[StreamHandle] = ()) -> None:
        """Enters the exchange.

        Args:
            streams: of this worker's streamers; none where the worker reads itself.
        """
        self._seat = seat
        exchange = self._participant.join(seat, self._make_aggregator)
        if isinstance(exchange, Exchange):
            self._gradient.forget()
            self._begin(exchange, streams)

    def leave_out(self, plan: Plan) -> None:
        """Goes on without the examples that ``plan`` leaves out; ``join`` comes next."""
        self._plan = plan
        self._supply.leave_out(plan)

    def extend(self, plan: Plan, streams: Sequence[StreamHandle] = ()) -> None:
        """Goes on with a data set that has grown, or other batch sizes; ``streams`` as in ``join``, from here on."""
        self._plan = plan
        self._supply.extend(plan)
        if isinstance(self._exchange, Exchange):
            self._begin(self._exchange, streams)

    def _begin(self, exchange: Exchange, streams: Sequence[StreamHandle]) -> None:
        """Makes the loop that `advance` drives, from the exchange's step on."""
        plan = self._plan
        lanes = self._seat.lanes
        if isinstance(self._gradient, WholeMinibatchGradient):
            self._gradient.gather = lambda mine: self._clock.time_meeting(exchange.gather, mine)
        self._gradient.load(exchange.state)
        give_back_freed_memory()  # the tensors that the model was built with, which the block's have replaced
        arrays = self._clock.time_waiting(self._supply.begin(lanes, exchange.step, streams))
        batches = batches_of(arrays, torch.device(plan.job.device))
        self._updates = self._traced(
            updates(plan.order, lanes, batches, self._gradient, exchange, self._audit, self._clock, plan.job.seed)
        )

    def audit(self, step: int, lane: int) -> str:
        """The checksum of what ``lane`` contributes to ``step``, the one that comes next, computed here.

        Its examples are read here too, not by a streamer. Nothing is changed.
        """
        order = self._plan.order
        gradient = self._gradient
        position = order.position(step)
        part = order.minibatch(position).parts[lane]
        chosen = self._plan.pass_orders.stored(position.pass_index, part.start, part.stop)
        examples = self._supply.part(chosen) if part.examples else {}
        slot = private_lane(gradient, self._plan).slots[0]
        gradient.load(self._exchange.state)
        if examples:
            gradient.lane(examples, slot, lane_seed(self._plan.job.seed, step, lane))
        else:
            gradient.empty_lane(slot)
        return checksum(gradient.layout, slot)

    def advance(self, step: int, audited: Mapping[int, str] | None = None) -> list[Update]:
        """Trains until ``step`` updates are in the state.

        Args:
            audited: what others have computed of the first of these steps: checksums by lane.

        Returns:
            The updates: the first worker all of them, since all have the same; from a pool, each those that it made.

        Raises:
            NonFiniteError, JobError, DataError: the state is that of the last good step.
            MiscomputedError: this worker's lane has other bits than its auditor's; the step is not made.
            WorkerLost: another worker died or gave up.
        """
        first = self._exchange.step
        began = time.perf_counter()
        try:
            if isinstance(self._exchange, Pool):
                plan = self._plan
                pool = self._exchange
                made = pooled_updates(
                    plan.order,
                    plan.pass_orders,
                    self._read,
                    self._gradient,
                    pool,
                    self._clock,
                    plan.job.seed,
                    until=step,
                )
                return list(self._traced(made))
            self._last_updates = []
            self._audit.expect(self._exchange, self._seat.lanes, audited or {})
            for update in itertools.islice(self._updates, step - self._exchange.step):
                self._last_updates.append(update)  # kept, for the case that another worker is lost
                self._moved = time.monotonic()
            last_updates = settle(self._last_updates)
        except BaseException as error:
            self._exchange.abandon()
            if isinstance(error, WrongWeight | NoWeight):
                raise self._supply.name_weights(error, self._exchange.step) from None
            raise
        finally:
            self._clock.training += time.perf_counter() - began
            self._clock.steps += self._exchange.step - first
        return last_updates if self._seat.index == 0 else []

    def evaluate(
        self, split: str, batches: Sequence[Sequence[tuple[int, int]]], *, by_class: bool = False
    ) -> list[list[Risk]]:
        """Risk on each ``(start, stop)`` of a split, by `Plan.select`'s numbers, at the current state.

        Args:
            batches: of `measured_together`.
            by_class: with a classifier's counts of each class.
        """
        self._load()
        return measure_slices(
            self._plan,
            self._gradient,
            self._supply,
            split,
            batches,
            by_class=by_class,
            workers=self._seat.workers,
        )

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state, on the CPU, sharing no memory."""
        self._load()
        return self._gradient.state_dict()

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones, which follow from the seed again."""
        self._load()
        start = dict(build_model(self._plan.job).named_parameters())
        with torch.no_grad():
            trained = ((name, p) for name, p in self._gradient.model.named_parameters() if p.requires_grad)
            ways = [p.cpu() - start[name] for name, p in trained]
            return math.hypot(*(float(torch.linalg.vector_norm(way)) for way in ways))

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""
        return collect_tensors(self._gradient.layout, self._exchange.state)

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum; all workers are called, one of a memory writes."""
        if self._participant.writes_state:
            self._gradient.write(self._exchange.state, parameters)
        self._gradient.forget()

    def usage(self) -> dict[str, float]:
        """What this host, and this worker's GPU, are used for now, under MLflow's names."""
        return self._host.take() | gpu_usage(self._plan.job.device)

    def loading(self) -> Loading:
        """What reading has cost this worker so far, and its streamers."""
        return self._supply.loading(self._clock.waiting)

    def trace(self) -> str | None:
        """A few of its steps as a Chrome trace, where the job asks for one and they are made."""
        return self._trace

    def _keep_trace(self, trace: str) -> None:
        self._trace = trace

    def _traced(self, updates: Iterator[Made]) -> Iterator[Made]:
        """The same; with a trace, where the job asks for one and there is none."""
        return traced(updates, self._keep_trace) if self._plan.job.profile and self._trace is None else updates

    def times(self) -> StepTimes:
        """What this worker's steps have been spent on so far."""
        return self._clock.times(self._supply.ahead())

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that this worker itself passed over, by split and number in the stored order."""
        return self._supply.skipped()

    @property
    def _exchange(self) -> Exchange | Pool:
        return self._participant.exchange

    def _fill(self, state: State) -> None:
        """The state that the run begins with here: the model's initial one, or a checkpoint's or another worker's."""
        self._gradient.write(state, self._gradient.model.state_dict())
        if self._start is not None:
            restore(self._gradient.layout, state, self._start[0])

    def _make_aggregator(self, worker: int, workers: int) -> Aggregator:
        """The timed aggregator of a worker's share."""
        job = self._plan.job
        aggregator = TimedAggregator(
            self._gradient.layout,
            Descent.of(job),
            rate_of=lambda optimizer, step: self._plan.rate_of(optimizer, step),  # the plan changes
            worker=worker,
            workers=workers,
            norms_every=job.tracking.log_every if job.tracking.diagnostics else 0,
            own_every=MEASURED if isinstance(job.batch_size, BatchSize) and job.batch_size.follow else 0,
            scaled=job.precision == "fp16",
        )
        aggregator.clock = self._clock
        return aggregator

    def _read(self, selection: Selection) -> Arrays:
        """A part that came from the pool."""
        return next(self._clock.time_waiting(self._supply.part(each) for each in (selection,)))

    def _load(self) -> None:
        """What is evaluated and returned: the parameters, or their average."""
        state = self._exchange.state
        self._gradient.load(state, state.evaluated)
