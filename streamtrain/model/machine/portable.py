"""The switches by which the libraries compute the same bits on any x86-64 CPU that has AVX2: ``bits="portable"``.

Each library chooses kernels by the CPU it meets, and each has a switch of its own. They are read from the environment
when a library is first used, so they must be there before the process begins: Ray gives them to the actors.

What was tried on an AVX-512 machine (2026-11-28): ``ATEN_CPU_CAPABILITY`` alone leaves oneDNN's convolutions and MKL's
products as they were. ``MKL_CBWR=AVX2`` alone is not enough either: where the environment says
``MKL_ENABLE_INSTRUCTIONS=AVX512`` that one wins, although MKL then names AVX2 as its branch.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from streamtrain.errors import ConfigError, complaint

SWITCHES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ONEDNN_CPU_ISA_HINTS": "NO_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "AVX2",  # fixes the cache sizes too, by which MKL cuts products
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's products, in a job's map
    "NPY_ENABLE_CPU_FEATURES": "",  # numpy takes only one of the two
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
"""Environment variables. oneDNN looks at its old names, ``DNNL_…``, only where these are not set."""
BEFORE_LEVELS = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
"""What numpy below 2.4 calls the same."""
NEEDED = ("avx2", "fma")
CPU_FACTS = Path("/proc/cpuinfo")
BRANCH, AVX2_BRANCH = 1, 10
"""Of MKL: ``MKL_CBWR_BRANCH`` and ``MKL_CBWR_AVX2`` in mkl_types.h."""


def portable_environment() -> dict[str, str]:
    """What a process's environment must say before it begins."""
    old = tuple(map(int, np.__version__.split(".")[:2])) < (2, 4)
    return SWITCHES | ({"NPY_DISABLE_CPU_FEATURES": BEFORE_LEVELS} if old else {})


def check_portable() -> None:
    """Refuses a process whose bits would not be the portable ones.

    Raises:
        ConfigError: its CPU lacks what is needed, or a library does not follow its switch.
    """
    where = f"bits=portable, host {platform.node()}"
    lacking = [name for name in NEEDED if name not in cpu_flags()]
    if platform.machine() != "x86_64" or lacking:
        found = platform.machine() if platform.machine() != "x86_64" else f"one without {' and '.join(lacking)}"
        do = "leave this host out, or use --bits same on hosts of one kind"
        raise ConfigError(complaint(where, expected="an x86-64 CPU with AVX2 and FMA", found=found, do=do))
    capability = torch.backends.cpu.get_cpu_capability()
    branch = mkl_branch()
    if capability != "AVX2":
        do = "begin the process with the environment that streamtrain.model.machine.portable names"
        raise ConfigError(complaint(where, expected="PyTorch's AVX2 kernels", found=capability, do=do))
    if branch not in (None, AVX2_BRANCH):
        do = "MKL follows MKL_CBWR on Intel's CPUs only: use hosts with those, or --bits same on hosts of one kind"
        raise ConfigError(complaint(where, expected="MKL's AVX2 branch", found=f"its branch {branch}", do=do))


def cpu_flags() -> frozenset[str]:
    """What Linux says that the CPU has."""
    return frozenset(_cpu_fact("flags").split())


def cpu_kind() -> str:
    """Vendor, family and model, as Linux names them."""
    return "/".join(_cpu_fact(name) for name in ("vendor_id", "cpu family", "model")) or platform.machine()


def mkl_branch() -> int | None:
    """The branch of its code that MKL has been told to take; ``None`` where PyTorch has no MKL that says so."""
    libraries: Iterable[Path] = (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.so")
    for library in libraries:
        branch_of = getattr(ctypes.CDLL(str(library)), "mkl_serv_cbwr_get", None)
        return None if branch_of is None else int(branch_of(BRANCH))
    return None


def _cpu_fact(name: str) -> str:
    """The first CPU's, of /proc/cpuinfo; empty where there is none."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.exists() else []
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")
