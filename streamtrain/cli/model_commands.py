"""`streamtrain evaluate` and `predict`: a run's model on a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from streamtrain.checks import require_count
from streamtrain.cli.flags import beginning_of, parse

if TYPE_CHECKING:
    from streamtrain.job import Job

EVALUATE_EXAMPLES = """\
streamtrain evaluate runs/mnist-epochs-20260102-101500 data/mnist
streamtrain evaluate runs/mnist-epochs-20260102-101500 data/others --splits test --json
streamtrain evaluate best.safetensors data/mnist --job jobs/mnist.py --batch-size 64
"""
PREDICT_EXAMPLES = """\
streamtrain predict runs/mnist-epochs-20260102-101500 data/mnist predictions.parquet --splits test
streamtrain predict best.safetensors data/mnist predictions.parquet --job jobs/mnist.py
"""


@dataclass(frozen=True)
class EvaluateArguments:
    """Risks of a run's model on a data set: loss, error and metrics of each split, with standard errors.

    As the run itself measures them: every example once, nothing random. In this process, without Ray.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder, a checkpoint's .safetensors in it, or a .safetensors file of a state dict."""
    data: tyro.conf.Positional[str]
    """The data set's folder, or its URL."""
    job: Path | None = None
    """The job file with which they were trained, where `streamtrain train` did not begin the run. It finds its own
    jobs by the command in the run's journal, with the flags that were given; start it where that was."""
    splits: tuple[str, ...] = ()
    """All that have examples by default."""
    batch_size: int | None = None
    """Most examples in the model at once; by default the job's micro_batch, else as many as the run took."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class PredictArguments:
    """What a run's model says of every example of a data set, as a Parquet file: key, outputs, loss and error of each.

    A batch is in memory at a time. In this process, without Ray.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder, a checkpoint's .safetensors in it, or a .safetensors file of a state dict."""
    data: tyro.conf.Positional[str]
    """The data set's folder, or its URL."""
    out: tyro.conf.Positional[Path]
    """File to write; there must be none."""
    job: Path | None = None
    """The job file, as with `streamtrain evaluate`."""
    splits: tuple[str, ...] = ()
    """All that have examples by default."""
    batch_size: int | None = None
    """Most examples in memory at once; by default the job's micro_batch, else as many as the run took."""
    json: bool = False
    """Print as JSON."""


def run_evaluate(words: Sequence[str]) -> None:
    """``streamtrain evaluate``."""
    given = parse(EvaluateArguments, words, "streamtrain evaluate", EVALUATE_EXAMPLES)
    require_count("--batch-size", given.batch_size)
    job = job_of_run(given.run, given.job, "evaluate")
    from streamtrain.run.afterwards.risks import evaluate

    found = evaluate(job, given.run, given.data, splits=given.splits, batch_size=given.batch_size)
    print(json.dumps(found.summary()) if given.json else found.table)


def run_predict(words: Sequence[str]) -> None:
    """``streamtrain predict``."""
    given = parse(PredictArguments, words, "streamtrain predict", PREDICT_EXAMPLES)
    require_count("--batch-size", given.batch_size)
    job = job_of_run(given.run, given.job, "predict")
    from streamtrain.run.afterwards.predictions import predict

    found = predict(job, given.run, given.data, given.out, splits=given.splits, batch_size=given.batch_size)
    print(json.dumps(found.summary()) if given.json else found)


def job_of_run(run: Path, file: Path | None, command: str) -> Job:
    """The job of a run: of the command that began it, with its flags, or of the file that is given.

    Raises:
        ConfigError: something else began it, and no file is given.
    """
    from streamtrain.cli.run_commands import declared_job
    from streamtrain.run.folder import RunFolder
    from streamtrain.run.watching.probing import command_of

    name, flags = (str(file), []) if file is not None else command_of(RunFolder.existing(run), command)
    return declared_job(name, beginning_of(flags)[1])
