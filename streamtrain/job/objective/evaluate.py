"""When both risks are measured while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_declared


@dataclass(frozen=True)
class Evaluate:
    """Measurements of both risks while a run goes on."""

    max_fraction_of_time: float | None = None
    """Leave out measurements while they would take more than this part of the time; the first and last are made.
    What is left out then depends on the machine's pace, and early stopping with it. Probes have a part of this size of
    their own."""

    def __post_init__(self) -> None:
        require_declared(self, "evaluate.")
        most = self.max_fraction_of_time
        require(
            most is None or 0 < most < 1,
            "evaluate.max_fraction_of_time",
            "between 0 and 1",
            most,
            "choose a part of the time, e.g. 0.2",
        )
