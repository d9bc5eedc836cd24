"""Shards that `pack` did not write: a manifest made by looking, and all that readers would take differently."""

from streamtrain.shards.foreign.faults import FAULTS, Fault, Finding
from streamtrain.shards.foreign.lint import lint
from streamtrain.shards.foreign.scan import scan_foreign

__all__ = ["FAULTS", "Fault", "Finding", "lint", "scan_foreign"]
