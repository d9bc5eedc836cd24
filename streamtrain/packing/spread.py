"""Who does the parts of a phase of `pack`: this process, or tasks that `run` starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamtrain.packing.shuffling.scatter import Done


class Spread(Protocol):
    """Who does the parts of a phase."""

    def tasks(self, source_bytes: int | None) -> int:
        """How many tasks are worth their while for a source of about this size."""
        ...

    def __call__(self, function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int, done: Done) -> None:
        """Does the function on all parts, so many at once, in any order; says how many further examples are done."""
        ...


class Here:
    """All parts in this process, one after the other."""

    def tasks(self, source_bytes: int | None) -> int:  # noqa: ARG002 - it makes no difference here
        """One."""
        return 1

    def __call__(self, function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int, done: Done) -> None:  # noqa: ARG002
        """Does the function on all parts."""
        for part in parts:
            function(part, done)
