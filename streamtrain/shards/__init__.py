"""A data set at rest: tar files in WebDataset's layout, an index beside each, and the manifest that is their card."""

from streamtrain.shards.foreign import FAULTS, Finding, lint, scan_foreign
from streamtrain.shards.manifest import (
    FILE,
    Field,
    Manifest,
    Segment,
    Split,
    fetch_manifest,
    parse_manifest,
    read_manifest,
)
from streamtrain.shards.shard import verify
from streamtrain.shards.shard_list import Shard, ShardList
from streamtrain.shards.stored_order import stored_order

__all__ = [
    "FAULTS",
    "FILE",
    "Field",
    "Finding",
    "Manifest",
    "Segment",
    "Shard",
    "ShardList",
    "Split",
    "fetch_manifest",
    "lint",
    "parse_manifest",
    "read_manifest",
    "scan_foreign",
    "stored_order",
    "verify",
]
