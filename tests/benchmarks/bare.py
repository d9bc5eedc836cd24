"""Shared memory's exchange with nothing around it: how fast two workers are that meet as ours do, plainly written.

Tensors in memory, no reading, no measuring, no clipping, no norms, no look at whether the peer lives, and a core that
is never given away. Each writes its lanes' summed gradient where the other sees it, waits, adds both up and updates its
half into the other half of a double buffer, waits, and goes on with that.
"""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from streamtrain.model.machine.device import keep_freed_memory
from tests.benchmarks.models import BATCH, LR, MODELS, MOMENTUM, ROUND_STEPS, tensors

WORKERS = 2
LINE = 16
"""Elements of a cache line."""


class Block:
    """What two workers of a model with ``size`` parameters share, in a file.

    Attributes:
        arrivals: of each worker, the first of its line. gradients: each one's sum. parameters: the double buffer.
    """

    def __init__(self, path: Path, size: int) -> None:
        padded = -(-size // LINE) * LINE
        with path.open("ab") as file:
            file.truncate(4 * (WORKERS * LINE + 4 * padded))
        words = torch.from_file(str(path), shared=True, size=WORKERS * LINE + 4 * padded)
        vectors = words[WORKERS * LINE :].view(4, padded)[:, :size]
        self.arrivals = words[: WORKERS * LINE].view(torch.int32).view(WORKERS, LINE).numpy()
        self.gradients, self.parameters = vectors[:2], vectors[2:]


def bare_loop(pipe: Connection, rank: int, world: int, name: str, lanes: int, path: Path) -> None:  # type: ignore[type-arg]
    """One worker's loop; it hosts ``lanes / world`` lanes, and shares the file at ``path`` with the other."""
    keep_freed_memory()  # as ours
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]()
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    block = Block(path, sum(sizes))
    arrivals = block.arrivals
    middle = sum(sizes) // WORKERS // LINE * LINE
    mine = slice(middle) if rank == 0 else slice(middle, None)
    (first, second), halves = block.gradients[:, mine], block.parameters[:, mine]
    views = [[part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)] for v in block.parameters]
    slot = [part.view_as(p) for part, p in zip(block.gradients[rank].split(sizes), parameters, strict=True)]
    for parameter, view in zip(parameters, views[0], strict=True):
        view.copy_(parameter.detach())
    velocity, mean = torch.zeros_like(first), torch.empty_like(first)
    inputs, targets = (each[rank::world] for each in tensors())
    share, hosted = BATCH // world, lanes // world

    def wait() -> None:
        arrivals[rank, 0] += 1
        while arrivals[1 - rank, 0] < arrivals[rank, 0]:
            os.sched_yield()

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x), y, reduction="sum")

    pipe.send("ready")
    start = step = 0
    while pipe.recv() is not None:
        wait()
        began = time.perf_counter()
        for _ in range(ROUND_STEPS[name]):
            for parameter, view in zip(parameters, views[step % 2], strict=True):
                parameter.data = view
            parts = zip(*(each[start : start + share].chunk(hosted) for each in (inputs, targets)), strict=True)
            losses = [loss_of(x, y) for x, y in parts]
            sums = [torch.autograd.grad(loss, parameters) for loss in losses]
            while len(sums) > 2:
                sums = [tuple(map(torch.add, *pair)) for pair in zip(sums[::2], sums[1::2], strict=True)]
            for view, *of in zip(slot, *sums, strict=True):
                view.copy_(of[0]) if len(of) == 1 else torch.add(*of, out=view)
            wait()
            velocity.mul_(MOMENTUM).add_(torch.add(first, second, out=mean).div_(BATCH))
            torch.add(halves[step % 2], velocity, alpha=-LR, out=halves[1 - step % 2])
            wait()
            step += 1
            start = start + share if start + 2 * share <= len(inputs) else 0
        pipe.send(time.perf_counter() - began)
