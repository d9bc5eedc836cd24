"""Which of a worker's lanes may go through the stages of a step together, and how much memory that would hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from streamtrain.job import Job

Result = TypeVar("Result")


def must_go_apart(model: torch.nn.Module, job: Job) -> bool:
    """Whether every lane's forward has to be followed by its own backward, or nothing is gained by anything else."""
    # Nothing is gained where the host only fills a device's queue: its own cache is not at stake there. Pieces are to
    # save memory, which graphs of several lanes would take. A compiled model is not asked what it keeps.
    if job.device != "cpu" or job.micro_batch or job.compile:
        return True
    # Autograd may have kept a buffer (BatchNorm's statistics) by reference, which the next lane's forward changes
    # before this lane's backward reads it. And a backward hook may read what the model's last forward left in it.
    has_buffers = any(True for _ in model.buffers())
    has_hooks = any(module._backward_hooks or module._backward_pre_hooks for module in model.modules())
    return has_buffers or has_hooks


def count_kept(model: torch.nn.Module, forward: Callable[[], Result]) -> tuple[Result, int] | None:
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
            result = forward()
    except Exception:
        return None
    return result, kept
