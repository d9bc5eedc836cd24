"""When both risks are measured while a run goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared, require_finite

VALIDATION = "validation"


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
    """Held-out examples that are looked at, a random part that is the same each time; by default as many as take about
    a tenth of the work, at least 1,000, and all at the end of a run in one pass. The empirical risk is measured on as
    many. The test split is measured whole."""
    until: float | None = None
    """Look at held-out examples, in a random order that is the same each time, only until the standard error of their
    error is at most this: at least 500, and at most as many as `examples` says. How many they are depends on what they
    show, and on no machine."""
    splits: tuple[str, ...] = (VALIDATION,)
    """Held-out sets that are measured, validation among them: other splits of the data set, and other data sets by
    folder or URL with a slash in it, of which one split has examples, or with #SPLIT behind it."""
    beside: bool = False
    """Measure in a process of its own, with the resources of one more worker, while the workers train on. What follows
    from a measurement, as early stopping, then falls at the next one's place: the bits, the measurements and the
    parameters that many passes keep are those of a run that waits; where that ends early, this has trained as far as
    to that place."""

    def __post_init__(self) -> None:
        require_declared(self, "evaluate.")
        require_count("evaluate.every", self.every)
        require_count("evaluate.examples", self.examples, lowest=2)
        if self.until is not None:
            require_finite("evaluate.until", self.until, positive=True)
        self._check_splits()
        most = self.max_fraction_of_time
        require(
            most is None or 0 < most < 1,
            "evaluate.max_fraction_of_time",
            "between 0 and 1",
            most,
            "choose a part of the time, e.g. 0.2",
        )

    @property
    def others(self) -> dict[str, str]:
        """What is measured beside the validation split: name in curves -> split, or place of another data set."""
        return {_name(each): each for each in self.splits if each != VALIDATION}

    def check_beside(self, stop_on: str, *, is_mixture: bool) -> None:
        """Refuses what does not go with the rest of a job.

        Args:
            stop_on: the number that early stopping goes by, as NAME or SET/NAME; empty without it.
        """
        name = stop_on.rpartition("/")[0] or VALIDATION
        known = (VALIDATION, *self.others)
        do = "name it in evaluate.splits too"
        require(name in known, "mode.stop_on", f"one of the sets {', '.join(known)}", name, do)
        do = "leave it out, or set evaluate.examples"
        require(self.until is None or not is_mixture, "evaluate.until", "none of a st.Mixture", self.until, do)

    def _check_splits(self) -> None:
        splits = self.splits
        do = 'e.g. splits=("validation", "data/photos-by-night")'
        texts = isinstance(splits, tuple | list) and all(isinstance(each, str) and each for each in splits)
        require(texts, "evaluate.splits", "splits or data sets, by name", splits, do)
        require(VALIDATION in splits, "evaluate.splits", "validation among them", splits, do)
        require("train" not in splits, "evaluate.splits", "held-out examples only", "train", "leave it out")
        names = [_name(each) for each in splits]
        do = "give its folder another name"
        require("train" not in names, "evaluate.splits", "none by the name of the training split", splits, do)
        twice = next((name for name in names if names.count(name) > 1), None)
        do = "leave one out, or give its folder another name"
        require(twice is None, "evaluate.splits", "each by a name of its own, the last part of a place", twice, do)


def is_place(split: str) -> bool:
    """Whether this is another data set, rather than a split of the run's own."""
    return "/" in split or "#" in split


def _name(split: str) -> str:
    """As curves name a held-out set: of a place its last part, and the split that is named behind it."""
    place, _, part = split.partition("#")
    last = place.rstrip("/").rpartition("/")[2] if is_place(split) else place
    return re.sub(r"[^\w.-]", "_", f"{last}_{part}" if part else last)
