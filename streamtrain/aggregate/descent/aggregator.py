"""What an aggregator does with its share of the vector: mean, clipping, the decision, the update.

Exchanges differ in how sums reach it and how new parameters leave it; the arithmetic is here, once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.average import follow, keep, skip
from streamtrain.aggregate.descent.clip import clip_block, clip_scales, norm_of, squared_norm
from streamtrain.aggregate.descent.decision import KEPT, Decision, judge
from streamtrain.aggregate.descent.norms import StepNorms
from streamtrain.aggregate.descent.rules import Block, Descent, cut_pieces, take_share
from streamtrain.aggregate.moments import check_weights
from streamtrain.aggregate.state import NUMBERS, State
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import NonFiniteError
from streamtrain.job.update import Optimizer
from streamtrain.values import Moments, Update


class Aggregator:
    """One worker's share of the arithmetic.

    Args:
        layout: of the model.
        descent: settings of the update.
        rate_of: the learning rate of an optimizer at a global step.
        worker, workers: whose share it is.
        norms_every: steps from one update with `Norms` to the next; 0 for never.
        own_every: the same for `OwnNorms`.
        scaled: losses are scaled, see `scaler`.

    Attributes:
        layout, descent, scaled: as given.
        pieces: all workers', in order.
        blocks: this worker's share.
        norms: takes the norms of some of the steps.
        bounds: of norms, by the `Rule`'s ``clipped_with``.

    Raises:
        ConfigError: a group of settings that fits no parameter.
    """

    def __init__(
        self,
        layout: Layout,
        descent: Descent,
        *,
        rate_of: Callable[[Optimizer, int], float],
        worker: int,
        workers: int,
        norms_every: int = 0,
        own_every: int = 0,
        scaled: bool = False,
    ) -> None:
        self.layout = layout
        self.descent = descent
        self.scaled = scaled
        self.pieces = cut_pieces(descent, layout)
        self.blocks = take_share(self.pieces, worker, workers)
        self.bounds = {piece.rule.clipped_with: piece.rule.clip.norm for piece in self.pieces}
        self.norms = StepNorms(layout, self.pieces, norms_every, own_every)
        self._rate_of = rate_of
        self._optimizer = descent.optimizer.fitted(layout)
        self._counts_updates = any(piece.rule.optimizer.counts_updates() for piece in self.pieces)
        self._streak = 0

    def clip(self, block: Block, mean: torch.Tensor, old: State, norms: NDArray[np.float64]) -> None:
        """Clips the mean gradient of a block by value and by unit.

        Args:
            norms: all pieces' squared norms before and after it, piece by piece; the block's are written.
        """
        clip_block(block, mean, old, norms, _squared_norms)

    def rate(self, step: int) -> float:
        """The learning rate of global ``step``."""
        return self._rate_of(self._optimizer, step)

    def begin(self, step: int, used: NDArray[np.uint8], old: State) -> Decision:
        """What can be decided before any norm is known.

        Args:
            used: shape (lanes, parameters), 1 where a lane has a gradient.
        """
        rate = self.rate(step)
        scale = float(old.scaler[0]) if self.scaled else 0.0
        updates, others = self._others(used, old)
        decision = Decision(step, rate, updates, others, loss_scale=scale)
        average = self.descent.average
        if not average.is_kept:
            return decision
        return replace(decision, averaged=int(old.averaged[0]), averages=average.takes_in(step))

    def decide(
        self, decision: Decision, totals: tuple[Moments, Moments], norms: Sequence[float]
    ) -> tuple[Decision, Update]:
        """What all aggregators do, and what is reported of it.

        Args:
            decision: as `begin` made it.
            totals: of the minibatch's losses and errors.
            norms: as `clip` wrote them, of every block.

        Raises:
            NonFiniteError: the loss or the gradient is, and the policy is to stop.
            NoWeight: all examples weigh 0.
        """
        step = decision.step
        check_weights(step, totals)
        rate = decision.learning_rate
        scale = decision.loss_scale
        loss = totals[0]
        norm = norm_of(norms[1::2])
        verdict = judge(
            self.descent, examples=loss.count, loss=loss.mean, norm=norm, loss_scale=scale, streak=self._streak
        )
        self._streak = verdict.streak
        if verdict.stops:
            raise NonFiniteError(step, rate, norm, loss.mean)
        update = Update(step, *totals, rate, norm, 1.0, loss_scale=scale)
        if not loss.count:  # all its examples were bad ones
            return replace(decision, skipped=True), replace(update, gradient_norm=0.0, skipped=True)
        if not verdict.goes:
            skipped = replace(decision, skipped=True, overflowed=verdict.overflowed)
            return skipped, replace(update, clip_scale=0.0, skipped=True, overflowed=verdict.overflowed)
        if not self.clips_by_norm:
            return decision, update
        scales = self._scales(norms[1::2], norm)
        return replace(decision, scales=scales), replace(update, clip_scale=min(scales))

    def descend(
        self,
        block: Block,
        decision: Decision,
        mean: torch.Tensor,
        old: State,
        new: State,
        changes: NDArray[np.float64],
    ) -> None:
        """The new state's part at this block.

        Args:
            mean: used up.
            changes: see `StepNorms.note_change`; the block's are written.
        """
        if decision.skipped:
            skip(old, new, block.place)
            return
        if self.norms.is_weighed(decision.step):
            self.norms.note_own(block, mean, old, changes)
        scale = decision.scales[block.rule.clipped_with] if decision.scales else 1.0
        if scale != 1.0:
            mean.mul_(scale)
        rate = decision.learning_rate * block.rule.lr_factor
        if block.rule.optimizer.together == "model":
            self._move_model(block, rate, decision, mean, old, new)
        else:
            self._move_spans(block, rate, decision, mean, old, new)
        if self.descent.average.is_kept:
            before, after = old.at(block.place), new.at(block.place)
            follow(self.descent.average, before, after, decision.averaged, takes_in=decision.averages)
        if self.norms.is_shown(decision.step):
            self.norms.note_change(block, old, new, mean, changes)

    @staticmethod
    def _move_spans(block: Block, rate: float, decision: Decision, mean: torch.Tensor, old: State, new: State) -> None:
        """The update of a block, without the parameters that have no gradient."""
        for place, updates in _spans(block.place, decision):
            if updates == KEPT:
                keep(old, new, place)
            else:
                inside = mean[place.start - block.place.start : place.stop - block.place.start]
                block.move(rate, inside, old.at(place), new.at(place), updates)

    def _move_model(
        self, block: Block, rate: float, decision: Decision, mean: torch.Tensor, old: State, new: State
    ) -> None:
        """The step of an optimizer that takes the whole model, without the parameters that have no gradient."""
        updates = torch.full((len(self.layout.parameters),), decision.updates)
        others = {start: count for start, _, count in decision.others}
        for number, place in enumerate(self.layout.parameters):
            if place.start in others:
                updates[number] = others[place.start]
        before, after = (state.at(block.place) | {NUMBERS: state.numbers} for state in (old, new))
        block.rule.optimizer.move(rate, mean, before, after, updates)

    @functools.cached_property
    def clips_by_norm(self) -> bool:
        """Whether an update has to wait for all norms; an optimizer of a library also, which may fail at a NaN."""
        return self.descent.optimizer.together == "model" or any(bound is not None for bound in self.bounds.values())

    @property
    def norm_count(self) -> int:
        """How many norms `clip` writes, over all workers."""
        return 2 * len(self.pieces)

    def _scales(self, norms: Sequence[float], norm: float) -> tuple[float, ...]:
        def norm_of_group(group: int) -> float:
            own = (n for n, piece in zip(norms, self.pieces, strict=True) if piece.rule.clipped_with == group)
            return norm if len(self.bounds) == 1 else norm_of(own)

        return clip_scales(self.bounds, norm_of_group, 1.0)

    def _others(self, used: NDArray[np.uint8], old: State) -> tuple[int, tuple[tuple[int, int, int], ...]]:
        """`Decision.updates` and `Decision.others`."""
        counts = old.uses.tolist() if self._counts_updates else [0]
        updates = max(counts)
        if min(counts) == updates and used.all():
            return updates, ()
        flags = used.max(0).tolist()
        if not self._counts_updates:
            counts = [0] * len(flags)
        others = tuple(
            (place.start, self.layout.end(place), count if flag else KEPT)
            for place, flag, count in zip(self.layout.parameters, flags, counts, strict=True)
            if count != updates or not flag
        )
        return updates, others


def _spans(block: slice, decision: Decision) -> Iterator[tuple[slice, int]]:
    """The block, cut where parameters had other numbers of updates, or get none; mostly one span."""
    start = block.start
    for low, high, updates in decision.others:
        low, high = max(low, block.start), min(high, block.stop)
        if low < high:
            if start < low:
                yield slice(start, low), decision.updates
            yield slice(low, high), updates
            start = high
    if start < block.stop:
        yield slice(start, block.stop), decision.updates


def _squared_norms(block: Block, mean: torch.Tensor) -> list[float]:
    return [squared_norm(piece) for piece in torch.split_with_sizes(mean, block.sizes)]
