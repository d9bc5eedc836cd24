"""Parameters as files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.errors import TrainingError, complaint, one_line
from streamtrain.store import write_whole

if TYPE_CHECKING:
    import torch


def save_parameters(file: Path, parameters: dict[str, torch.Tensor]) -> None:
    """Writes a state dict as safetensors, whole or not at all."""
    from safetensors.torch import save

    write_whole(file, save(parameters))


def save_result(file: Path, parameters: dict[str, torch.Tensor]) -> None:
    """Writes the parameters that a run was for, as `save_parameters` does.

    Raises:
        TrainingError: they could not be written.
    """
    try:
        save_parameters(file, parameters)
    except OSError as error:
        do = "make room; --resume goes on from the last checkpoint"
        raise TrainingError(complaint(str(file), expected="to write it", found=one_line(error), do=do)) from None
