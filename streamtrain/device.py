"""What differs between devices: how a process, a model and its batches get ready for the one that a job names."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from streamtrain.job import Job
from streamtrain.values import Arrays

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


def prepare_process(job: Job) -> None:
    """This process's threads, memory and choice of kernels; before it computes anything."""
    keep_freed_memory()
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)  # the momentum of dead units decays into them: an update took up to 3 times as long
    if job.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        # costs a pass over memory, and nothing here reads what it did not write
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(job.deterministic)
    torch.backends.cudnn.benchmark = not job.deterministic  # else which kernel is fastest differs from run to run


def autocast_of(job: Job) -> Autocast:
    """The context that forward passes and losses are computed in."""
    half = HALVES.get(job.precision)
    return contextlib.nullcontext if half is None else lambda: torch.autocast(job.device, half)


def placed(model: torch.nn.Module, job: Job) -> torch.nn.Module:
    """The model in its arithmetic and the layout of its memory, still on the CPU."""
    model = model.to(torch.float64 if job.precision == "float64" else torch.float32)
    return model.to(memory_format=torch.channels_last) if job.channels_last else model  # type: ignore[call-overload]


def layout_of_images(job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
    """Brings a batch of images to the layout that the model is in; leaves other tensors alone."""
    if not job.channels_last:
        return lambda tensor: tensor
    return lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def called(model: torch.nn.Module, job: Job) -> Callable[..., Any]:
    """What computes the model's output: itself, or compiled, with the same parameters."""
    return torch.compile(model) if job.compile else model


def batches_of(arrays: Iterator[Arrays], device: torch.device) -> Iterator[Arrays | Batch]:
    """The same examples for a model on the device: as they are for the CPU, else as tensors that are there."""
    return arrays if device.type == "cpu" else copied_ahead(arrays, device)


def copied_ahead(batches: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """Batches of arrays as tensors on the device, each on its way while the one before is computed with."""
    copies = Copies(device)
    begun: list[tuple[Batch, Any]] = []
    for batch in batches:
        begun.append(copies.begin({name: torch.from_numpy(array) for name, array in batch.items()}))
        if len(begun) > 1:
            yield copies.arrived(*begun.pop(0))
    for last in begun:
        yield copies.arrived(*last)


class Copies:
    """Copies batches to a device while the loop computes: out of page-locked memory, which PyTorch keeps for the next
    ones, on a stream of their own.

    Begun in the thread that reads ahead; the loop's stream, not the loop, waits for them. The CPU goes the same way,
    where a stream does nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_cpu = device, device.type == "cpu"
        self._streams = torch.get_device_module(device)
        self._own = self._streams.Stream() if self._on_cpu else self._streams.Stream(device)

    def begin(self, batch: Batch) -> tuple[Batch, Any]:
        """The batch on the device, and the event after which it is there."""
        tensors = {name: tensor for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
        with self._streams.stream(self._own):
            for name, tensor in tensors.items():
                locked = tensor if self._on_cpu else tensor.pin_memory()
                batch[name] = locked.to(self._device, non_blocking=True)
            return batch, self._own.record_event()

    def arrived(self, batch: Batch, copied: Any) -> Batch:
        """The batch, which whatever the caller does from now on finds whole."""
        callers = self._streams.current_stream(self._device)
        callers.wait_event(copied)
        for tensor in batch.values():
            if isinstance(tensor, torch.Tensor) and not self._on_cpu:
                tensor.record_stream(callers)  # else its memory might be the next copy's while it is still used
        return batch
