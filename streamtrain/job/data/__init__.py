"""Which data set, and what happens to its examples on the way to the model: declared, not done."""

from streamtrain.job.data.balanced import Balanced
from streamtrain.job.data.collate import check_collate, pads_of
from streamtrain.job.data.data import CACHE_BYTES, Data
from streamtrain.job.data.functions import Augment, AugmentBatch, Collate, Map, Transform
from streamtrain.job.data.in_rows import Pack
from streamtrain.job.data.mixture import Mixture
from streamtrain.job.data.padding import Pad

__all__ = [
    "CACHE_BYTES",
    "Augment",
    "AugmentBatch",
    "Balanced",
    "Collate",
    "Data",
    "Map",
    "Mixture",
    "Pack",
    "Pad",
    "Transform",
    "check_collate",
    "pads_of",
]
