"""Memory that training takes for each parameter, beside DDP: a run of 2 workers with 8 lanes, and DDP in 2 processes.

    python -m tests.benchmarks.memory [--json]

The model is a perceptron of 20 million parameters in 21 layers, minibatch 256, float32; SGD with momentum, and AdamW
(DDP's is `fused`); and SGD where all layers but the last are frozen, as where a model is tuned. Counted is the
proportional set size (Linux, PSS) of all processes of a run, driver, streamers and Ray's own included, while it
trains: the most of the sums that were read every 20 ms over some steps. A page that several processes share counts
once in such a sum. Of it goes what the same processes take with a model of 30 thousand parameters, read in the same
way: interpreters, libraries, data. The rest is divided by the number of parameters.
"""

from __future__ import annotations

import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.nn import Flatten, Linear, ReLU, Sequential

from tests.benchmarks.measuring import report, wants_json
from tests.benchmarks.models import BATCH, LR, MOMENTUM, images, tensors

WIDTHS = {"small": 24, "large": 1000}
HIDDEN, LANES, WORKERS = 19, 8, 2
WARM_UP, STEPS = 3, 8
LOOK_SECONDS = 0.02


WAYS = ("sgd", "adamw", "frozen")


def model(width: int, way: str = "sgd") -> torch.nn.Module:
    """784 inputs, 19 square layers, 10 outputs; perhaps only the last layer trains."""
    hidden = [layer for _ in range(HIDDEN) for layer in (Linear(width, width), ReLU())]
    below = Sequential(Flatten(), Linear(784, width), ReLU(), *hidden).requires_grad_(way != "frozen")
    return Sequential(below, Linear(width, 10))


def parameters(width: int) -> int:
    """How many the model has."""
    return sum(p.numel() for p in model(width).parameters())


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels in [0, 1], as the peer's tensors are."""
    return {**batch, "image": batch["image"].float().div_(255)}


def train_ours(way: str, width: int, data: str) -> Iterator[None]:
    """A step a turn, on a fleet of Ray's workers."""
    import ray

    import streamtrain as st
    from streamtrain.prepare.plan import plan
    from streamtrain.run.fleet.actors.ray_fleet import RayFleet

    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    job = st.Job(
        st.Data(data, transform=scaled),
        lambda: model(width, way),
        mode=st.Epochs(max_passes=10**6),
        optimizer=st.SGD(lr=LR, momentum=MOMENTUM) if way != "adamw" else st.AdamW(lr=1e-4),
        batch_size=BATCH,
        workers=WORKERS,
        lanes=LANES,
    )
    with RayFleet(plan(job)) as fleet:
        for step in range(1, 10**6):
            fleet.advance(step)
            yield


def train_ddp(way: str, width: int, data: str) -> Iterator[None]:
    """A step a turn, in two processes with tensors in memory."""
    context = torch.multiprocessing.get_context("forkserver")
    pipes = []
    for rank in range(WORKERS):
        mine, theirs = context.Pipe()
        arguments = theirs, rank, way, width, f"{data}/rendezvous-{way}-{width}"
        context.Process(target=ddp_loop, args=arguments, daemon=True).start()
        pipes.append(mine)
    while True:
        for pipe in pipes:
            pipe.send("step")
        for pipe in pipes:
            pipe.recv()
        yield


def ddp_loop(pipe: Connection, rank: int, way: str, width: int, rendezvous: str) -> None:  # type: ignore[type-arg]
    """One of its processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=WORKERS)
    ddp = torch.nn.parallel.DistributedDataParallel(model(width, way))
    if way == "adamw":
        optim: torch.optim.Optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-4, fused=True)
    else:
        optim = torch.optim.SGD(ddp.parameters(), lr=LR, momentum=MOMENTUM)
    x, y = (each[rank::WORKERS] for each in tensors())
    size, start = BATCH // WORKERS, 0
    while step_is_wanted(pipe):
        optim.zero_grad()
        torch.nn.functional.cross_entropy(ddp(x[start : start + size]), y[start : start + size]).backward()
        optim.step()
        start = start + size if start + 2 * size <= len(x) else 0
        pipe.send("done")


def step_is_wanted(pipe: Connection) -> bool:  # type: ignore[type-arg]
    """Waits for the next word; there is none after the last step."""
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


SIDES = {"ours": train_ours, "ddp": train_ddp}


def measure(side: str, way: str, width: int, data: Path) -> int:
    """Bytes of all processes of a run."""
    words = [sys.executable, "-m", "tests.benchmarks.memory", "--run", side, way, str(width), str(data)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None and run.stdout is not None
        if run.stdout.readline() != "warm\n":
            raise SystemExit(f"the run of {side} ended with {run.wait()}")
        most = resident(run.pid)
        while not select.select([run.stdout], [], [], LOOK_SECONDS)[0]:
            most = max(most, resident(run.pid))
        run.stdin.close()
    return most


def resident(process: int) -> int:
    """Bytes of a process and all below it; of a page that they share among them, once."""
    found = 0
    whole = psutil.Process(process)
    for each in [whole, *whole.children(recursive=True)]:
        try:
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        found += sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return found


def run_side(side: str, way: str, width: int, data: str) -> None:
    """In a process of its own: says when it is warm, and when it has made its steps; ends when told."""
    steps = SIDES[side](way, width, data)
    for _ in range(WARM_UP):
        next(steps)
    print("warm", flush=True)
    for _ in range(STEPS):
        next(steps)
    print("done", flush=True)
    sys.stdin.read()
    steps.close()


def main() -> None:
    """Prints bytes a parameter, and ratios."""
    if sys.argv[1:2] == ["--run"]:
        side, way, width, data = sys.argv[2:]
        run_side(side, way, int(width), data)
        return
    as_json = wants_json(__doc__)
    from streamtrain.packing import PackOptions, pack

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pixels, labels = images()
        np.savez(Path(scratch) / "images.npz", image=pixels, label=labels)
        data = Path(scratch) / "packed"
        pack(str(Path(scratch) / "images.npz"), data, PackOptions(splits=(0.96, 0.02, 0.02), shard_examples=2000))
        for side in SIDES:
            before = measure(side, "sgd", WIDTHS["small"], data)
            figures[f"{side}_before_mb"] = before / 1e6
            for way in WAYS:
                found = measure(side, way, WIDTHS["large"], data)
                figures[f"{way}_{side}_mb"] = found / 1e6
                figures[f"{way}_{side}_bytes_a_parameter"] = (found - before) / parameters(WIDTHS["large"])
    ratios = {
        f"{way}_memory_vs_ddp": figures[f"{way}_ours_bytes_a_parameter"] / figures[f"{way}_ddp_bytes_a_parameter"]
        for way in WAYS
    }
    about = f"memory of training {parameters(WIDTHS['large']):,} parameters, {LANES} lanes on {WORKERS} workers"
    report(about, figures, ratios, as_json=as_json)


if __name__ == "__main__":
    main()
