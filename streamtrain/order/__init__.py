"""Which example, when, in which lane: integers only, no files, no Ray, no torch.

Everything here is a function of (examples, lanes, batch size); nothing is remembered but what of it was not used, and
nothing else grows with the number of examples.
"""

from streamtrain.order.hosting import hosting_of, lanes_of_worker
from streamtrain.order.lanes import lane, lanes_of
from streamtrain.order.minibatches import Later, Order, SegmentedOrder
from streamtrain.order.passes import (
    LengthPasses,
    PartPasses,
    Parts,
    Passes,
    Reshuffle,
    StoredPasses,
    WeightedPasses,
    Weights,
    passes_of,
)
from streamtrain.order.randomness import example_seed, lane_seed, split_seed
from streamtrain.order.selections import select_lanes, select_minibatch
from streamtrain.order.slices import evaluation_batches, evaluation_slice, evaluation_slices
from streamtrain.order.unused import Unused, without

__all__ = [
    "Later",
    "LengthPasses",
    "Order",
    "PartPasses",
    "Parts",
    "Passes",
    "Reshuffle",
    "SegmentedOrder",
    "StoredPasses",
    "Unused",
    "WeightedPasses",
    "Weights",
    "evaluation_batches",
    "evaluation_slice",
    "evaluation_slices",
    "example_seed",
    "hosting_of",
    "lane",
    "lane_seed",
    "lanes_of",
    "lanes_of_worker",
    "passes_of",
    "select_lanes",
    "select_minibatch",
    "split_seed",
    "without",
]
