"""Requirements of a logged model: the packages that it imports, at the versions that are installed here."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from streamtrain.serving.map_source import NotShipped, cut_out, imported

OF_PROGRAM = ("torch", "numpy")
OF_PICKLE = (*OF_PROGRAM, "cloudpickle")


def pinned(packages: Iterable[str]) -> tuple[str, ...]:
    """What pip installs for these modules, e.g. ``pillow==11.0`` for PIL; what no package brought is left out."""
    brought = importlib.metadata.packages_distributions()
    names = {name for package in packages for name in brought.get(package, ())}
    return tuple(sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names))


def of_model(model: torch.nn.Module) -> set[str]:
    """Packages without which a pickled model cannot be read: those of its parts, and what the job's file imports for
    the parts that it has itself, whose code is in the pickle."""
    found: set[str] = set()
    own: dict[Path, set[str]] = {}
    for part in model.modules():
        kind = type(part)
        module = sys.modules.get(kind.__module__)
        file = getattr(module, "__file__", None)
        if file is not None and (kind.__module__ == "__main__" or kind.__module__.startswith("streamtrain_job_")):
            own.setdefault(Path(file), set()).add(kind.__qualname__.partition(".")[0])
        else:
            found.add(kind.__module__.partition(".")[0])
    for place, names in own.items():
        source = place.read_text()
        try:
            found |= set(imported(cut_out(source, *names)))
        except NotShipped:
            found |= set(imported(source))
    return found
