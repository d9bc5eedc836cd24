"""Rates and momenta searched with Optuna, which ends a run whose held-out loss lags behind the others'.

    pip install 'dist/streamtrain-0.1.0-py3-none-any.whl[search]'
    python jobs/search/optuna_pruning.py --trials 12       # MNIST, some minutes on 2 cores

Each trial is a run of its own in MLflow. Trials are compared on the validation split, so the best one has the lowest
risk of many there; the test split tells what it is worth.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import optuna

import streamtrain as st

JOB = Path(__file__).parents[1] / "mnist.py"


def pruner_of(trial: optuna.Trial) -> Callable[[st.Evaluation], str | None]:
    """A listener that reports each pass's held-out loss, and ends the run where Optuna has seen enough."""

    def hear(evaluation: st.Evaluation) -> str | None:
        trial.report(evaluation.generalization.loss.mean, evaluation.step)
        return "Optuna prunes it" if trial.should_prune() else None

    return hear


def search(job: st.Job, trials: int, *, inline: bool = False) -> optuna.Study:
    """Trains the job with rates and momenta that Optuna proposes; the loss of the kept parameters is what counts."""
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=job.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )

    def objective(trial: optuna.Trial) -> float:
        optimizer = st.SGD(
            lr=trial.suggest_float("lr", 1e-3, 1.0, log=True),
            momentum=trial.suggest_float("momentum", 0.0, 0.95),
        )
        tracking = dataclasses.replace(job.tracking, parent="optuna")
        tried = dataclasses.replace(job, optimizer=optimizer, listeners=(pruner_of(trial),), tracking=tracking)
        result = st.train(tried, name=f"trial-{trial.number}", inline=inline)
        if trial.should_prune():
            raise optuna.TrialPruned
        trial.set_user_attr("run", str(result.folder))
        return result.chosen.generalization.loss.mean

    study.optimize(objective, n_trials=trials, catch=(st.TrainingError,))  # a rate that diverges ends its trial alone
    return study


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    words.add_argument("--job", type=Path, default=JOB, help="its file; MNIST by default")
    words.add_argument("--trials", type=int, default=12)
    words.add_argument("--passes", type=int, default=3, help="at most, in each run")
    words.add_argument("--inline", action="store_true", help="train in this process, without Ray")
    asked = words.parse_args()
    job = dataclasses.replace(st.load_job(asked.job), mode=st.Epochs(max_passes=asked.passes, patience=asked.passes))
    study = search(job, asked.trials, inline=asked.inline)
    pruned = len(study.get_trials(states=(optuna.trial.TrialState.PRUNED,)))
    print(f"\nbest of {len(study.trials)} ({pruned} pruned): {study.best_params}, held-out loss {study.best_value:.4g}")
    print(f"its run: {study.best_trial.user_attrs['run']}; all of them: streamtrain ui")


if __name__ == "__main__":
    main()
