"""Runs every check and race in turn, and prints what was found as JSON; exits with 1 where a check failed.

    python -m tests.gpu [NAME …] [--device cuda|cpu] [--size full|tiny] [--seconds 330]

A NAME is a check or race, as they stand under ``seconds`` in the report; all of them by default. What no time was left
for is listed under ``not_run``, with what this device cannot do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used in a process

import torch

from tests.gpu.cases import SIZES, Bench
from tests.gpu.checks import (
    AGREEMENT,
    agrees_with_plain_pytorch,
    same_bits_in_two_processes,
    same_bits_twice,
    waits_for_nothing,
)
from tests.gpu.races import memory, races

GOALS = {"gpu_vs_plain": (">=", 0.97), "waiting": ("<=", 0.02), "gpu_vs_dataloader": (">=", 1.5)}


def machine(device: str) -> dict[str, str]:
    """What it ran on, and when."""
    found = {
        "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "torch": torch.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def main() -> int:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--seconds", type=float, default=330.0, help="after which nothing new is begun")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile too")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "tests.gpu: expected a CUDA GPU, found none; use --device cpu --size tiny to try the script",
            file=sys.stderr,
        )
        return 2
    began = time.monotonic()
    report: dict[str, Any] = {"machine": machine(device), "checks": {}, "ratios": {}, "rates": {}, "not_run": {}}
    checks, ratios, rates = report["checks"], report["ratios"], report["rates"]
    cases = tuple(case for case in AGREEMENT if arguments.compile or "compile" not in case.others)

    def race(bench: Bench) -> None:
        found, speeds = races(bench)
        ratios.update(found)
        rates.update(speeds)

    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), device, SIZES[arguments.size])
        todo: dict[str, Callable[[], Any]] = {
            "same_bits_twice": lambda: checks.update(same_bits_twice=same_bits_twice(bench)),
            "agreement": lambda: checks.update(agreement=agrees_with_plain_pytorch(bench, cases)),
            "races": lambda: race(bench),
            "waits_for_nothing": lambda: checks.update(waits_for_nothing=waits_for_nothing(bench)),
            "memory": lambda: rates.update(memory(bench)),
            "two_processes": lambda: checks.update(two_processes=same_bits_in_two_processes(bench)),
        }
        seconds: dict[str, float] = {}
        for name, run in todo.items():
            if arguments.names and name not in arguments.names:
                report["not_run"][name] = "not asked for"
            elif time.monotonic() - began > arguments.seconds:
                report["not_run"][name] = f"{arguments.seconds:g} s were over"
            elif device == "cpu" and name in ("waits_for_nothing", "memory"):
                report["not_run"][name] = "only a GPU has it"
            else:
                at = time.monotonic()
                try:
                    run()
                except Exception:
                    checks[name] = {"ok": False, "error": traceback.format_exc(limit=-4)}
                seconds[name] = round(time.monotonic() - at, 1)
    report["seconds"] = seconds | {"all": round(time.monotonic() - began, 1)}
    report["goals"] = {
        name: ratios[name] >= goal if sign == ">=" else ratios[name] <= goal
        for name, (sign, goal) in GOALS.items()
        if name in ratios and device == "cuda"
    }
    print(json.dumps(report, indent=1))
    return int(not all(check["ok"] for check in checks.values()))


if __name__ == "__main__":
    sys.exit(main())
