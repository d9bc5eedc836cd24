"""The aggregator's arithmetic where nothing is known on the host: decisions are tensors, and nobody waits for them.

As `Aggregator` does it, but that what was not to be updated is put back by a mask; sums of norms are rounded in the
order of the pieces, so bits are the same for any number of workers, on devices of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.clip import clip_adaptive_, clip_value_
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.descent.scaler import LEAST, adapt
from streamtrain.aggregate.descent.sgd import average, descend
from streamtrain.aggregate.state import DeviceSlot, State
from streamtrain.aggregate.tree import tree_sum_
from streamtrain.aggregate.vector import Layout
from streamtrain.job.optimizers import SGD


@dataclass(frozen=True)
class Outcome:
    """What is decided about a step; all but ``rate`` of shape ().

    Attributes:
        rate: the learning rate.
        goes: there is an update. overflowed: there is none since a float16 was not large enough.
        stopped: the run is to stop since something was not finite, in this step or one before.
        norm: the gradient's, before clipping by norm. scales: see `Decision`.
    """

    rate: float
    goes: torch.Tensor
    overflowed: torch.Tensor
    stopped: torch.Tensor
    norm: torch.Tensor
    scales: tuple[torch.Tensor, ...]


class DeviceArithmetic:
    """See the module.

    Args:
        layout: of the model.
        sgd: settings of the update.
        aggregator: whose pieces and rates these are.
        scaled: losses are scaled.
        device: of all tensors.
    """

    def __init__(self, layout: Layout, sgd: SGD, aggregator: Aggregator, device: torch.device, *, scaled: bool) -> None:
        self._sgd, self._aggregator, self._scaled = sgd, aggregator, scaled
        sizes = torch.tensor([layout.end(place) - place.start for place in layout.parameters])
        self._owners = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)
        groups = torch.tensor([piece.rule.clipped_with for piece in aggregator.pieces])
        self._members = {group: (groups == group).to(device) for group in aggregator.bounds}
        self._streak = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), dtype=torch.bool, device=device)
        self._one, self._never = torch.ones((), dtype=torch.float64, device=device), self._stopped.clone()

    def clip(self, block: Block, mean: torch.Tensor, old: State, norms: torch.Tensor) -> None:
        """See `Aggregator.clip`."""
        rule, end = block.rule, 2 * (block.first + len(block.pieces))
        norms[2 * block.first : end : 2] = _squared_norms(block, mean)
        if rule.clip_value is not None:
            clip_value_(mean, rule.clip_value)
        if rule.clip_adaptive is not None:
            clip_adaptive_(mean, old.parameters[block.place], block.pieces[0].unit, rule.clip_adaptive)
        norms[2 * block.first + 1 : end : 2] = _squared_norms(block, mean)

    def decide(self, step: int, totals: torch.Tensor, norms: torch.Tensor, old: State) -> Outcome:
        """See `Aggregator.decide`; ``totals`` are those of `totals_of`."""
        squares, (count, loss) = norms[1::2], totals[:2]
        norm = squares.sum().sqrt()
        some, finite = count > 0, torch.isfinite(norm) & torch.isfinite(loss)
        overflowed = self._never
        if self._scaled:
            overflowed = some & ~finite & torch.isfinite(loss) & (old.scaler[0] > LEAST)
        bad = some & ~finite & ~overflowed
        self._streak = torch.where(bad, self._streak + 1, torch.where(some & finite, 0, self._streak))
        most = 0 if self._sgd.nonfinite == "stop" else self._sgd.skip_limit
        self._stopped = self._stopped | (self._streak > most)
        scales = [self._one] * (1 + max(self._members))
        for group, members in self._members.items():
            bound = self._aggregator.bounds[group]
            if bound is not None:
                own = torch.where(members, squares, 0.0).sum().sqrt()
                scales[group] = (bound / (own + 1e-6)).clamp(max=1.0)
        rate, goes = self._aggregator.rate(step), some & finite & ~self._stopped
        return Outcome(rate, goes, overflowed, self._stopped, norm, tuple(scales))

    def descend(
        self,
        block: Block,
        outcome: Outcome,
        mean: torch.Tensor,
        used: torch.Tensor,
        states: tuple[State, State],
        step: int,
    ) -> None:
        """See `Aggregator.descend`; ``used`` says of each parameter whether a lane has a gradient."""
        rule, place, owners = block.rule, block.place, self._owners[block.place]
        old, new = states[0].at(place), states[1].at(place)
        if self._aggregator.bounds[rule.clipped_with] is not None:
            mean.mul_(outcome.scales[rule.clipped_with])
        enters = None
        if rule.dampening:
            enters = (states[0].uses > 0).to(mean.dtype).mul(-rule.dampening).add(1.0)[owners]
        descend(rule, outcome.rate, mean, old, new, enters=enters)
        updated = (used & outcome.goes)[owners]
        for before, after in ((old.parameters, new.parameters), (old.momentum, new.momentum)):
            after.copy_(torch.where(updated, after, before))
        if self._sgd.average is not None:
            average(old, new, self._sgd.average, first=step == 0)
            new.average.copy_(torch.where(outcome.goes, new.average, old.average))

    @staticmethod
    def note_change(block: Block, old: State, new: State, changes: torch.Tensor) -> None:
        """See `StepNorms.note_change`."""
        before, end = old.at(block.place).parameters, 2 * (block.first + len(block.pieces))
        changes[2 * block.first : end : 2] = _squared_norms(block, before)
        changes[2 * block.first + 1 : end : 2] = _squared_norms(block, new.at(block.place).parameters - before)

    def rest(self, slots: Sequence[DeviceSlot], used: torch.Tensor, outcome: Outcome, old: State, new: State) -> None:
        """What is not a vector of parameters; see `rest_of_state`."""
        had = torch.stack([slot.moments[0] > 0 for slot in slots])
        if len(new.buffers):
            whole = tree_sum_([torch.where(lane, slot.buffers, 0.0) for lane, slot in zip(had, slots, strict=True)])
            new.buffers.copy_(torch.where(outcome.goes, whole / had.sum().clamp(min=1), old.buffers))
        if len(new.counters):
            first = torch.index_select(torch.stack([slot.counters for slot in slots]), 0, had.int().argmax().view(1))
            new.counters.copy_(torch.where(outcome.goes, first[0], old.counters))
        new.uses.copy_(torch.where(outcome.goes, old.uses + used, old.uses))
        if self._scaled:
            adapt(old.scaler, new.scaler, outcome.overflowed)


def moments_of_values(values: torch.Tensor) -> torch.Tensor:
    """Count, mean and sum of squared deviations, as `Moments.of` has them: shape (3,), float64."""
    data = values.detach().double().flatten()
    mean = data.mean()
    return torch.stack([torch.full_like(mean, data.numel()), mean, (data - mean).square().sum()])


def merged(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of both samples together, as `Moments` adds them."""
    count, delta = one[0] + other[0], other[1] - one[1]
    share = other[0] / count.clamp(min=1)
    return torch.stack([count, one[1] + delta * share, one[2] + other[2] + delta * delta * one[0] * share])


def totals_of(slots: Sequence[DeviceSlot]) -> torch.Tensor:
    """Moments of the minibatch's losses, then of its errors, shape (6,)."""
    loss, error = torch.zeros_like(slots[0].moments[:3]), torch.zeros_like(slots[0].moments[:3])
    for slot in slots:
        loss, error = merged(loss, slot.moments[:3]), merged(error, slot.moments[3:])
    return torch.cat([loss, error])


def _squared_norms(block: Block, vector: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.dot(piece, piece) for piece in torch.split_with_sizes(vector, block.sizes)]).double()
