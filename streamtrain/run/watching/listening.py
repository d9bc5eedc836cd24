"""The job's own functions, which hear of every evaluation and may end the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from streamtrain.errors import JobError, users_code
from streamtrain.run.outcome.result import Evaluation


class Listeners:
    """Calls them one after another, in the process that called `streamtrain.train`.

    Args:
        functions: each takes an `Evaluation`; what it returns ends the run where it is true, a string says why.
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
            JobError: a listener raised, and ``on_error`` is stop.
        """
        why = None
        for function in self._functions:
            name = getattr(function, "__qualname__", type(function).__name__)
            try:
                with users_code(f"listener {name}", do="repair it, and go on by --resume"):
                    wish = function(evaluation)
            except JobError as error:
                if self._on_error == "stop":
                    raise
                self._say(f"{error}; the run goes on")
                continue
            if wish and why is None:
                why = f"listener {name} ended it" + (f": {wish}" if isinstance(wish, str) else "")
        return why
