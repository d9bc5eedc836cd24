"""The job's own functions, which hear of every evaluation and may end the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from streamtrain.errors import Interrupted, JobError, StreamtrainError, complaint, flat, one_line, users_code
from streamtrain.run.outcome.result import Evaluation


class Listeners:
    """Calls them one after another, in the process that called `streamtrain.train`.

    Args:
        functions: each takes an `Evaluation`; the run ends where it returns True or a text, which says why.
        on_error: whether one that raises ends the run.
        say: takes a line about one that raised while the run goes on.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Evaluation], object]] = (),
        on_error: Literal["stop", "go_on"] = "stop",
        say: Callable[[str], None] = print,
    ) -> None:
        self._functions = functions
        self._on_error = on_error
        self._say = say

    def hear(self, evaluation: Evaluation) -> str | None:
        """Why the run shall end now, in words; ``None`` where it goes on.

        Raises:
            JobError: a listener raised or answered something else, and ``on_error`` is stop.
        """
        why = None
        for function in self._functions:
            name = getattr(function, "__qualname__", type(function).__name__)
            try:
                wish = _wish(name, function, evaluation)
            except JobError as error:
                if self._on_error == "stop":
                    raise
                self._say(f"{error}; the run goes on")
                continue
            if wish is not None and why is None:
                why = f"listener {name} ended it" + (f": {wish}" if wish else "")
        return why


def _wish(name: str, function: Callable[[Evaluation], object], evaluation: Evaluation) -> str | None:
    """Why one listener would end the run, in words or none; ``None`` where it would not.

    Raises:
        JobError: it raised, or answered something else.
    """
    where, do = f"listener {name}", "repair it, and go on by --resume"
    with users_code(where, do=do):
        try:
            answer = function(evaluation)
        except Interrupted:
            raise
        except StreamtrainError as error:  # of what it called, not of this run
            raise JobError(f"{where} failed: {one_line(error)}; {do}") from error
    if isinstance(answer, str):
        return flat(answer) or None
    if answer is None or isinstance(answer, bool | np.bool_):
        return "" if answer else None
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns that nobody awaited it
    expected, do = "None, True, False or a reason", "return one of these, and go on by --resume"
    raise JobError(complaint(where, expected=expected, found=f"an answer of type {type(answer).__name__}", do=do))
