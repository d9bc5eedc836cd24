"""Which of a worker's lanes may go through the stages of a step together, and how much memory that would hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from streamtrain.job import Job

Made = TypeVar("Made")


def must_go_apart(model: torch.nn.Module, job: Job) -> bool:
    """Whether every lane's forward has to be followed by its own backward, or nothing is gained by anything else.

    It has to where autograd may have kept a buffer that the next lane's forward changes, and where hooks on the
    backward may read what the last forward left. Nothing is gained where the host only fills a device's queue;
    pieces are there to save memory; and a compiled model is not asked what it keeps.
    """
    hooks = any(module._backward_hooks or module._backward_pre_hooks for module in model.modules())
    return job.device != "cpu" or bool(hooks or any(True for _ in model.buffers()) or job.micro_batch or job.compile)


def kept_by(model: torch.nn.Module, forward: Callable[[], Made]) -> tuple[Made, int] | None:
    """What a forward makes, and the bytes that autograd keeps of it for its backward, without the model's parameters.

    Returns:
        ``None`` where it failed: by a mistake of the user's, or since `torch.func` and sparse tensors do not go with
        the hooks that count. Without them it fails again, or does not.
    """
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes if tensor.untyped_storage().data_ptr() not in parameters else 0
        return tensor.detach()

    try:
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            made = forward()
    except Exception:
        return None
    return made, kept
