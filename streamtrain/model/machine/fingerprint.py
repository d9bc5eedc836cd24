"""What chooses the kernels of a process, and with them the bits of its sums: its `Fingerprint`.

Costs some ten milliseconds, once a process. It holds what is known to choose (CPU, switches, versions, threads, GPU),
and a checksum of what a few kernels compute, for what is not known. It is no proof: kernels that were not asked may
still differ.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from streamtrain.job import Job
from streamtrain.model.machine.portable import cpu_flags, cpu_kind, mkl_branch
from streamtrain.values import Fingerprint

SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables by which the libraries choose kernels."""
CHOOSING = ("avx", "amx", "fma", "sse4", "f16c", "bmi")
"""How the CPU's features begin that kernels are chosen by."""


def take_fingerprint(job: Job) -> Fingerprint:
    """This process's, after `prepare_process`."""
    facts = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "C library": " ".join(platform.libc_ver()),
        "libraries": _versions(),
        "PyTorch's CPU capability": torch.backends.cpu.get_cpu_capability(),
        "MKL's branch": str(mkl_branch()),
        "threads": str(torch.get_num_threads()),
        **{name: os.environ.get(name, "not set") for name in SWITCHES},
        "kernels": compute_checksum(torch.get_num_threads()),
    }
    if job.bits != "portable":
        facts |= {"CPU": cpu_kind(), "CPU features": " ".join(sorted(filter(_chooses, cpu_flags())))}
    if job.device != "cpu":
        facts |= _gpu(torch.device(job.device))
    return Fingerprint(platform.node(), facts)


@functools.cache
def compute_checksum(threads: int) -> str:
    """Of what some kernels give for fixed numbers, with so many threads as the process has.

    The shapes are those at which libraries go over to other ways of cutting: small, tall and wide.
    """
    digest = hashlib.sha256(str(threads).encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for values in _samples():
            digest.update(values.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _samples() -> Iterator[torch.Tensor]:
    """Products, convolutions and what goes element by element, forward and backward."""
    for rows, inner, columns in ((4, 64, 8), (32, 784, 256), (128, 256, 10), (64, 1000, 64)):
        one, other = torch.randn(rows, inner), torch.randn(inner, columns)
        yield one @ other
        yield one.t() @ (one @ other)
    images = torch.randn(8, 3, 16, 16, requires_grad=True)
    filters = torch.randn(16, 3, 3, 3, requires_grad=True)
    hidden = functional.conv2d(images, filters, padding=1)
    yield hidden
    yield from torch.autograd.grad(functional.gelu(hidden).square().sum(), (images, filters))
    rows_of = torch.randn(64, 100)
    for function in (torch.exp, torch.tanh, torch.sigmoid, torch.sin, functional.silu):
        yield function(rows_of)
    yield torch.softmax(rows_of, 1)
    yield functional.layer_norm(rows_of, (100,))
    yield rows_of.sum(1)
    yield torch.from_numpy(np.exp(rows_of.double().numpy()))


def _versions() -> str:
    """Of MKL and oneDNN, as PyTorch names them."""
    lines = [line.strip("- \t") for line in torch.__config__.show().splitlines()]
    kept = [line.partition(" for Intel")[0] for line in lines if line.startswith("Intel(R)")]
    return "; ".join(kept) or "neither MKL nor oneDNN"


def _gpu(device: torch.device) -> dict[str, str]:
    """Kind of GPU, and the libraries that choose its kernels."""
    return {
        "GPU": torch.cuda.get_device_name(device),
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def _chooses(feature: str) -> bool:
    return feature.startswith(CHOOSING)
