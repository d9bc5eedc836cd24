"""Training speed against the usual ways, at the same global minibatch of 256 on two cores.

    python -m tests.benchmarks.train [--json] [--models mlp mlp3m cnn] [--rounds 12]

Peers: a plain loop in one process and DDP with gloo in two, on tensors in memory; Ray Train with DDP and WebDataset,
from the same shards as ours. One thread a process everywhere; SGD with momentum, and AdamW for the middle model (ours,
and DDP with PyTorch's fused one). Ours reads packed shards, through `RayFleet`. The limit is two plain loops, each on
its half of every minibatch, that never meet: what the cores do in two processes when reading and meeting cost nothing,
though each makes the whole update. Bare are two that meet as ours do, and do nothing else (`bare`). A ratio is of
examples/s, the first over the second, ours where one alone is named: the median of alternating rounds. Ray Train's own
start takes too long for rounds: ours runs alone just before it and just after.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import streamtrain as st
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.benchmarks.bare import bare_loop
from tests.benchmarks.models import ADAMW_LR, BATCH, LR, MODELS, MOMENTUM, ROUND_STEPS, images, mlp, tensors
from tests.benchmarks.rounds import Processes, alternate, machine, ratio

PEERS = ("ddp", "single", "bare", "limit")
OURS = {"sgd": st.SGD(lr=LR, momentum=MOMENTUM), "adamw": st.AdamW(lr=ADAMW_LR)}
THEIRS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM),
    "adamw": functools.partial(torch.optim.AdamW, lr=ADAMW_LR, fused=True),
}


def plain_loop(
    pipe: Connection,  # type: ignore[type-arg]
    rank: int,
    world: int,
    name: str,
    rendezvous: str,
    rule: str = "sgd",
) -> None:
    """A plain loop over tensors in memory; with DDP where there is a rendezvous."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]()
    if rendezvous:
        torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=world)
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = THEIRS[rule](model.parameters())
    x, y = (each[rank::world] for each in tensors())
    size, start = BATCH // world, 0
    pipe.send("ready")
    while pipe.recv() is not None:
        if rendezvous:
            torch.distributed.barrier()
        began = time.perf_counter()
        for _ in range(ROUND_STEPS[name]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[start : start + size]), y[start : start + size]).backward()
            optimizer.step()
            start = start + size if start + 2 * size <= len(x) else 0
        pipe.send(time.perf_counter() - began)


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the peers' tensors were before the loop."""
    return {**batch, "image": batch["image"].float().div_(255).unsqueeze(1)}


class Ours:
    """A `RayFleet` that goes on by some steps a call."""

    def __init__(self, folder: Path, name: str, lanes: int, rule: str = "sgd") -> None:
        job = st.Job(
            st.Data(str(folder), transform=scaled),
            MODELS[name],
            mode=st.Epochs(max_passes=10**6),
            optimizer=OURS[rule],
            batch_size=BATCH,
            workers=2,
            lanes=lanes,
        )
        self._fleet = RayFleet(plan(job)).__enter__()
        self._step, self._steps = 0, ROUND_STEPS[name]

    def __call__(self) -> float:
        self._step += self._steps
        began = time.perf_counter()
        self._fleet.advance(self._step)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Gives the workers back."""
        self._fleet.__exit__(None, None, None)


def ours_step_seconds(folder: Path, rounds: int) -> list[float]:
    """Seconds a step of the MLP with ours, while nothing else runs; of each round, after one to warm up."""
    ours = Ours(folder, "mlp", 2)
    try:
        return [ours() / ROUND_STEPS["mlp"] for _ in range(1 + rounds)][1:]
    finally:
        ours.stop()


def raytrain_step_seconds(folder: Path) -> float:
    """Seconds a step of the MLP with Ray Train, DDP and WebDataset, two workers; start-up left out."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as storage:
        trainer = TorchTrainer(
            raytrain_loop,
            train_loop_config={
                "shards": [str(file) for file in sorted((folder / "train").glob("*.tar"))],
                "answer": f"{storage}/seconds",  # Ray Train keeps no metrics without a checkpoint
            },
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=storage),
        )
        trainer.fit()
        return float((Path(storage) / "seconds").read_text())


def raytrain_loop(config: dict[str, Any]) -> None:
    """Ray Train's own recipe: `prepare_model`, and a WebDataset split over the workers."""
    import webdataset
    from ray import train
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    rank = train.get_context().get_world_rank()
    model = prepare_model(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    data = webdataset.WebDataset(
        config["shards"][rank::2], shardshuffle=False, empty_check=False, nodesplitter=lambda shards: shards
    )
    batches = iter(data.decode().to_tuple("image.npy", "label.cls").batched(BATCH // 2).repeat())
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        pixels, labels = next(batches)
        x = torch.as_tensor(np.stack(pixels)).float().div_(255)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.as_tensor(labels)).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        Path(config["answer"]).write_text(str(statistics.median(seconds[5:])))
    train.report({})


def race(name: str, folder: Path, memory: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios, and examples/s of every contestant, for one model; ``memory`` is a folder in memory."""
    rendezvous = folder.parent / f"rendezvous-{name}"
    starts = {
        "ours": functools.partial(Ours, folder, name, 2),
        "ours_lanes8": functools.partial(Ours, folder, name, 8),
        "single": functools.partial(Processes, plain_loop, 1, name, ""),
        "ddp": functools.partial(Processes, plain_loop, 2, name, str(rendezvous)),
        "limit": functools.partial(Processes, plain_loop, 2, name, ""),
        "bare": functools.partial(Processes, bare_loop, 2, name, 2, memory / name),
        "bare_lanes8": functools.partial(Processes, bare_loop, 2, name, 8, memory / f"{name}-lanes8"),
    }
    if name == "mlp3m":
        del starts["ours_lanes8"], starts["bare_lanes8"]
        starts["ours_adamw"] = functools.partial(Ours, folder, name, 2, "adamw")
        starts["ddp_adamw"] = functools.partial(Processes, plain_loop, 2, name, f"{rendezvous}-adamw", "adamw")
    contestants: dict[str, Any] = {who: start() for who, start in starts.items()}
    try:
        seconds = alternate(contestants, rounds)
    finally:
        for contestant in contestants.values():
            contestant.stop()
    ratios = {f"{name}_vs_{peer}": ratio(seconds[peer], seconds["ours"]) for peer in PEERS}
    ratios |= {f"{name}_{who}_vs_single": ratio(seconds["single"], seconds[who]) for who in ("limit", "bare")}
    ratios[f"{name}_bare_vs_ddp"] = ratio(seconds["ddp"], seconds["bare"])
    if "ours_lanes8" in seconds:
        ratios[f"{name}_lanes8_vs_ddp"] = ratio(seconds["ddp"], seconds["ours_lanes8"])
        ratios[f"{name}_lanes8_vs_bare_lanes8"] = ratio(seconds["bare_lanes8"], seconds["ours_lanes8"])
        ratios[f"{name}_bare_lanes8_vs_ddp"] = ratio(seconds["ddp"], seconds["bare_lanes8"])
    if "ours_adamw" in seconds:
        ratios[f"{name}_adamw_vs_ddp"] = ratio(seconds["ddp_adamw"], seconds["ours_adamw"])
        ratios[f"{name}_adamw_vs_sgd"] = ratio(seconds["ours"], seconds["ours_adamw"])
    examples = BATCH * ROUND_STEPS[name]
    rates = {f"{name}_{who}": examples / statistics.median(each) for who, each in seconds.items()}
    return ratios, rates | {f"{name}_{who}_best": examples / min(each) for who, each in seconds.items()}


def main() -> None:
    """Prints ratios and rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--raytrain", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray's own spelling; as when streamtrain starts Ray; the peers are not niced either
    ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ratios: dict[str, float] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        pixels, labels = images()
        source, folder = str(Path(scratch) / "images.npz"), Path(scratch) / "packed"
        np.savez(source, image=pixels, label=labels)
        options = PackOptions(splits=(0.96, 0.02, 0.02), shard_examples=2000)
        pack(source, folder, options)
        for name in arguments.models:
            found, speeds = race(name, folder, Path(memory), arguments.rounds)
            ratios |= found
            rates |= speeds
        if arguments.raytrain and "mlp" in arguments.models:
            single = replace(options, blocks=False)  # one example a sample: the form that the peer's loader reads
            pack(source, Path(scratch) / "single", single)
            alone = ours_step_seconds(folder, max(1, arguments.rounds // 2))
            rates["mlp_raytrain"] = BATCH / raytrain_step_seconds(Path(scratch) / "single")
            alone += ours_step_seconds(folder, max(1, arguments.rounds // 2))
            rates["mlp_ours_alone"] = BATCH / statistics.median(alone)
            ratios["mlp_vs_raytrain"] = rates["mlp_ours_alone"] / rates["mlp_raytrain"]
    if arguments.json:
        print(json.dumps({"ratios": ratios, "examples_per_second": rates, "machine": machine()}))
        return
    for title, values in (("times as fast", ratios), ("examples/s", rates)):
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:24s} {value:12,.2f}")


if __name__ == "__main__":
    main()
