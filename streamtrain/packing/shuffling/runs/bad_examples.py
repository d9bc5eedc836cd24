"""Examples that cannot be taken: all named in one error, or listed beside the shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from streamtrain.errors import SourceError, complaint

NAMED = 20
"""Of them, in an error."""
MOST = 1000
"""Where so many are found before any error, reading ends: it is no longer about single examples."""

Bad = Sequence[tuple[str, str]]
"""Place and reason of each."""


class RefusedExamples(SourceError):
    """One error for all of them; the example's own where there is one.

    Args:
        bad: they.
        more: whether there may be more.
        listed: the file that names them all, where one was written.
    """

    def __init__(self, bad: Bad, more: bool = False, listed: str = "") -> None:
        self.bad = tuple(bad)
        self.more = more
        self.listed = listed
        super().__init__(_message(self.bad, more, listed))

    def __reduce__(self) -> tuple[type[RefusedExamples], tuple[Bad, bool, str]]:
        return type(self), (self.bad, self.more, self.listed)

    def with_list(self, file: Path) -> RefusedExamples:
        """The same, with all of them listed in ``file`` where it cannot name them all."""
        if len(self.bad) <= NAMED:
            return self
        write_list(file, self.bad, "")
        return RefusedExamples(self.bad, self.more, str(file))


def _message(bad: Bad, more: bool, listed: str) -> str:
    if len(bad) == 1:
        return bad[0][1]
    shown = " | ".join(_without_advice(reason) for _, reason in bad[:NAMED])
    left = len(bad) - NAMED
    rest = "" if left <= 0 else f" | and {left:,} more"
    rest += f", all of them listed in {listed}" if listed else ""
    found = f"{len(bad):,}{' or more' if more else ''} that cannot: {shown}{rest}"
    do = "repair or remove them, or set --on-bad-example skip, which lists them in DEST"
    return complaint("source", expected="examples that can be taken", found=found, do=do)


def shown(bad: Bad, without: str) -> tuple[tuple[str, str], ...]:
    """Place and reason of each, without advice; ``without`` is left out at the beginning of both."""
    return tuple(
        (
            place.removeprefix(without),
            _without_advice(reason).removeprefix(without).removeprefix(place.removeprefix(without)).lstrip(", :"),
        )
        for place, reason in bad
    )


def write_list(file: Path, bad: Bad, without: str) -> None:
    """All of them, a line of JSON each."""
    lines = (json.dumps({"example": place, "reason": reason}) for place, reason in shown(bad, without))
    file.write_text("".join(f"{line}\n" for line in lines))


def _without_advice(reason: str) -> str:
    return reason.rpartition("; ")[0] or reason
