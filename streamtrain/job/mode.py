"""How often the data is used: once (online), or in many passes (epochs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamtrain.checks import require, require_count, require_declared, require_finite
from streamtrain.job.settings import MayChange


@dataclass(frozen=True)
class Online:
    """One pass or part of one: every example is new to the parameters, so the progressive risk is honest."""

    max_examples: int | None = None
    """Stop after this many examples; all of the training split by default."""
    evaluate_every: int | None = None
    """Examples between two measurements of the held-out risk; a tenth of the run by default."""
    window: int = 2000
    """Examples over which the windowed progressive risk is averaged."""
    follow: bool = False
    """Go on with segments that `streamtrain pack --append` adds while the run lasts."""
    idle_timeout: MayChange[float] = 60.0
    """With `follow`: end when no segment has come for this many seconds."""
    passes: int = 1
    """Always 1; more are refused."""

    def __post_init__(self) -> None:
        require_declared(self, "mode.")
        require(
            self.passes == 1,
            "mode.passes",
            "one pass in online mode",
            self.passes,
            "a second pass would use examples twice, and its loss would no longer estimate the generalization risk: "
            "use mode=Epochs(...)",
        )
        require_count("mode.max_examples", self.max_examples)
        require_finite("mode.idle_timeout", self.idle_timeout, positive=False)
        both = self.follow and self.max_examples is not None
        do = "leave one of them out"
        require(not both, "mode.max_examples", "none with mode.follow", self.max_examples, do)
        require_count("mode.evaluate_every", self.evaluate_every)
        require_count("mode.window", self.window, lowest=2)


@dataclass(frozen=True)
class Epochs:
    """Many passes, with early stopping on the validation error and the best parameters kept."""

    max_passes: MayChange[int] = 20
    """Stop after this many passes at the latest."""
    patience: MayChange[int] = 3
    """Stop after this many passes without a better validation error, or whatever stop_on names."""
    patience_examples: MayChange[int | None] = None
    """The same in examples used, instead of in passes; looked at after each pass."""
    min_delta: float = 0.0
    """How much lower a validation error must be to count as better."""
    stop_on: str = "error"
    """The held-out number that early stopping goes by, and by which the kept parameters are chosen: loss, error or a
    metric, on the validation split, or on another of evaluate.splits, as night/error."""
    highest: bool = False
    """Whether its highest value is the best, as of AUROC; the lowest by default."""
    reshuffle: Literal["stored", "shards", "examples"] = "stored"
    """Order of the passes after the first: the same, the shards permuted, or all examples permuted."""

    def __post_init__(self) -> None:
        require_declared(self, "mode.")
        require_count("mode.max_passes", self.max_passes)
        require_count("mode.patience", self.patience)
        require_count("mode.patience_examples", self.patience_examples)
        require_finite("mode.min_delta", self.min_delta, positive=False)
        named = isinstance(self.stop_on, str) and all(self.stop_on.split("/")) and self.stop_on.count("/") < 2
        do = "e.g. loss, or night/error"
        require(named, "mode.stop_on", "a number's name, or SET/NAME", self.stop_on, do)
        low = self.highest and self.stop_on.rpartition("/")[2] in ("loss", "error")
        do = "leave it out, or name the metric in mode.stop_on"
        require(not low, "mode.highest", f"off with {self.stop_on}, of which the lowest is the best", True, do)
        kinds = ("stored", "shards", "examples")
        require(
            self.reshuffle in kinds,
            "mode.reshuffle",
            "stored, shards or examples",
            self.reshuffle,
            "choose one of them",
        )
