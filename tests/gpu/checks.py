"""What has to be so on a GPU: the bits, the agreement with plain PyTorch, and that a step waits for nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import multiprocessing
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

import torch

import streamtrain as st
from tests.gpu.cases import Bench, Case, Plain, minibatches

LANES = 4
AGREEMENT = (
    Case("mlp"),
    Case("mlp", optimizer="adamw"),
    Case("mlp", "bf16", "adamw"),
    Case("mlp", "fp16"),
    Case("mlp", others={"micro_batch": 8}),
    Case("cnn"),
    Case("cnn", "bf16", "adamw", {"channels_last": True}),
    Case("cnn", "fp16", others={"channels_last": True}),
    Case("gpt", optimizer="adamw"),
    Case("gpt", "bf16", "adamw"),
    Case("gpt", "fp16", "adamw"),
    Case("gpt", "bf16", "adamw", {"compile": True}),
)
TOLERANCE = {"float32": 0.01, "bf16": 0.1, "fp16": 0.1}
"""Of the way from the initial parameters: the part by which the two ends may differ."""
SYNCHRONIZING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of CUDA's runtime in which the host waits; the last one is the copy that is not asynchronous."""
Found = dict[str, Any]


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all tensors, by name."""
    parts = (tensors[name].contiguous().cpu().reshape(-1).view(torch.uint8).numpy() for name in sorted(tensors))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def same_bits_twice(bench: Bench) -> Found:
    """Each model trained twice with ``deterministic``."""
    found: Found = {"ok": True}
    for case in (Case("mlp", optimizer="adamw"), Case("cnn", "bf16"), Case("gpt", "fp16", "adamw")):
        job = bench.job(case, deterministic=True, lanes=LANES)
        one, other = (digest(bench.trained(job, bench.size.steps)) for _ in range(2))
        found[str(case)] = one[:16] if one == other else f"{one[:16]} and {other[:16]}"
        found["ok"] &= one == other
    return found


def same_bits_in_two_processes(bench: Bench) -> Found:
    """Each lane's gradient with all lanes in one process, and with half of them in each of two at once.

    Whole runs of two workers on one GPU are not to be had: NCCL takes one process a GPU.
    """
    together = _audited(bench, [range(LANES)])
    apart = _audited(bench, [range(LANES // 2), range(LANES // 2, LANES)])
    found: Found = {"workers": "NCCL takes one process a GPU: lanes compared, not whole runs"}
    found |= {name: digest == apart[name] for name, digest in together.items()}
    return found | {"ok": together == apart}


def _audited(bench: Bench, hosted: list[range]) -> dict[str, str]:
    """Checksums of what every lane contributes to the first step; a process for each of ``hosted``, all at once."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for lanes in hosted:
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=_audit, args=(theirs, bench, lanes)))
        processes[-1].start()
        theirs.close()  # else the death of a process would go unnoticed
        ends.append(mine)
    found = {name: digest for mine in ends for name, digest in mine.recv().items()}
    for process in processes:
        process.join()
    return found


def _audit(pipe: Connection, bench: Bench, lanes: range) -> None:  # type: ignore[type-arg]
    found = {}
    for case in (Case("cnn", "bf16"), Case("gpt", optimizer="adamw")):
        with bench.fleet(bench.job(case, deterministic=True, lanes=LANES)) as fleet:
            found |= {f"{case}, lane {lane}": fleet.worker.audit(0, lane) for lane in lanes}
    pipe.send(found)


def agrees_with_plain_pytorch(bench: Bench, cases: tuple[Case, ...] = AGREEMENT) -> Found:
    """Ours and a plain loop over the same minibatches: how far apart they end, over the way that the plain one went."""
    found: Found = {"ok": True}
    for case in cases:
        plain = Plain(bench, case)
        start = {name: value.detach().clone() for name, value in plain.model.state_dict().items()}
        used, ours = _ours(bench, case)
        for batch in itertools.compress(minibatches(bench, case), used):
            plain.step(batch)
        apart, way = 0.0, 0.0
        for name, theirs in plain.model.state_dict().items():
            if theirs.is_floating_point():
                apart += float((ours[name].to(bench.device) - theirs).double().square().sum())
                way += float((theirs - start[name]).double().square().sum())
        found[str(case)] = (apart / way) ** 0.5
        found["ok"] &= found[str(case)] <= TOLERANCE[case.precision]
    return found


def _ours(bench: Bench, case: Case) -> tuple[list[bool], dict[str, torch.Tensor]]:
    """Which minibatches made an update, until there are as many as the check has, and the state dict then.

    With fp16 ours scales the sum over a minibatch, PyTorch's recipe the mean: so more minibatches at a run's begin have
    a scaled gradient beyond fp16, and are passed over. The plain loop leaves the same ones out.
    """
    used: list[bool] = []
    with bench.fleet(bench.job(case)) as fleet:
        while sum(used) < bench.size.steps:
            missing = bench.size.steps - sum(used)
            used += [not update.overflowed for update in fleet.advance(len(used) + missing)]
        return used, fleet.snapshot()


def waits_for_nothing(bench: Bench) -> Found:
    """Calls in which the host waits for the GPU: as many in a short stint of steps as in one twice as long."""
    found: Found = {"ok": True}
    for case in (Case("cnn", "bf16"), Case("gpt", "fp16", "adamw")):
        job = dataclasses.replace(bench.job(case), clip=st.Clip(norm=1.0), nonfinite="skip")
        with bench.fleet(job) as fleet:
            fleet.advance(10)
            counts, kernels, at = [], 0, 10
            for steps in (10, 20):
                with torch.profiler.profile() as profile:
                    fleet.advance(at + steps)
                at += steps
                kernels += sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
                counts.append(Counter(event.name for event in profile.events() if event.name in SYNCHRONIZING))
        found[str(case)] = {"10 steps": dict(counts[0]), "20 steps": dict(counts[1]), "kernels": kernels}
        found["ok"] &= (
            kernels > 0 and counts[1].total() <= counts[0].total()
        )  # a profiler that saw nothing proves nothing
    return found
