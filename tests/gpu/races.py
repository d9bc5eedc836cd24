"""How fast a GPU trains from shards, beside plain loops; how long it has nothing to do; what a parameter takes."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.gpu.cases import Bench, Case, Plain, minibatches

CASES = {
    "images": Case("cnn", "bf16", others={"channels_last": True}),
    "tokens": Case("gpt", "bf16", "adamw"),
}
LOADERS = 4
"""Processes of the peer's DataLoader."""
Advance = Callable[[int], None]
"""Makes so many updates, and puts them into the device's queue at least."""


def races(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios, and examples or tokens a second of every contestant."""
    ratios: dict[str, float] = {}
    rates: dict[str, float] = {}
    for name, case in CASES.items():
        each = bench.size.context if name == "tokens" else 1
        with bench.fleet(bench.job(case)) as fleet:
            contestants = {
                "ours": _ours(fleet),
                "plain": _plain(bench, case),
                "dataloader": _dataloader(bench, case),
            }
            seconds = _alternate(bench, contestants)
            found = {who: each * bench.batch(case) * bench.size.timed / took for who, took in seconds.items()}
            rates |= {f"{name}_{who}": rate for who, rate in found.items()}
            ratios[f"gpu_vs_plain_{name}"] = found["ours"] / found["plain"]
            ratios[f"gpu_vs_dataloader_{name}"] = found["ours"] / found["dataloader"]
            if bench.device == "cuda":
                idle = {who: _idle(contestants[who], bench.size.timed // 3) for who in ("ours", "plain")}
                rates |= {f"{name}_{who}_idle": part for who, part in idle.items()}
                ratios[f"waiting_{name}"] = max(0.0, idle["ours"] - idle["plain"])
    for ratio, worst in (("gpu_vs_plain", min), ("gpu_vs_dataloader", min), ("waiting", max)):
        of_both = [value for key, value in ratios.items() if key.startswith(f"{ratio}_")]
        if of_both:
            ratios[ratio] = worst(of_both)
    return ratios, rates


def _alternate(bench: Bench, contestants: dict[str, Advance]) -> dict[str, float]:
    """Seconds of a round, the median over rounds in turn, after one to warm up."""
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    for number in range(1 + bench.size.rounds):
        for who, advance in contestants.items():
            _finish(bench.device)
            began = time.perf_counter()
            advance(bench.size.timed)
            _finish(bench.device)
            if number:
                seconds[who].append(time.perf_counter() - began)
    return {who: statistics.median(each) for who, each in seconds.items()}


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _ours(fleet: Any) -> Advance:
    at = itertools.count(1)
    made = [0]

    def advance(steps: int) -> None:
        next(at)
        made[0] += steps
        fleet.advance(made[0])

    return advance


def _plain(bench: Bench, case: Case) -> Advance:
    """Tensors on the device, sliced: nothing is read, decoded or copied."""
    import streamtrain as st

    (whole,) = itertools.islice(st.open(str(bench.place(case))).batches(8 * bench.batch(case), device=bench.device), 1)
    size = bench.batch(case)
    starts = itertools.cycle(range(0, len(whole["y"]) - size + 1, size))
    plain = Plain(bench, case)

    def advance(steps: int) -> None:
        for start in itertools.islice(starts, steps):
            plain.step({name: tensor[start : start + size] for name, tensor in whole.items()})

    return advance


def _dataloader(bench: Bench, case: Case) -> Advance:
    """WebDataset in a DataLoader with processes, from the same shards, and DistributedDataParallel with one process."""
    from torch.nn.parallel import DistributedDataParallel

    if not torch.distributed.is_initialized():
        rendezvous = f"file://{tempfile.mktemp()}"
        backend = "nccl" if bench.device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1)
    plain = Plain(bench, case, DistributedDataParallel)
    batches = _loaded(bench, case)

    def advance(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            plain.step({name: tensor.to(bench.device, non_blocking=True) for name, tensor in batch.items()})

    return advance


def _loaded(bench: Bench, case: Case) -> Iterator[dict[str, torch.Tensor]]:
    import webdataset

    shards = sorted(str(file) for file in (bench.place(case) / "train").glob("*.tar"))
    label = "y.npy" if case.model == "gpt" else "y.cls"
    data = (
        webdataset.WebDataset(shards, shardshuffle=False, empty_check=False, workersplitter=_all_of_them)
        .decode()
        .to_tuple("x.npy", label)
        .batched(bench.batch(case), partial=False)
    )
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=LOADERS if bench.device == "cuda" else 0, pin_memory=bench.device == "cuda"
    )
    while True:
        for x, y in loader:
            yield {"x": torch.as_tensor(x), "y": torch.as_tensor(y)}


def _all_of_them(shards: Iterator[Any]) -> Iterator[Any]:
    """Every process of the loader reads all shards: there may be fewer of these than of those."""
    return shards


def _idle(advance: Advance, steps: int) -> float:
    """The part of the time from the first kernel to the last in which the GPU computes and copies nothing."""
    advance(2)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        advance(steps)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - spans[0][0])


def memory(bench: Bench) -> dict[str, float]:
    """Bytes of the GPU that training takes at most for each parameter, activations counted, ours and plain."""
    found: dict[str, float] = {}
    for rule in ("sgd", "adamw"):
        case = Case("mlp", optimizer=rule)
        for who, make in (("ours", _ours_alone), ("plain", _plain_alone)):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            parameters = make(bench, case)
            found[f"bytes_a_parameter_{rule}_{who}"] = (torch.cuda.max_memory_allocated() - before) / parameters
    return found


def _ours_alone(bench: Bench, case: Case) -> int:
    with bench.fleet(bench.job(case)) as fleet:
        fleet.advance(5)
        return sum(value.numel() for value in fleet.snapshot().values())


def _plain_alone(bench: Bench, case: Case) -> int:
    plain = Plain(bench, case)
    for batch in itertools.islice(minibatches(bench, case), 5):
        plain.step(batch)
    torch.cuda.synchronize()
    return sum(value.numel() for value in plain.model.parameters())
