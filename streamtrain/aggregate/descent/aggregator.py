"""What an aggregator does with its share of the vector: mean, clipping, the decision, the update.

Exchanges differ in how sums reach it and how new parameters leave it; the arithmetic is here, once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.clip import clip_adaptive_, clip_scale, clip_value_, norm_of, squared_norm
from streamtrain.aggregate.descent.norms import StepNorms
from streamtrain.aggregate.descent.rules import Block, Piece, pieces_of, share_of
from streamtrain.aggregate.descent.scaler import LEAST
from streamtrain.aggregate.descent.schedule import base_rate, schedule_factor
from streamtrain.aggregate.descent.sgd import average, descend, direction, keep, skip
from streamtrain.aggregate.state import State
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import NonFiniteError
from streamtrain.job.optimizers import SGD
from streamtrain.values import Moments, Update


@dataclass(frozen=True)
class Decision:
    """How all aggregators update in this step; the same in all of them, since made from the same numbers.

    Attributes:
        step, learning_rate: of the update.
        others: parameters that are not treated like the rest, as (start, stop, ``"kept"`` where they
            have no gradient, or ``"first"`` where they were never updated), in order.
        scales: the factor that clipping by norm applies, by the `Rule`'s ``clipped_with``; empty: 1 for all.
        skipped: no update; ``overflowed``: since a float16 was not large enough.
        loss_scale: that gradients were computed with; 0 where none is.
    """

    step: int
    learning_rate: float
    others: tuple[tuple[int, int, str], ...] = ()
    scales: tuple[float, ...] = ()
    skipped: bool = False
    overflowed: bool = False
    loss_scale: float = 0.0

    @property
    def kept(self) -> list[tuple[int, int]]:
        """The elements, as (start, stop), of parameters that are not updated."""
        return [(start, stop) for start, stop, kind in self.others if kind == "kept"]


class Aggregator:
    """One worker's share of the arithmetic.

    Args:
        layout: of the model.
        sgd: settings of the update.
        batch_size: for linear scaling.
        total_steps: the longest possible run, for the schedule.
        worker, workers: whose share it is.
        norms_every: steps from one update with `Norms` to the next; 0 for never.
        scaled: losses are scaled, see `scaler`.

    Attributes:
        blocks: this worker's share.
        norms: takes the norms of some of the steps.
        bounds: of norms, by the `Rule`'s ``clipped_with``.

    Raises:
        ConfigError: a group of settings that fits no parameter.
    """

    def __init__(
        self,
        layout: Layout,
        sgd: SGD,
        *,
        batch_size: int,
        total_steps: int,
        worker: int,
        workers: int,
        norms_every: int = 0,
        scaled: bool = False,
    ) -> None:
        self._scaled, self._layout, self._sgd, self._total_steps = scaled, layout, sgd, total_steps
        self._base_rate = base_rate(sgd, batch_size)
        self._pieces = pieces_of(sgd, layout)
        self.bounds = {piece.rule.clipped_with: piece.rule.clip_norm for piece in self._pieces}
        self._skipped = 0
        self.norms = StepNorms(layout, self._pieces, norms_every)
        self.blocks = share_of(self._pieces, worker, workers)

    def clip(self, block: Block, mean: torch.Tensor, old: State, norms: NDArray[np.float64]) -> None:
        """Clips the mean gradient of a block by value and by unit.

        Args:
            norms: all pieces' squared norms before and after it, piece by piece; the block's are written.
        """
        rule = block.rule
        before = self._squared_norms(block, mean)
        if rule.clip_value is not None:
            clip_value_(mean, rule.clip_value)
        if rule.clip_adaptive is not None:
            clip_adaptive_(mean, old.parameters[block.place], block.pieces[0].unit, rule.clip_adaptive)
        clips = rule.clip_value is not None or rule.clip_adaptive is not None
        after = self._squared_norms(block, mean) if clips else before
        end = 2 * (block.first + len(block.pieces))
        norms[2 * block.first : end : 2], norms[2 * block.first + 1 : end : 2] = before, after

    def rate(self, step: int) -> float:
        """The learning rate of global ``step``."""
        return self._base_rate * schedule_factor(self._sgd.schedule, step, self._total_steps)

    def begin(self, step: int, used: NDArray[np.uint8], old: State) -> Decision:
        """What can be decided before any norm is known.

        Args:
            used: shape (lanes, parameters), 1 where a lane has a gradient.
        """
        rate = self.rate(step)
        scale = float(old.scaler[0]) if self._scaled else 0.0
        return Decision(step, rate, tuple(self._others(used, old)), loss_scale=scale)

    def decide(
        self, begun: Decision, totals: tuple[Moments, Moments], norms: Sequence[float]
    ) -> tuple[Decision, Update]:
        """What all aggregators do, and what is told about it.

        Args:
            totals: of the minibatch's losses and errors.
            norms: as `clip` wrote them, of every block.

        Raises:
            NonFiniteError: the loss or the gradient is, and the policy is to stop.
        """
        norm, loss_scale = norm_of(norms[1::2]), begun.loss_scale
        update = Update(begun.step, *totals, begun.learning_rate, norm, 1.0, loss_scale=loss_scale)
        if not totals[0].count:  # all its examples were bad ones
            return replace(begun, skipped=True), replace(update, gradient_norm=0.0, skipped=True)
        if not (math.isfinite(norm) and math.isfinite(totals[0].mean)):
            overflowed = loss_scale > LEAST and math.isfinite(totals[0].mean)
            if not overflowed:
                self._skipped += 1
                if self._sgd.nonfinite == "stop" or self._skipped > self._sgd.skip_limit:
                    raise NonFiniteError(begun.step, begun.learning_rate, norm, totals[0].mean)
            skipped = replace(begun, skipped=True, overflowed=overflowed)
            return skipped, replace(update, clip_scale=0.0, skipped=True, overflowed=overflowed)
        self._skipped = 0
        if not self.clips_by_norm:
            return begun, update
        scales = self._scales(norms[1::2], norm)
        return replace(begun, scales=scales), replace(update, clip_scale=min(scales))

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
        scale = decision.scales[block.rule.clipped_with] if decision.scales else 1.0
        if scale != 1.0:
            mean.mul_(scale)
        for place, kind in _spans(block.place, decision):
            if kind == "kept":
                keep(old, new, place)
            else:
                inside = mean[place.start - block.place.start : place.stop - block.place.start]
                rate, dampening = decision.learning_rate, block.rule.dampening
                enters = None if kind == "first" or not dampening else 1.0 - dampening
                descend(block.rule, rate, inside, old.at(place), new.at(place), enters=enters)
        if self._sgd.average is not None:
            average(old.at(block.place), new.at(block.place), self._sgd.average, first=decision.step == 0)
        if self.norms.due(decision.step):
            rate, kept = decision.learning_rate * block.rule.lr_factor, decision.kept
            self.norms.note_change(block, rate, direction(block.rule, mean, new.at(block.place)), old, kept, changes)

    @functools.cached_property
    def clips_by_norm(self) -> bool:
        """Whether an update has to wait for all norms."""
        return any(bound is not None for bound in self.bounds.values())

    @property
    def norm_count(self) -> int:
        """How many norms `clip` writes, over all workers."""
        return 2 * len(self._pieces)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All workers' pieces, in order."""
        return self._pieces

    @staticmethod
    def _squared_norms(block: Block, mean: torch.Tensor) -> list[float]:
        return [squared_norm(piece) for piece in torch.split_with_sizes(mean, block.sizes)]

    def _scales(self, norms: Sequence[float], norm: float) -> tuple[float, ...]:
        if len(self.bounds) == 1:
            return (clip_scale(norm, *self.bounds.values()),) * (1 + max(self.bounds))
        scales = [1.0] * (1 + max(self.bounds))
        for group, bound in self.bounds.items():
            own = [n for n, piece in zip(norms, self._pieces, strict=True) if piece.rule.clipped_with == group]
            scales[group] = clip_scale(norm_of(own), bound)
        return tuple(scales)

    def _others(self, used: NDArray[np.uint8], old: State) -> Iterator[tuple[int, int, str]]:
        if not self._sgd.dampening and used.all():
            return
        flags = used.max(0).tolist()
        uses = old.uses.tolist() if self._sgd.dampening else flags
        if all(flags) and all(uses):
            return
        for place, flag, count in zip(self._layout.parameters, flags, uses, strict=True):
            if not (flag and count):
                yield place.start, self._layout.end(place), "first" if flag else "kept"


def _spans(block: slice, decision: Decision) -> Iterator[tuple[slice, str]]:
    """The block, cut where the step treats some parameters in another way; mostly one span."""
    start = block.start
    for low, high, kind in decision.others:
        low, high = max(low, block.start), min(high, block.stop)
        if low < high:
            if start < low:
                yield slice(start, low), "updated"
            yield slice(low, high), kind
            start = high
    if start < block.stop:
        yield slice(start, block.stop), "updated"
