#!/usr/bin/env bash
# torch 2.13.0: torch.use_deterministic_algorithms(False), the state that a process has from its start, imports the
# compiler (torch._inductor, torch._dynamo, sympy): some 800 modules and about a second, in every process that calls it.
#
# torch.set_deterministic_debug_mode("default") and ("error") switch the same kernels and import none of it. What it
# leaves out is the compiler's own setting. Seen on Python 3.11, Linux x86-64, CPU build: 823 new modules and 0.9 s
# of CPU by the first, none by the second. Who starts many short-lived workers pays it in each. This fails when the
# behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
"$folder/environment/bin/python" - <<'CODE'
import sys
import time

import torch


def cost(call):
    before, began = len(sys.modules), time.process_time()
    call()
    return len(sys.modules) - before, time.process_time() - began


assert not torch.are_deterministic_algorithms_enabled()
light = cost(lambda: torch.set_deterministic_debug_mode("error"))
assert torch.are_deterministic_algorithms_enabled() and "torch._inductor" not in sys.modules
torch.set_deterministic_debug_mode("default")
heavy = cost(lambda: torch.use_deterministic_algorithms(False))
print(f"torch {torch.__version__}: set_deterministic_debug_mode: {light[0]} modules, {light[1]:.2f} s;", end=" ")
print(f"use_deterministic_algorithms: {heavy[0]:,} modules, {heavy[1]:.2f} s")
assert light[0] == 0 and heavy[0] > 500, "the behaviour has changed"
assert "torch._inductor" in sys.modules and "sympy" in sys.modules, "the behaviour has changed"
CODE
