"""Files that a run leaves, and what becomes of the run where the disk has no room for one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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
    """The same for the parameters that a run is for.

    Raises:
        TrainingError: they could not be written.
    """
    try:
        save_parameters(file, parameters)
    except OSError as error:
        do = "make room; --resume goes on from the last checkpoint"
        raise TrainingError(complaint(str(file), expected="to write it", found=one_line(error), do=do)) from None


class Beside:
    """Files beside a run, which goes on without those that cannot be written; a line says so once for each.

    Args:
        say: takes the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[Path] = set()

    @contextlib.contextmanager
    def __call__(self, file: Path) -> Iterator[None]:
        """The block writes the file."""
        try:
            yield
        except OSError as error:
            if file not in self._told:
                self._say(f"{file} could not be written: {one_line(error)}; the run goes on")
            self._told.add(file)
        else:
            self._told.discard(file)
