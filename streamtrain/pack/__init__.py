"""Once for a data set: raw data to shards at rest, shuffled uniformly, with a manifest."""

from streamtrain.pack.foreign import FAULTS, Finding, lint, scan_foreign
from streamtrain.pack.manifest import FILE, Field, Manifest, Shard, Split, read_manifest
from streamtrain.pack.options import PackOptions
from streamtrain.pack.packing import pack
from streamtrain.pack.shard import verify
from streamtrain.pack.shuffle import stored_order

__all__ = [
    "FAULTS",
    "FILE",
    "Field",
    "Finding",
    "Manifest",
    "PackOptions",
    "Shard",
    "Split",
    "lint",
    "pack",
    "read_manifest",
    "scan_foreign",
    "stored_order",
    "verify",
]
