"""Which examples are read for a lane, or for a minibatch: selections, each of which carries its pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamtrain.values import Position, Selection

if TYPE_CHECKING:
    from streamtrain.order.minibatches import Order, SegmentedOrder
    from streamtrain.order.passes import Passes


def select_lanes(
    order: Order | SegmentedOrder, passes: Passes, lanes: range, step: int, total_steps: int
) -> Iterator[Selection]:
    """What the worker that hosts ``lanes`` reads from global ``step`` to the end of the longest possible run.

    One selection for each part that has examples: minibatch after minibatch, and lane after lane in each.
    """
    for each in range(step, total_steps):
        position = order.position(each)
        for part in order.minibatch(position).parts[lanes.start : lanes.stop]:
            if part.examples:
                yield passes.stored(position.pass_index, part.start, part.stop)


def select_minibatch(
    order: Order | SegmentedOrder, passes: Passes, position: Position, lane: int | None = None
) -> Selection:
    """The examples of one minibatch, lane after lane, as one selection; of one lane alone, where it is named."""
    parts = order.minibatch(position).parts
    chosen = parts if lane is None else parts[lane : lane + 1]
    return _joined(
        [passes.stored(position.pass_index, part.start, part.stop) for part in chosen if part.examples],
        position.pass_index,
    )


def _joined(selections: Sequence[Selection], pass_index: int) -> Selection:
    """Selections of one pass as one, in their order."""
    if len(selections) == 1:
        return selections[0]
    if any(selection.numbers is not None for selection in selections):
        import numpy as np

        numbers = np.concatenate([selection.each() for selection in selections])
        own = [selection.passes for selection in selections if selection.passes is not None]
        return Selection(pass_index, numbers=numbers, passes=np.concatenate(own) if own else None)
    return Selection(pass_index, tuple(run for selection in selections for run in selection.runs))
