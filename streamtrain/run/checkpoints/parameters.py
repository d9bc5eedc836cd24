"""Parameters as files, written whole or not at all, and read back: of a run, of a checkpoint, or of any state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.errors import ConfigError, TrainingError, complaint, one_line
from streamtrain.job import Job
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.folder import RunFolder
from streamtrain.store import write_whole

if TYPE_CHECKING:
    import torch

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


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


def kept_parameters(job: Job, place: Path) -> tuple[Mapping[str, torch.Tensor], int | None]:
    """A state dict, but perhaps for frozen parameters, and the updates in it where that is known.

    Args:
        job: with which they were trained.
        place: a run's folder, for what it kept, or its last checkpoint where it has not ended; a checkpoint's
            ``.safetensors``; or any other ``.safetensors`` of a state dict.

    Raises:
        ConfigError: no such parameters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = RunFolder.of(place)
    file = folder.parameters if place.is_dir() else place
    if place.is_dir() and not file.exists():
        checkpoints = RunFolder(place.absolute()).checkpoints(job.checkpoints.folder)
        last = CheckpointFiles(checkpoints, 1, lambda _: None).newest()
        if last is not None:
            return _evaluated(last.tensors, folder), last.step
    if file.suffix in PICKLED and file.is_file():
        do = f"make it one: safetensors.torch.save_file(torch.load({file.name!r}, weights_only=True), 'it.safetensors')"
        expected = "a .safetensors file, since a pickled one may hold code"
        raise ConfigError(complaint(str(file), expected=expected, found=file.suffix, do=do))
    try:
        loaded: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        found = " ".join(str(error).split())
        do = "name a finished run's folder or a .safetensors file"
        raise ConfigError(complaint(str(file), expected="saved parameters", found=found, do=do)) from None
    if "uses" in loaded and file.stem.isdecimal():
        return _evaluated(loaded, folder), int(file.stem)
    kept = file == folder.parameters and folder.finished
    return loaded, int(json.loads(folder.result.read_bytes())["chosen_step"]) if kept else None


def _evaluated(tensors: Mapping[str, torch.Tensor], folder: RunFolder) -> dict[str, torch.Tensor]:
    """Of a checkpoint's tensors, those that a run would evaluate: the parameters or their average, and the buffers.

    With the frozen ones that the run began with, where the model's function did not make them.
    """
    from safetensors.torch import load_file

    initial: dict[str, torch.Tensor] = load_file(folder.initial) if folder.initial.exists() else {}
    parts: dict[str, dict[str, Any]] = {"parameters": {}, "average": {}, "buffers": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = tensor
    return initial | (parts["average"] or parts["parameters"]) | parts["buffers"]
