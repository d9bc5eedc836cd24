"""Once for a data set: raw data to shards, shuffled uniformly and out of core, with a manifest."""

from streamtrain.packing.options import PackOptions
from streamtrain.packing.packing import pack

__all__ = ["PackOptions", "pack"]
