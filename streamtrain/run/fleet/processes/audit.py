"""A worker's side of an audit: lanes that another worker has computed too are compared before the step is made.

Costs nothing in a step that is not audited. When there are audits, and what becomes of a difference:
`streamtrain.run.fleet.actors.auditing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.memory import Capacity, DeviceMemory, Memory, private_memory
from streamtrain.aggregate.state import DeviceSlot, Slot
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import MiscomputedError
from streamtrain.model.gradient import Gradient
from streamtrain.prepare.plan import Plan


class Audit:
    """What others have computed of a worker's lanes, and the comparison."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._expected: dict[int, str] = {}
        self._step = -1

    def expect(self, exchange: Exchange, lanes: range, expected: Mapping[int, str]) -> None:
        """The checksums, by lane, that the exchange's next step is to have; those of others' lanes are left out."""
        self._expected = {lane: checksum for lane, checksum in expected.items() if lane in lanes}
        self._step = exchange.step if self._expected else -1
        exchange.apart_at = self._step

    def compare(self, exchange: Exchange) -> None:
        """Compares what is in this worker's slots; does nothing in a step that is not audited.

        Raises:
            MiscomputedError: a lane has other bits; the step is not to be made.
        """
        if exchange.step != self._step:
            return
        for lane, expected in self._expected.items():
            found = checksum(self._layout, exchange.slot(lane))
            if found != expected:
                raise MiscomputedError(exchange.step, lane, found, expected)


def checksum(layout: Layout, slot: Slot | DeviceSlot) -> str:
    """SHA-256 of all that a lane contributes but its gradient's norm, which is not always there."""
    parts = [place.view(slot.gradient) for place in layout.parameters]
    parts += [torch.as_tensor(each) for each in (slot.buffers, slot.counters, slot.used, slot.moments)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def private_lane(gradient: Gradient, plan: Plan) -> Memory | DeviceMemory:
    """Memory of one lane for this process alone, where the model computes; pages that nobody writes cost nothing."""
    layout = gradient.layout
    descent = Descent.of(plan.job)
    if plan.job.device == "cpu":
        return private_memory(layout, descent, Capacity(1))
    return DeviceMemory(layout, descent, 1, range(1), torch.device(plan.job.device))
