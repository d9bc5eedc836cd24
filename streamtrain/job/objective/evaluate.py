"""When both risks are measured while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared


@dataclass(frozen=True)
class Evaluate:
    """Measurements of both risks while a run goes on."""

    max_fraction_of_time: float | None = None
    """Leave out measurements while they would take more than this part of the time; the first and last are made.
    What is left out then depends on the machine's pace, and early stopping with it. Probes have a part of this size of
    their own."""
    every: int | None = None
    """Examples used between two measurements, also within passes; by default the ends of passes, or a tenth of a run in
    one pass. Early stopping looks at each of them."""
    examples: int | None = None
    """Held-out examples that are looked at, a random part that is the same each time; all by default. The empirical
    risk is measured on as many. The test split is measured whole."""

    def __post_init__(self) -> None:
        require_declared(self, "evaluate.")
        require_count("evaluate.every", self.every)
        require_count("evaluate.examples", self.examples, lowest=2)
        most = self.max_fraction_of_time
        require(
            most is None or 0 < most < 1,
            "evaluate.max_fraction_of_time",
            "between 0 and 1",
            most,
            "choose a part of the time, e.g. 0.2",
        )
