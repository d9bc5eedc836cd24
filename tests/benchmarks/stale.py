"""What the pool is for: throughput and held-out error with one of two workers slowed three times.

    python -m tests.benchmarks.stale [--json] [--passes 10] [--data data/mnist]

The job is the demo's, on its data set (`make data`), with 4 lanes. A worker is slowed by sleeping twice as long as
each gradient took. All ways train on the same shards with the same minibatches; a ratio is examples/s of
`Stale(bound=k)`, or of one backup lane, over the synchronous; ``error_apart`` is how far the errors on the 7,000
held-out examples are apart, in standard errors of their difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ray import cloudpickle

import streamtrain as st
from streamtrain.aggregate.exchange.join import Seat
from streamtrain.job import Synchronous
from streamtrain.measure.risk import pooled
from streamtrain.model.evaluation import measured_together
from streamtrain.model.gradient import Gradient
from streamtrain.order import evaluation_slices, hosting_of
from streamtrain.prepare.jobfile import load_job
from streamtrain.prepare.plan import EVALUATION_SLICE, Plan, plan
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.values import Lane
from tests.benchmarks.rounds import machine

SLOWED = 3.0
BOUNDS = (0, 1, 2, 4)


class SlowGradient(Gradient):
    """Takes three times as long."""

    def _group(self, *arguments: Any, **settings: Any) -> None:
        """See `Gradient`."""
        began = time.perf_counter()
        super()._group(*arguments, **settings)
        time.sleep((SLOWED - 1) * (time.perf_counter() - began))


def work(pipe: Connection, index: int, pickled: bytes) -> None:  # type: ignore[type-arg]
    """One worker: joins, trains to the end, tells how long that took and what the risk is."""
    plans: Plan = cloudpickle.loads(pickled)
    worker = Worker(plans)
    if index == 1:
        worker._gradient = SlowGradient(plans.job)
    pipe.send((os.getpid(), worker.offer_memory(0) if index == 0 else None))
    handle, processes = pipe.recv()
    worker.join(Seat(index, hosting_of(plans.order.lanes, 2), 0, handle, processes))
    pipe.send("joined")
    pipe.recv()
    began = time.perf_counter()
    updates = worker.advance(plans.total_steps)
    seconds = time.perf_counter() - began
    staleness = [update.staleness for update in updates]
    pipe.send((seconds, staleness))
    if index == 0 and pipe.recv():
        examples = plans.manifest.splits["validation"].examples
        slices = evaluation_slices([Lane(0, 0, examples)], examples, EVALUATION_SLICE)
        pipe.send(
            pooled(itertools.chain(*worker.evaluate("validation", measured_together(plans.job, 0, slices)))).error
        )


def measured(job: st.Job) -> dict[str, float]:
    """One run on two workers, the second slowed."""
    plans, context = plan(job), multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for index in range(2):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, index, cloudpickle.dumps(plans)))
        process.start()
        pipes.append(mine)
        processes.append(process)
    told = [pipe.recv() for pipe in pipes]
    for message in ((told[0][1], {index: number for index, (number, _) in enumerate(told)}), "go"):
        for pipe in pipes:
            pipe.send(message)
        if message != "go":
            [pipe.recv() for pipe in pipes]
    done = [pipe.recv() for pipe in pipes]
    pipes[0].send("evaluate")
    error = pipes[0].recv()
    for process in processes:
        process.join()
    staleness = [value for _, values in done for value in values]
    return {
        "examples_per_second": plans.passes * plans.order.used / max(seconds for seconds, _ in done),
        "staleness": sum(staleness) / len(staleness),
        "error": error.mean,
        "standard_error": error.standard_error,
    }


def main() -> None:
    """Prints rates, errors and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--data", type=Path, default=Path("data/mnist"))
    arguments = parser.parse_args()
    if not (arguments.data / "manifest.json").exists():
        parser.error(f"--data {arguments.data}: expected a packed data set, found none; run make data first")
    job = dataclasses.replace(
        load_job(Path("jobs/mnist.py")), mode=st.Epochs(max_passes=arguments.passes), lanes=4, workers=2
    )
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, url=str(arguments.data)))
    found = {"synchronous": measured(_with(job, Synchronous()))}
    found |= {f"stale{bound}": measured(_with(job, st.Stale(bound))) for bound in BOUNDS}
    found["backup1"] = measured(_with(job, Synchronous(backup=1)))
    base = found["synchronous"]
    ratios = {}
    for name, each in list(found.items())[1:]:
        ratios[f"{name}_vs_synchronous"] = each["examples_per_second"] / base["examples_per_second"]
        apart = math.hypot(each["standard_error"], base["standard_error"])
        ratios[f"{name}_error_apart"] = abs(each["error"] - base["error"]) / apart
    if arguments.json:
        print(json.dumps({"ratios": ratios, "runs": found, "machine": machine()}))
        return
    for name, each in found.items():
        print(
            f"{name:12s} {each['examples_per_second']:10,.0f} examples/s, staleness {each['staleness']:.2f}, "
            f"held-out error {each['error']:.2%} ± {each['standard_error']:.2%}"
        )
    for name, value in ratios.items():
        print(f"{name:28s} {value:6.2f}")


def _with(job: st.Job, aggregation: Synchronous | st.Stale) -> st.Job:
    return dataclasses.replace(job, aggregation=aggregation)


if __name__ == "__main__":
    main()
