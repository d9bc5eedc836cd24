"""The optimizers, a file each: which vectors it keeps, and how a block of elements moves; arithmetic alone.

Each reads the old vectors and writes the new ones elsewhere, so a step that stops halfway leaves what it started from.
It works on blocks that fit in a core's cache, by calls that write into what is there (``out=``).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

from streamtrain.job.update.optimizer import Optimizer


def known_optimizers() -> dict[str, type[Optimizer]]:
    """All of this folder that have a value for every setting, by their classes' names in lower case."""
    modules = (importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    return {
        each.__name__.lower(): each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Optimizer) and each.__module__ == module.__name__
        if not any(setting.default is setting.default_factory for setting in dataclasses.fields(each))
    }
