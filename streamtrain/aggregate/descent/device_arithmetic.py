"""The aggregator's arithmetic where nothing is known on the host: decisions are tensors, and nobody waits for them.

The policy is the `Aggregator`'s, out of the same functions. What differs: since no number can be looked at, everything
is updated, and what was not to be is put back by a mask. Sums of norms are rounded in the order of the pieces, so
bits are the same for any number of workers, on devices of one kind.
"""

from __future__ import annotations

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.average import follow_on_device
from streamtrain.aggregate.descent.clip import clip_block, clip_scales
from streamtrain.aggregate.descent.decision import DeviceDecision, judge
from streamtrain.aggregate.descent.norms import CHANGES, change_span
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.moments import device_loss
from streamtrain.aggregate.state import AVERAGE, PARAMETERS, State


class DeviceArithmetic:
    """What an `Aggregator` does, on a device.

    Args:
        aggregator: whose settings, pieces and rates these are.
        device: of all tensors.
    """

    def __init__(self, aggregator: Aggregator, device: torch.device) -> None:
        self._aggregator = aggregator
        self._descent = aggregator.descent
        layout = aggregator.layout
        sizes = torch.tensor([layout.end(place) - place.start for place in layout.parameters])
        self._owners = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)
        groups = torch.tensor([piece.rule.clipped_with for piece in aggregator.pieces])
        self._members = {group: (groups == group).to(device) for group in aggregator.bounds}
        self._streak = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), dtype=torch.bool, device=device)
        self._one = torch.ones((), dtype=torch.float64, device=device)

    def clip(self, block: Block, mean: torch.Tensor, old: State, norms: torch.Tensor) -> None:
        """Clips the mean gradient of a block by value and by unit, and notes its pieces' norms."""
        clip_block(block, mean, old, norms, _squared_norms)

    def decide(self, step: int, totals: torch.Tensor, norms: torch.Tensor, old: State) -> DeviceDecision:
        """What all do in this step.

        Args:
            totals: as `add_device_moments` makes them.
            norms: as `clip` wrote them, of every block.
        """
        squares = norms[1::2]
        examples = totals[0]
        loss = device_loss(totals)
        norm = squares.sum().sqrt()
        verdict = judge(
            self._descent, examples=examples, loss=loss, norm=norm, loss_scale=old.scaler[0], streak=self._streak
        )
        self._streak = verdict.streak
        self._stopped = self._stopped | verdict.stops  # for good: the host learns of it only when the stint has ended

        def norm_of_group(group: int) -> torch.Tensor:
            return torch.where(self._members[group], squares, 0.0).sum().sqrt()

        scales = clip_scales(self._aggregator.bounds, norm_of_group, self._one)
        goes = verdict.goes & ~self._stopped
        rate = self._aggregator.rate(step)
        averages = self._descent.average.is_kept and self._descent.average.takes_in(step)
        return DeviceDecision(rate, goes, verdict.overflowed, self._stopped, norm, scales, averages)

    def descend(
        self,
        block: Block,
        decision: DeviceDecision,
        mean: torch.Tensor,
        used: torch.Tensor,
        states: tuple[State, State],
    ) -> None:
        """The new state's part at this block.

        Args:
            mean: used up.
            used: of each parameter, whether a lane has a gradient.
            states: the old and the new one.
        """
        rule = block.rule
        place = block.place
        owners = self._owners[block.place]
        old, new = states[0].at(place), states[1].at(place)
        if self._aggregator.bounds[rule.clipped_with] is not None:
            mean.mul_(decision.scales[rule.clipped_with])
        updates = states[0].uses.double()[owners] if rule.optimizer.counts_updates() else 0
        block.move(decision.rate * rule.lr_factor, mean, old, new, updates)
        updated = (used & decision.goes)[owners]
        for name in new.keys() - {AVERAGE}:
            new[name].copy_(torch.where(updated, new[name], old[name]))
        average = self._descent.average
        averaged = states[0].averaged
        if average.is_kept:
            follow_on_device(average, old, new, averaged[0], decision.goes, takes_in=decision.averages)

    @staticmethod
    def note_change(block: Block, old: State, new: State, changes: torch.Tensor) -> None:
        """Leaves a block's squared norms in ``changes``: of the parameters before the update, and of their change."""
        before = old.at(block.place)
        first, end = change_span(block)
        change = new.at(block.place)[PARAMETERS] - before[PARAMETERS]
        changes[first:end:CHANGES] = _squared_norms(block, before[PARAMETERS])
        changes[first + 1 : end : CHANGES] = _squared_norms(block, change)


def _squared_norms(block: Block, vector: torch.Tensor) -> torch.Tensor:
    # Accumulated in float64, since nobody may look whether float32 has overflowed.
    parts = torch.split_with_sizes(vector, block.sizes)
    return torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]).square()
