"""`streamtrain submit`, `status`, `logs` and `stop`: jobs on a Ray cluster, and how far runs are."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tyro

from streamtrain.cli.flags import beginning_of, own_flags, parse, with_mode, with_optimizer_named
from streamtrain.cli.pipes import nobody_reads
from streamtrain.errors import TrainingError
from streamtrain.job import RUNS, Job

if TYPE_CHECKING:
    from streamtrain.run.fleet.cluster.submitting import Cluster, Submitted
    from streamtrain.run.watching.status import RunStatus


SUBMIT_EXAMPLES = """\
streamtrain submit jobs/mnist.py --address http://HEAD:8265 --follow --workers 16
streamtrain status --address http://HEAD:8265
streamtrain logs raysubmit_1234 --follow
streamtrain stop raysubmit_1234
"""


STATUS_EXAMPLES = """\
streamtrain status                                     # what is running below runs/
streamtrain status runs/mnist-epochs-20260102-101500
streamtrain status --address http://HEAD:8265          # a cluster's jobs
streamtrain status raysubmit_1234
"""


ADDRESS = "http://127.0.0.1:8265"


@dataclass(frozen=True)
class SubmitArguments:
    """Runs a job on a Ray cluster: ships the job file, the Python files beside it and this package, and trains there.

    All other flags are those of `streamtrain train`. Environment variables of MLflow (MLFLOW_…) and the stores (AWS_…,
    AZURE_…, GOOGLE_…, HF_…) go with it, readable for whoever may read the cluster's jobs.
    """

    job: tyro.conf.Positional[Path]
    """The job file."""
    address: str = ADDRESS
    """The cluster's job API."""
    follow: bool = False
    """Show what it prints until it ends, and exit with its code."""
    installed: bool = False
    """Use the streamtrain that the cluster has, rather than ship this one."""


@dataclass(frozen=True)
class StatusArguments:
    """How far a run is: pass, step, pace, waiting, gap; of this machine's runs, or of jobs on a cluster."""

    run: tyro.conf.Positional[str | None] = None
    """A run's folder, or the id that `streamtrain submit` printed; all below runs/ that are running, or with an address
    all of the cluster's jobs, where it is missing."""
    address: str | None = None
    """The cluster's job API, http://127.0.0.1:8265 by default."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class LogsArguments:
    """What a submitted job has printed."""

    submission: tyro.conf.Positional[str]
    """The job's id, as `streamtrain submit` prints it."""
    address: str = ADDRESS
    """The cluster's job API."""
    follow: bool = False
    """Go on until it ends, and exit with its code."""


@dataclass(frozen=True)
class StopArguments:
    """Asks a submitted job to write a checkpoint and end."""

    submission: tyro.conf.Positional[str]
    """The job's id, as `streamtrain submit` prints it."""
    address: str = ADDRESS
    """The cluster's job API."""


def run_submit(words: Sequence[str]) -> None:
    """``streamtrain submit``."""
    from streamtrain.prepare.jobfile import load_job
    from streamtrain.run.fleet.cluster.submitting import Cluster

    own, flags = own_flags(words[1:], ("-h", "--help", "--address=", "--follow", "--installed"))
    given = parse(SubmitArguments, [*words[:1], *own], "streamtrain submit", SUBMIT_EXAMPLES)
    _, settings = beginning_of(flags)
    job, settings = with_mode(load_job(given.job), settings)
    job, settings = with_optimizer_named(job, settings)
    parse(Job, settings, "streamtrain submit", SUBMIT_EXAMPLES, default=job)  # a wrong setting is said here, not there
    cluster = Cluster(given.address)
    submission = cluster.submit(given.job, flags, ship_package=not given.installed)
    print(submission, flush=True)
    if given.follow:
        _follow(cluster, submission)


def run_status(words: Sequence[str]) -> None:
    """``streamtrain status``."""
    given = parse(StatusArguments, words, "streamtrain status", STATUS_EXAMPLES)
    found: Sequence[RunStatus | Submitted]
    if given.address is None and (given.run is None or Path(given.run).is_dir()):
        from streamtrain.run.watching.status import running, status_of

        found = running(Path(RUNS)) if given.run is None else [status_of(Path(given.run))]
    else:
        from streamtrain.run.fleet.cluster.submitting import Cluster

        cluster = Cluster(given.address or ADDRESS)
        found = cluster.jobs() if given.run is None else [cluster.status(given.run)]
    if given.json:
        print(json.dumps([each.summary() for each in found]))
    else:
        print("\n".join(map(str, found)) or "nothing below runs/ is running")


def run_logs(words: Sequence[str]) -> None:
    """``streamtrain logs``."""
    from streamtrain.run.fleet.cluster.submitting import Cluster

    given = parse(LogsArguments, words, "streamtrain logs", SUBMIT_EXAMPLES)
    cluster = Cluster(given.address)
    if given.follow:
        _follow(cluster, given.submission, while_read=True)
    print(cluster.logs(given.submission), end="")


def run_stop(words: Sequence[str]) -> None:
    """``streamtrain stop``."""
    from streamtrain.run.fleet.cluster.submitting import Cluster

    given = parse(StopArguments, words, "streamtrain stop", SUBMIT_EXAMPLES)
    stopped = Cluster(given.address).stop(given.submission)
    print(f"{given.submission}: {'asked to stop' if stopped else 'had ended'}")


def _follow(cluster: Cluster, submission: str, *, while_read: bool = False) -> NoReturn:
    """Shows what a job prints until it ends, and exits with its code.

    Args:
        while_read: ends with 0 when nobody reads it any more.
    """

    def show(lines: str) -> None:
        print(lines, end="", flush=True)
        if while_read and nobody_reads(sys.stdout):
            sys.exit(0)

    ended = cluster.follow(submission, show)
    print(f"{submission}: {ended.state}; {ended.message}", file=sys.stderr)
    code = TrainingError.exit_code if ended.exit_code is None else ended.exit_code
    sys.exit(0 if ended.state == "SUCCEEDED" else code or TrainingError.exit_code)
