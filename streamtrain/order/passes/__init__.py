"""Which order the examples take in each pass: by arithmetic, nothing stored."""

from streamtrain.order.passes.by_length import LengthPasses
from streamtrain.order.passes.by_weight import WeightedPasses, Weights
from streamtrain.order.passes.part_passes import PartPasses
from streamtrain.order.passes.parts import Parts
from streamtrain.order.passes.pattern import share_pattern
from streamtrain.order.passes.reshuffled import (
    ExamplePasses,
    Passes,
    Reshuffle,
    ShardPasses,
    StoredPasses,
    passes_of,
)

__all__ = [
    "ExamplePasses",
    "LengthPasses",
    "PartPasses",
    "Parts",
    "Passes",
    "Reshuffle",
    "ShardPasses",
    "StoredPasses",
    "WeightedPasses",
    "Weights",
    "passes_of",
    "share_pattern",
]
