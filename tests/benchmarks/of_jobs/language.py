"""A small GPT from token shards to updates: ours over Ray, and DDP with gloo over a mapped file of the same rows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import ray
import torch

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.benchmarks.rounds import Processes

JOBS = Path(__file__).parents[3] / "jobs" / "text"
TOKENS, BATCH, STEPS = 256, 16, 5
"""Of a row, of a minibatch, of a round."""
LR, DECAY, BETAS = 2e-3, 0.1, (0.9, 0.95)


def decaying(model: torch.nn.Module) -> list[dict[str, object]]:
    """The peer's groups: as the job's."""
    named = dict(model.named_parameters())
    free = {name for name in named if name.endswith("bias") or ("norm" in name and name.endswith("weight"))}
    rest = [named[name] for name in named if name not in free]
    return [{"params": rest, "weight_decay": DECAY}, {"params": [named[name] for name in free], "weight_decay": 0.0}]


def ddp_loop(pipe: Connection, rank: int, world: int, folder: str) -> None:  # type: ignore[type-arg]
    """A round is STEPS updates of its part of every minibatch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job = st.load_job(JOBS / "language.py")
    assert callable(job.loss)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world)
    model = torch.nn.parallel.DistributedDataParallel(job.model())
    optimizer = torch.optim.AdamW(decaying(model), lr=LR, betas=BETAS, fused=True)
    tokens = np.memmap(f"{folder}/tokens", np.uint16, "r").reshape(-1, TOKENS)
    starts = np.memmap(f"{folder}/starts", bool, "r").reshape(-1, TOKENS)
    size, start = BATCH // world, 0
    pipe.send("ready")
    while pipe.recv() is not None:
        torch.distributed.barrier()
        began = time.perf_counter()
        for _ in range(STEPS):
            part = slice(start + rank * size, start + (rank + 1) * size)
            row, begins = torch.from_numpy(tokens[part].copy()), torch.from_numpy(starts[part].copy())
            optimizer.zero_grad()
            job.loss(model(row, begins), row).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            start = start + BATCH if start + 2 * BATCH <= len(tokens) else 0
        pipe.send(time.perf_counter() - began)


def write_rows(root: Path) -> None:
    """Packs texts of the standard library, and writes all training rows as two plain files."""
    words = [sys.executable, str(JOBS / "language_data.py"), str(root), "--files", "60"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    options = st.PackOptions(seed=1, tokens=TOKENS, tokenizer=str(root / "tokenizer.json"))
    st.pack(root / "texts", root / "packed", options)
    rows = st.open(root / "packed")[:]
    for name in ("tokens", "starts"):
        (root / name).write_bytes(rows[name].tobytes())


@contextlib.contextmanager
def contenders(root: Path) -> Iterator[dict[str, Callable[[], int]]]:
    """Each makes STEPS updates; the peer's file is what `st.open` gives, in the order of our minibatches."""
    write_rows(root)
    job = st.load_job(JOBS / "language.py")
    assert job.optimizer == st.AdamW(lr=LR, betas=BETAS, weight_decay=DECAY) and job.clip == st.Clip(norm=1.0)
    job = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(root / "packed")),
        mode=st.Epochs(max_passes=10**6),
        schedule=st.Schedule(),
        evaluate=st.Evaluate(),
        batch_size=BATCH,
    )
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray's own spelling; the peer is not niced either
    ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ddp = Processes(ddp_loop, 2, str(root))
    try:
        with RayFleet(plan(job)) as fleet:
            step = 0

            def ours() -> int:
                nonlocal step
                step += STEPS
                fleet.advance(step)
                return STEPS * BATCH

            def theirs() -> int:
                ddp()
                return STEPS * BATCH

            for warm_up in (ours, theirs):
                warm_up()
            yield {"language, ours": ours, "language, DDP": theirs}
    finally:
        ddp.stop()
        ray.shutdown()
