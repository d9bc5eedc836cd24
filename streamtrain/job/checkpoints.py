"""What a run leaves behind so that it can go on."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require_count, require_declared, require_finite


@dataclass(frozen=True)
class Checkpoints:
    """What a run leaves behind so that it can go on after anything, by `--resume`."""

    enabled: bool = True
    """Write them; without, a run whose workers are all lost begins from the start."""
    seconds: float = 30.0
    """From one to the next; longer where they would take more than a fiftieth of the time."""
    keep: int = 2
    """How many of the last ones stay, beside the best parameters until then, best.safetensors."""
    folder: str | None = None
    """Folder or URL (s3, gs, az) for them, under the run's name; by default checkpoints/ in the run's own folder."""

    def __post_init__(self) -> None:
        require_declared(self, "checkpoints.")
        require_finite("checkpoints.seconds", self.seconds, positive=False)
        require_count("checkpoints.keep", self.keep)
