"""Rates and batch sizes searched with Ray Tune, whose scheduler stops runs that lag.

    pip install 'dist/streamtrain-0.1.0-py3-none-any.whl[search]'
    python jobs/search/ray_tune.py --trials 8              # MNIST, some minutes on 2 cores

Tune places the trials, one core each, and each trains in its own process (`inline`): on a cluster as many go at once
as it has cores. A run that needs several workers is better searched with Optuna (optuna_pruning.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

import streamtrain as st

JOB = Path(__file__).parents[1] / "mnist.py"


def report(evaluation: st.Evaluation) -> None:
    """A listener: Tune hears of both risks and of the gap, pass by pass."""
    held_out, gap = evaluation.generalization, evaluation.gap_of_loss
    tune.report({"loss": held_out.loss.mean, "error": held_out.error.mean, "gap": gap.value, "step": evaluation.step})


def located(url: str | st.Mixture, folder: Path) -> str | st.Mixture:
    """The data set, or each of a mixture's, where it lies as seen from ``folder``."""
    if isinstance(url, st.Mixture):
        return st.Mixture({str(located(each, folder)): share for each, share in url.shares.items()})
    return url if "://" in url else str(folder / url)


def trial_of(file: Path, passes: int, folder: Path) -> Callable[[dict[str, Any]], None]:
    """What Tune calls in a process of each trial, with the settings that it chose.

    Args:
        file: of the job; each trial loads it for itself. passes: at most.
        folder: where the job's places begin, since each trial works in a folder of its own.
    """

    def trial(settings: dict[str, Any]) -> None:
        job = st.load_job(file)
        tracking = dataclasses.replace(
            job.tracking,
            uri=job.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}",
            folder=str(folder / job.tracking.folder),
            parent="ray-tune",
        )
        tried = dataclasses.replace(
            job,
            data=dataclasses.replace(job.data, url=located(job.data.url, folder)),
            mode=st.Epochs(max_passes=passes, patience=passes),
            optimizer=st.SGD(lr=settings["lr"], momentum=0.9),
            batch_size=settings["batch_size"],
            listeners=(report,),
            tracking=tracking,
        )
        st.train(tried, name=tune.get_context().get_trial_name(), inline=True)

    return trial


def search(file: Path, trials: int, passes: int, folder: Path) -> tune.ResultGrid:
    """Trains the job with settings that Tune draws; what Tune notes goes to ``folder``/tune."""
    tuner = tune.Tuner(
        tune.with_resources(trial_of(file.absolute(), passes, folder), {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-3, 1.0), "batch_size": tune.choice([32, 64, 128])},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=trials,
            scheduler=ASHAScheduler(max_t=passes, grace_period=1, reduction_factor=2),
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    return tuner.fit()


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    words.add_argument("--job", type=Path, default=JOB, help="its file; MNIST by default")
    words.add_argument("--trials", type=int, default=8)
    words.add_argument("--passes", type=int, default=3, help="at most, in each run")
    asked = words.parse_args()
    found = search(asked.job, asked.trials, asked.passes, Path.cwd())
    best = found.get_best_result()
    print(
        f"\nbest of {len(found)}: {best.config}, "
        f"held-out loss {best.metrics['loss']:.4g}, gap {best.metrics['gap']:.4g}"
    )


if __name__ == "__main__":
    main()
