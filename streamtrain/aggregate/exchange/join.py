"""Which exchange a worker takes part in, in which memory and with whom: all of it is decided here.

| the formation | exchange | memory | who meets by what |
| --- | --- | --- | --- |
| parts come from a common pool | `Pool` | one shared block | all by claims in the block |
| workers compute on a device | `DeviceExchange` | each its own, on the device | all by a group of torch.distributed |
| one host | `SharedExchange` | one block, private for a single worker | all by a barrier in the block |
| several hosts | `CollectiveExchange` | a block a host | a host's first by a wire, the others by its block |

A formation is the workers that train together until one of them is lost or another comes. The next one begins with
the state of the last, which `Participant` carries over; only the first begins with the job's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.collective.exchange import CollectiveExchange
from streamtrain.aggregate.exchange.collective.group import Address, Membership, join_group, open_store
from streamtrain.aggregate.exchange.collective.hosts import find_memberships
from streamtrain.aggregate.exchange.collective.wire import connect
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    DeviceMemory,
    Frozen,
    Handle,
    Memory,
    block_size,
    keep_block,
    open_file,
    private_block,
    private_memory,
    shared_block,
)
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.state import State
from streamtrain.aggregate.vector import Layout
from streamtrain.job import Epochs, Job, Stale

MakeAggregator = Callable[[int, int], Aggregator]
"""Makes the aggregator of a worker's share: given the worker, and how many share the vector."""


@dataclass(frozen=True)
class Seat:
    """A worker's part in a formation: who it is, among whom, and where they meet.

    Attributes:
        index: of this worker.
        hosting: the lanes of every worker.
        step: updates in the state that they begin with.
        meeting: the block or the store of one of them; ``None`` where a worker is alone.
        processes: process number of every worker.
        hosts: the workers of each host, where they meet by network.
        block: in which the workers of this one's host meet then, where it has several.
    """

    index: int
    hosting: tuple[range, ...]
    step: int
    meeting: Handle | Address | None
    processes: Mapping[int, int]
    hosts: tuple[range, ...] = ()
    block: Handle | None = None

    @property
    def workers(self) -> int:
        """How many they are."""
        return len(self.hosting)

    @property
    def lanes(self) -> range:
        """That this worker hosts."""
        return self.hosting[self.index]

    @property
    def leads_its_host(self) -> bool:
        """Whether this worker writes for all who share its memory."""
        return self.index == 0 or any(self.index == host.start for host in self.hosts)


class Participant:
    """One worker's part in the exchanges of a run: its memory, and the exchange that it is in.

    ``offer_memory`` or ``open_store`` of one worker comes first, then ``join`` of all.

    Args:
        job: whose device, aggregation and number of workers decide.
        layout: of the model.
        lanes: of the run.
        pass_steps: steps of a pass.
        fill: writes the state that the run begins with for this worker.
        parameters: the model's, in the layout's order.
        frozen: the model's others.
    """

    def __init__(
        self,
        job: Job,
        layout: Layout,
        *,
        lanes: int,
        pass_steps: int,
        fill: Callable[[State], None],
        parameters: Sequence[torch.Tensor],
        frozen: Frozen,
    ) -> None:
        self._job = job
        self._descent = Descent.of(job)
        self._layout = layout
        self._fill = fill
        in_flight = job.aggregation.bound + 1 if isinstance(job.aggregation, Stale) else 1
        self._alone = job.most_workers == 1 and not job.pooled
        self._frozen = frozen
        shared = () if self._alone else frozen.sizes
        self._capacity = Capacity(lanes, job.most_workers, in_flight, job.backup, shared)
        self._pass_steps = pass_steps if isinstance(job.mode, Epochs) else 0
        # with micro-batches or a scaled loss, what backward makes is not yet the lane's gradient: nothing goes ahead
        self._sent_ahead = () if job.micro_batch or job.precision == "fp16" else parameters
        self._memory: Memory | None = None  # the block that is kept from one formation to the next
        self._handle: Handle | None = None
        self._current: Exchange | Pool | None = None

    @property
    def exchange(self) -> Exchange | Pool:
        """The one joined last."""
        assert self._current is not None, "join comes first"
        return self._current

    @property
    def step(self) -> int:
        """Updates in this worker's state; -1 where it has none yet."""
        return -1 if self._current is None else self._current.step

    @property
    def writes_state(self) -> bool:
        """Whether a state that is given to all is to be written by this worker, not by another that shares it."""
        return self._memory is None or self._seat.leads_its_host

    def offer_memory(self, step: int) -> Handle | None:
        """Names the block in which the workers of one host meet, with this one's state after ``step`` updates.

        Makes it where there is none; it has no name where there is never more than one worker.
        """
        if self._memory is None:
            size = block_size(self._layout, self._descent, self._capacity)
            block, self._handle = (private_block(size), None) if self._alone else shared_block(size)
            memory = Memory(self._layout, self._descent, self._capacity, block)
            self._carry_over(memory.states[step % len(memory.states)])
            if not self._alone:
                self._frozen.write(memory.frozen)
                self._frozen.share(memory.frozen)
            self._memory = memory
        self._memory.reset(step)
        return self._handle

    def open_store(self, host: str) -> Address:
        """Opens the place where workers of several hosts ask for each other; ``host`` is this one's address."""
        address, self._store = open_store(host)  # lives as long as somebody holds it
        return address

    def forget(self) -> None:
        """Drops this worker's state: the next formation gets what ``fill`` writes."""
        self._current = self._memory = self._handle = None

    def join(self, seat: Seat, make_aggregator: MakeAggregator) -> Exchange | Pool:
        """Enters a new formation; the exchange of the last one is left.

        Raises:
            WorkerLost: somebody did not come, or died before its memory was opened.
        """
        if isinstance(self._current, CollectiveExchange):
            self._current.leave()  # its block has been made ready for this formation: nobody gives up in it now
        elif isinstance(self._current, DeviceExchange):
            self._current.abandon()  # a process is in one group at a time
        self._seat = seat
        meeting = seat.meeting
        if self._job.pooled:
            assert isinstance(meeting, Handle)
            whole = make_aggregator(0, 1)  # whoever makes an update makes all of it
            self._current = Pool(self._opened(meeting), whole, open_file(meeting), self._pass_steps)
        elif self._job.device != "cpu":
            self._current = self._on_device(meeting, make_aggregator)
        elif isinstance(meeting, Address):
            self._current = self._between_hosts(meeting, make_aggregator)
        else:
            share = make_aggregator(seat.index, seat.workers)
            self._current = SharedExchange(
                self._opened(meeting), share, seat.hosting, worker=seat.index, processes=seat.processes
            )
        return self._current

    def _between_hosts(self, address: Address, make_aggregator: MakeAggregator) -> CollectiveExchange:
        seat = self._seat
        hosts, crew = find_memberships(seat.hosts, seat.hosting, seat.index)
        if seat.block is None:
            memory = private_memory(self._layout, self._descent, Capacity(hosts.lanes))
            self._begin_alone(memory)
        else:
            memory = self._opened(seat.block)
        first = seat.index - crew.worker
        return CollectiveExchange(
            self._layout,
            make_aggregator(crew.worker, crew.workers),
            memory,
            hosts,
            crew,
            processes={worker: seat.processes[first + worker] for worker in range(crew.workers)},
            wire=connect(address, hosts, self._job.lost_after) if crew.worker == 0 else None,
            parameters=self._sent_ahead,
        )

    def _on_device(self, meeting: Handle | Address | None, make_aggregator: MakeAggregator) -> DeviceExchange:
        job = self._job
        seat = self._seat
        device = torch.device(self._job.device)
        members = Membership(seat.index, seat.hosting)
        memory = DeviceMemory(self._layout, self._descent, members.lanes, seat.lanes, device)
        self._begin_alone(memory)
        if isinstance(meeting, Address):
            join_group(meeting, members, device, job.lost_after)
        share = make_aggregator(seat.index, seat.workers)
        return DeviceExchange(self._layout, share, DeviceArithmetic(share, device), memory, members)

    def _opened(self, handle: Handle | None) -> Memory:
        """The block that ``handle`` names; whoever made it, or has opened it before, has it already."""
        if self._memory is None:
            assert handle is not None
            block, self._handle = keep_block(handle)
            self._memory = Memory(self._layout, self._descent, self._capacity, block)
            self._frozen.share(self._memory.frozen)
        return self._memory

    def _begin_alone(self, memory: Memory | DeviceMemory) -> None:
        """Brings this worker's state into memory that it shares with nobody."""
        self._carry_over(memory.states[self._seat.step % 2])
        memory.words[0] = self._seat.step
        self._memory = self._handle = None

    def _carry_over(self, state: State) -> None:
        """The state that a formation begins with: the last one's, or what the run begins with."""
        if self._current is None:
            self._fill(state)
        else:
            state.copy_from(self._current.state)
