"""How benchmarks measure: contenders in turn, several rounds, the median of each; one line or JSON at the end."""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def rates(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Examples per second of each contender, the median over ``rounds``; a contender returns how many it made.

    They run in turn within a round, so that a busy minute of a shared machine meets all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            examples = contender()
            found[name].append(examples / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in found.items()}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This process on one core, the last of those that it may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def on_standard_error() -> Iterator[None]:
    """What peers print, their processes too, goes to standard error: standard output is for the report."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def wants_json(about: str | None) -> bool:
    """What the command line asks for; before anything is measured, so that `--help` is an answer at once."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return bool(parser.parse_args().json)


def report(about: str, figures: dict[str, float], ratios: dict[str, float], *, as_json: bool) -> None:
    """Prints the figures."""
    machine = f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    found: dict[str, Any] = {"about": about, "machine": machine, "figures": figures, "ratios": ratios}
    if as_json:
        print(json.dumps(found))
        return
    print(f"{about} ({machine})")
    for name, value in figures.items():
        print(f"  {name:<40}{value:>16,.1f}")
    for name, value in ratios.items():
        print(f"  {name:<40}{value:>16.3g}")
