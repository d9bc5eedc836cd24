"""Once for a data set: raw data to shards at rest, shuffled uniformly, with a manifest."""

import importlib
import sys
import types
from typing import Any

from streamtrain.pack.foreign import FAULTS, Finding, lint, scan_foreign
from streamtrain.pack.making.packing import append, pack
from streamtrain.pack.making.shuffle import stored_order
from streamtrain.pack.manifest import (
    FILE,
    Field,
    Manifest,
    Segment,
    Split,
    fetch_manifest,
    parse_manifest,
    read_manifest,
)
from streamtrain.pack.options import PackOptions
from streamtrain.pack.shard import verify
from streamtrain.pack.shard_list import Shard, ShardList

__all__ = [
    "FAULTS",
    "FILE",
    "Field",
    "Finding",
    "Manifest",
    "PackOptions",
    "Segment",
    "Shard",
    "ShardList",
    "Split",
    "append",
    "fetch_manifest",
    "lint",
    "pack",
    "parse_manifest",
    "read_manifest",
    "scan_foreign",
    "stored_order",
    "verify",
]


class _CallablePackage(types.ModuleType):
    """`st.pack(…)` is `pack`: Python gives a package's name in its parent to the package, and hides the function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Manifest:
        # the public one also knows Ray, which this package must not
        return importlib.import_module("streamtrain.run.packing").pack(*arguments, **settings)  # type: ignore[no-any-return]


sys.modules[__name__].__class__ = _CallablePackage
