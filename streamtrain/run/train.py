"""`st.train`: a job from its declaration to its result."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from streamtrain.job import Job, Online

if TYPE_CHECKING:
    from streamtrain.run.result import Result

VERSIONS = ("streamtrain", "ray", "torch", "numpy", "webdataset", "mlflow")


def train(job: Job, *, name: str = "job", quiet: bool = False) -> Result:
    """Trains ``job`` on Ray: on this machine, or on the cluster that RAY_ADDRESS names.

    Args:
        name: what the run is called, with its mode, unless ``tracking.run_name`` says otherwise.
        quiet: nothing about progress on standard error.

    Raises:
        ConfigError, DataError: before anything starts.
        TrainingError: what stopped the run.
    """
    from streamtrain.prepare.plan import plan as plan_of
    from streamtrain.prepare.preflight import check_cpus, preflight
    from streamtrain.run.actors import RayFleet, check_resources, start_ray, will_start_ray
    from streamtrain.run.controller import Controller
    from streamtrain.track.terminal import Terminal

    plan = plan_of(job)
    if will_start_ray():
        check_cpus(job, os.cpu_count())
    trial = preflight(plan)
    tracker = _tracker(job)  # refuses a wrong URI before Ray starts
    terminal = Terminal(quiet=quiet)
    run_name = job.tracking.run_name or f"{name}-{'online' if isinstance(job.mode, Online) else 'epochs'}"
    terminal.line(
        f"{run_name}: {plan.order.used:,} examples a pass, {plan.order.steps:,} steps, {job.workers} worker(s)"
    )
    start_ray()
    check_resources(job)
    folder = _run_folder(job, run_name)
    tracker.begin(_card(plan, run_name), folder)
    try:
        with RayFleet(plan) as fleet:
            result = Controller(plan, fleet, tracker, terminal, folder).run()
        result = dataclasses.replace(result, run_id=tracker.run_id)
        _log_outcome(plan, trial, result, tracker)
    except BaseException as error:
        terminal.clear()
        tracker.finish("killed" if isinstance(error, KeyboardInterrupt) else "failed", note=str(error))
        raise
    tracker.finish("finished", note=result.stop_reason)
    return result
