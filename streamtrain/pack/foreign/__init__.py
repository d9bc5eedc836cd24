"""Shards that `pack` did not write: a manifest made by looking, and all that readers would take differently."""

from streamtrain.pack.foreign.faults import FAULTS, Fault, Finding
from streamtrain.pack.foreign.lint import lint
from streamtrain.pack.foreign.scan import scan_foreign

__all__ = ["FAULTS", "Fault", "Finding", "lint", "scan_foreign"]
