"""What differs between devices: how a process, a model and its batches get ready for the one that a job names."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import Any

import torch

from streamtrain.job import Job
from streamtrain.model.machine.portable import check_portable
from streamtrain.model.module.tensors import cast_up, check_tensors

Batch = dict[str, Any]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD = -1, -3, 2**25
"""Of glibc: mallopt(3)."""


def keep_freed_memory() -> None:
    """Has the C library keep what is freed: every step takes the same memory again.

    Else it gives the large activations of a step back to the kernel, which has to clear every page again: a seventh
    of a step of a small CNN. Other C libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Gives what has been freed so far to the kernel after all: what was needed once, and never in a step."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def prepare_process(job: Job) -> None:
    """This process's threads, memory and choice of kernels; before it computes anything.

    Raises:
        ConfigError: the job wants portable bits, and this process cannot have them.
    """
    if job.bits == "portable":
        check_portable()
    keep_freed_memory()
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)  # the momentum of dead units decays into them: an update took up to 3 times as long
    if job.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        # costs a pass over memory, and nothing here reads what it did not write
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if job.compile:
        torch.use_deterministic_algorithms(job.deterministic)
    else:  # the same for all kernels; the compiler has a setting of its own, and is a second of every start to import
        torch.set_deterministic_debug_mode("error" if job.deterministic else "default")
    torch.backends.cudnn.benchmark = not job.deterministic  # else which kernel is fastest differs from run to run


def choose_autocast(job: Job) -> Autocast:
    """The context that forward passes and losses are computed in."""
    half = HALVES.get(job.precision)
    return contextlib.nullcontext if half is None else lambda: torch.autocast(job.device, half)


def place_model(model: torch.nn.Module, job: Job) -> torch.nn.Module:
    """The model in its arithmetic and the layout of its memory, still on the CPU.

    Raises:
        JobError: it holds a tensor that cannot be kept as it is.
    """
    if job.precision == "float64":
        cast_up(model)
    check_tensors(model, torch.float64 if job.precision == "float64" else torch.float32)
    return model.to(memory_format=torch.channels_last) if job.channels_last else model  # type: ignore[call-overload]


def choose_image_layout(job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
    """Brings a batch of images to the layout that the model is in; leaves other tensors alone."""
    if not job.channels_last:
        return lambda tensor: tensor
    return lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def make_callable(model: torch.nn.Module, job: Job) -> Callable[..., Any]:
    """What computes the model's output: itself, or compiled, with the same parameters."""
    return torch.compile(model) if job.compile else model


def gpu_usage(device: str) -> dict[str, float]:
    """What the device's memory and cores are used for now, under MLflow's names; nothing for a CPU.

    The cores' part needs the package nvidia-ml-py.
    """
    if not device.startswith("cuda"):
        return {}
    index = torch.device(device).index or 0
    free, total = torch.cuda.mem_get_info(index)
    used = {"memory_usage_megabytes": (total - free) / 1e6, "memory_usage_percentage": 100 * (total - free) / total}
    with contextlib.suppress(Exception):  # NVML's errors have no other base, and a curve must not end a run
        used["utilization_percentage"] = float(torch.cuda.utilization(index))
    return {f"gpu_{index}_{name}": value for name, value in used.items()}
