"""The exchange of any number of hosts, by torch.distributed: gloo between CPUs, NCCL between GPUs (written, never run).

Two all-to-alls a step (three where the norm is clipped): every worker adds up the whole subtrees of the
lane tree that it hosts and sends each piece's owner its part; owners finish the tree, clip, update, and
send the new parameters back. The additions are those of the `shared` exchange in the same order, so the
bits are the same. Parameters are whole everywhere after every step; momentum is with its owner, and
whole after `complete`. An all-to-all costs a fourth of an all-reduce (DESIGN, measurements).
"""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # made public by its name alone

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Piece, owner_of
from streamtrain.aggregate.descent.sgd import skip
from streamtrain.aggregate.exchange.mail import Mail, Part
from streamtrain.aggregate.exchange.rows import row_bytes, slots_in, used_in
from streamtrain.aggregate.exchange.shared import means_of, moments_of, rest_of_state
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import Node, mean_of, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import ALIGNMENT, Layout
from streamtrain.errors import WorkerLost, one_line
from streamtrain.values import Update

GROUP_SECONDS = 60
"""Within which all workers must have come, and a message must have arrived."""
LONGEST = 160
"""Characters that are kept of a message of the network's library."""
SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Address:
    """Where the workers find each other."""

    host: str
    port: int


@dataclass(frozen=True)
class Membership:
    """Who takes part: ``hosting[w]`` are the lanes of worker ``w``; ``worker`` is this one."""

    worker: int
    hosting: tuple[range, ...]

    @property
    def workers(self) -> int:
        """How many they are."""
        return len(self.hosting)

    @property
    def lanes(self) -> int:
        """How many lanes they host together."""
        return sum(map(len, self.hosting))


def open_store(host: str) -> tuple[Address, TCPStore]:
    """Where the others will ask for each other; lives as long as the store does."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return Address(host, store.port), store


def join_group(address: Address, membership: Membership, device: torch.device) -> None:
    """Meets the others; this process is in one group at a time.

    Raises:
        WorkerLost: somebody did not come.
    """
    wait = datetime.timedelta(seconds=GROUP_SECONDS)
    with lost_workers("while the workers met"):
        store = TCPStore(address.host, address.port, is_master=False, timeout=wait)
        if device.type == "cpu":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_to(address))
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=membership.worker,
            world_size=membership.workers,
            timeout=wait,
        )


@contextmanager
def lost_workers(when: str) -> Iterator[None]:
    """A failure of the network is told as what it mostly is: a worker that is gone."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(f"another worker was lost {when}: {one_line(error)[:LONGEST]}") from None


class CollectiveExchange:
    """See the module and `Exchange`.

    Args:
        layout: of the model.
        aggregator: of this worker's share.
        halves: both halves of this worker's state; the current one is whole but for others' momentum.
        membership: of the group that was joined.
        step: updates in the current state.
    """

    def __init__(
        self, layout: Layout, aggregator: Aggregator, halves: tuple[State, State], membership: Membership, step: int
    ) -> None:
        self._layout, self._aggregator, self._halves, self._step = layout, aggregator, halves, step
        self._lanes, self._clips_by_norm = membership.lanes, aggregator.clips_by_norm
        device, size = halves[0].parameters.device, layout.size
        self._rows = torch.zeros((self._lanes, row_bytes(layout)), dtype=torch.uint8)
        mine = membership.hosting[membership.worker]
        gradients = [
            torch.zeros(size * (lane in mine), dtype=layout.dtype, device=device) for lane in range(self._lanes)
        ]
        self._slots = slots_in(layout, self._rows, gradients)
        self._mine = self._slots[mine.start : mine.stop]
        self._norms = np.zeros(aggregator.norm_count)
        self._means = means_of(aggregator, halves[0].parameters)
        self._routes = Routes(layout, aggregator.pieces, membership, device, vectors=1 + bool(len(halves[0].average)))

    @property
    def step(self) -> int:
        """See `Exchange`."""
        return self._step

    @property
    def state(self) -> State:
        """See `Exchange`."""
        return self._halves[self._step % 2]

    def slot(self, lane: int) -> Slot:
        """See `Exchange`."""
        return self._slots[lane]

    def abandon(self) -> None:
        """See `Exchange`: the connections close, and whoever waits for this worker notices."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def complete(self) -> None:
        """See `Exchange`."""
        with lost_workers(f"after step {self._step}"):
            self._routes.spread_momentum(self.state.momentum)

    def meet(self) -> Update:
        """See `Exchange`."""
        aggregator, routes = self._aggregator, self._routes
        old, new = self._halves[self._step % 2], self._halves[1 - self._step % 2]
        with lost_workers(f"in step {self._step}"):
            aggregator.norms.note(self._step, self._mine)
            nodes = routes.gather(self._rows, self._slots)
            totals, lanes = moments_of(self._slots), aggregator.norms.of_lanes(self._step, self._slots)
            used = used_in(self._layout, self._rows)
            decision = aggregator.begin(self._step, used, old)
            for block, mean in zip(aggregator.blocks, self._means, strict=True):
                here = slice(block.place.start - routes.low, block.place.stop - routes.low)
                parts = {node: part[here] for node, part in nodes.items()}
                mean_of(self._lanes, parts, max(totals[0].count, 1), mean)
                aggregator.clip(block, mean, old, self._norms)
                if not self._clips_by_norm:
                    aggregator.descend(block, decision, mean, old, new)
            if self._clips_by_norm:
                routes.spread_norms(self._norms)
                decision, update = aggregator.decide(decision, totals, self._norms.tolist())
                for block, mean in zip(aggregator.blocks, self._means, strict=True):
                    aggregator.descend(block, decision, mean, old, new)
            rest_of_state(self._slots, used, decision, old, new)
            routes.spread(self._norms, *([new.parameters, new.average] if len(new.average) else [new.parameters]))
        if not self._clips_by_norm:
            decision, update = aggregator.decide(decision, totals, self._norms.tolist())
            if decision.skipped:
                skip(old, new, slice(0, self._layout.size))
                rest_of_state(self._slots, used, decision, old, new)
        if lanes:
            update = replace(update, norms=aggregator.norms.whole(lanes, self._norms.tolist(), old, new))
        self._step += 1
        return update


class Routes:
    """Which part of which vector goes to whom, as messages laid out once.

    Attributes:
        low: first element of the sums that this worker makes, at an aligned place, so that norms have the
            bits that they have in one block of memory.
    """

    def __init__(
        self, layout: Layout, pieces: tuple[Piece, ...], membership: Membership, device: torch.device, vectors: int
    ) -> None:
        me, workers, self._hosting = membership.worker, range(membership.workers), membership.hosting
        self._lanes, self._me = membership.lanes, me
        owners = [owner_of(piece, pieces, membership.workers) for piece in pieces]
        numbers = [slice(bisect_left(owners, w), bisect_right(owners, w)) for w in workers]
        self._numbers = [slice(2 * each.start, 2 * each.stop) for each in numbers]
        self._shares = [_span(pieces[each]) for each in numbers]
        step = ALIGNMENT // layout.dtype.itemsize
        self._sums = [slice(share.start // step * step, share.stop) for share in self._shares]
        self.low = self._sums[me].start
        self._nodes = [whole_subtrees(self._lanes, hosted) for hosted in self._hosting]

        def mail(part: Callable[[int, int], list[Part]]) -> Mail:
            return Mail(me, [part(me, w) for w in workers], [part(w, me) for w in workers], device)

        def contribution(source: int, target: int) -> list[Part]:
            rows = (len(self._hosting[source]) * row_bytes(layout), torch.uint8)
            return [rows, *[(_length(self._sums[target]), layout.dtype)] * len(self._nodes[source])]

        def norms(source: int, _: int) -> list[Part]:
            return [(_length(self._numbers[source]), torch.float64)]

        def share(source: int, _: int) -> list[Part]:
            return [(_length(self._shares[source]), layout.dtype)]

        self._contributions, self._norms, self._momentum = mail(contribution), mail(norms), mail(share)
        self._update = mail(lambda source, target: norms(source, target) + share(source, target) * vectors)

    def gather(self, rows: torch.Tensor, slots: Sequence[Slot]) -> dict[Node, torch.Tensor]:
        """Everybody's rows into ``rows``; returns the subtrees' sums of this worker's part, from ``low`` on."""
        me, mail = self._me, self._contributions
        nodes = {node: tree_sum_([slots[lane].gradient for lane in range(*node)]) for node in self._nodes[me]}
        for target, message in enumerate(mail.to):
            for view, part in zip(message, [_of(rows, self._hosting[me]), *nodes.values()], strict=False):
                view.copy_(part.view(-1) if part.dtype == torch.uint8 else part[self._sums[target]])
        mail.exchange(_send)
        parts = {node: vector[self._sums[me]] for node, vector in nodes.items()}
        for source, (hosted, message) in enumerate(zip(self._hosting, mail.received, strict=True)):
            if message:
                _of(rows, hosted).view(-1).copy_(message[0])
                parts |= dict(zip(self._nodes[source], message[1:], strict=True))
        return parts

    def spread_norms(self, norms: NDArray[np.float64]) -> None:
        """Everybody's norms into ``norms``."""
        self._spread(self._norms, [(torch.from_numpy(norms), self._numbers)])

    def spread(self, norms: NDArray[np.float64], *vectors: torch.Tensor) -> None:
        """Everybody's norms, and everybody's share of the vectors."""
        self._spread(
            self._update, [(torch.from_numpy(norms), self._numbers), *((vector, self._shares) for vector in vectors)]
        )

    def spread_momentum(self, momentum: torch.Tensor) -> None:
        """Everybody's share of the momentum."""
        self._spread(self._momentum, [(momentum, self._shares)])

    def _spread(self, mail: Mail, parts: Sequence[tuple[torch.Tensor, list[slice]]]) -> None:
        for message in mail.to:
            for view, (tensor, places) in zip(message, parts, strict=False):
                view.copy_(tensor[places[self._me]])
        mail.exchange(_send)
        for source, message in enumerate(mail.received):
            for view, (tensor, places) in zip(message, parts, strict=False):
                tensor[places[source]] = view


def _send(into: torch.Tensor, outof: torch.Tensor, coming: list[int], leaving: list[int]) -> None:
    torch.distributed.all_to_all_single(into, outof, coming, leaving)


def _span(pieces: tuple[Piece, ...]) -> slice:
    return slice(pieces[0].start, pieces[-1].stop) if pieces else slice(0, 0)


def _length(place: slice) -> int:
    length: int = place.stop - place.start
    return length


def _of(rows: torch.Tensor, hosted: range) -> torch.Tensor:
    return rows[hosted.start : hosted.stop]


def _interface_to(address: Address) -> str:
    """The network interface by which this machine reaches an address; gloo would take the host name's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address.host, address.port or 1))
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return "lo"
