"""A function of the user's that yields dicts: ``module:function``, called without arguments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from streamtrain.errors import SourceError, complaint, one_line
from streamtrain.packing.sources.source import Example, Source


def from_function(module: str, name: str, label: str | None) -> Source:
    """The function's dicts as examples; it must yield the same ones in the same order for the same bytes.

    Raises:
        SourceError: no such module or function, or it fails.
    """
    where = f"{module}:{name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise SourceError(
            complaint(where, expected="an importable function", found=one_line(error), do="check the name")
        ) from error

    def examples(start: int) -> Iterator[Example]:
        for number, example in enumerate(_guarded(where, function)):
            if number < start:
                continue
            place = f"{where}, example {number}"
            if not isinstance(example, Mapping):
                found = repr(example)[:80]
                raise SourceError(complaint(place, expected="a dict", found=found, do="yield dicts"))
            yield place, dict(example)

    return Source(where, examples, None, label)


def _guarded(where: str, function: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    number = 0
    try:
        for number, example in enumerate(function(), start=1):  # noqa: B007 - told when the next one fails
            yield example
    except Exception as error:
        found, do = f"{one_line(error)} after {number} examples", "correct the function"
        raise SourceError(complaint(where, expected="more examples or the end", found=found, do=do)) from error
