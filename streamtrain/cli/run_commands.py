"""`streamtrain train`, `probe` and `compare`: runs made and looked into."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from streamtrain.checks import require, require_count
from streamtrain.cli.flags import INLINE, beginning_of, parse, with_mode, with_optimizer_named
from streamtrain.errors import ConfigError, TrackingError, complaint
from streamtrain.job import RUNS, Job

TRAIN_HELP = """\
usage: streamtrain train JOB.py [--mode online|epochs] [--optimizer NAME] [--any.setting VALUE ...]
                                [--resume [RUN]] [--more-passes N] [--branch] [--from RUN|FILE] [--inline] [--json]

`streamtrain train JOB.py --help` lists every setting with the job's own values. --resume goes on with the newest
run of the job, or with the one whose folder is given, from its last good checkpoint; with --more-passes for more
passes than it was given, also where it has ended; with --branch in a new run, whose settings may differ.
--from begins a new run with the parameters that another one has kept, or with a .safetensors of a state dict.
--inline trains in this process without Ray: the same bits, and breakpoints work.

examples:
  streamtrain train jobs/mnist.py
  streamtrain train jobs/mnist.py --inline
  streamtrain train jobs/mnist.py --mode online --workers 2 --optimizer.lr 0.02
  streamtrain train jobs/mnist.py --max-seconds 600              # ends there as any other run does
  streamtrain train jobs/mnist.py --resume
  streamtrain train jobs/mnist.py --resume --more-passes 5
  streamtrain train jobs/mnist.py --resume runs/mnist-epochs-20260102-101500 --branch --optimizer.lr 0.01
  streamtrain train jobs/mnist.py --from runs/mnist-epochs-20260102-101500
"""


COMPARE_EXAMPLES = """\
streamtrain compare runs/mnist-epochs-20260102-101500 runs/mnist-online-20260102-102000
streamtrain compare runs/small-* -- runs/large-*       # several seeds each
"""
PROBE_EXAMPLES = """\
streamtrain probe runs/mnist-epochs-20260102-101500
streamtrain probe runs/mnist-epochs-20260102-101500/checkpoints/000000004000.safetensors --log
streamtrain probe best.safetensors --job jobs/mnist.py
streamtrain probe runs/mnist-epochs-20260102-101500 --batch-size    # half, the same and twice the batch
"""


@dataclass(frozen=True)
class ProbeArguments:
    """The loss surface around a run's parameters: slope, curvature, kind of point, lines. Costs many gradients."""

    run: tyro.conf.Positional[Path]
    """The run's folder, a checkpoint's .safetensors in it, or a .safetensors file of a state dict."""
    job: Path | None = None
    """The job file with which they were trained, where `streamtrain train` did not begin the run. It finds its own
    jobs by the command in the run's journal, with the flags that were given; start it where that was."""
    examples: int | None = None
    """Training examples that the loss is the mean over, 2000 by default. With --batch-size those that each branch uses
    each time, by default 16 minibatches of twice the batch."""
    iterations: int = 40
    """Products with the Hessian, at most; each costs about two gradients."""
    figure: Path | None = None
    """PNG to write; probe.png in the run's folder by default."""
    log: bool = False
    """Add the numbers, the figure and the words to the run in MLflow."""
    batch_size: bool = False
    """Find out whether the batch size is right, in place of the loss surface: branch from the run's last checkpoint
    with half, the same and twice the batch, over the same examples, and measure their progress per example."""
    repeats: int = 4
    """With --batch-size: how often, each time over other examples."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class CompareArguments:
    """Two runs at equal numbers of updates, e.g. online against many passes: what does reusing examples cost?

    Or two groups of runs with ``--`` between them, e.g. of one job with several seeds each: is one job better?
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Finished runs' folders or MLflow's run ids."""
    uri: str | None = None
    """MLflow's tracking URI; MLFLOW_TRACKING_URI, or SQLite in ./mlflow.db, by default."""
    experiment: str = "streamtrain"
    """MLflow experiment for the comparison."""
    log: bool = True
    """Log the comparison and its figures to MLflow as a run of its own."""
    json: bool = False
    """Print as JSON."""


def run_train(words: Sequence[str]) -> None:
    """``streamtrain train``."""
    if not words or words[0] in ("-h", "--help"):
        print(TRAIN_HELP, end="")
        sys.exit(0 if words else 2)
    file, *flags = words
    as_json = "--json" in flags
    inline = INLINE in flags
    beginning, flags = beginning_of(flags)
    job = declared_job(file, flags)
    if inline and job.bits == "portable":
        _begin_again_portably()
    from streamtrain.run.outcome.report import table
    from streamtrain.run.train import train

    out = sys.stdout
    if as_json:  # for a script: what workers print comes through Ray on standard output, until the process ends
        sys.stdout = sys.stderr
    result = train(
        job,
        name=Path(file).stem,
        resume=beginning.resume,
        branch=beginning.branch,
        more_passes=beginning.more_passes,
        start_from=beginning.parameters,
        inline=inline,
    )
    print(json.dumps(result.summary()) if as_json else table({result.mode: result}), file=out, flush=True)
    if result.left is not None:  # the run has said so
        sys.exit(TrackingError.exit_code)


def declared_job(file: str, flags: list[str]) -> Job:
    """The job of a file, with what flags of `streamtrain train` set."""
    from streamtrain.job import Job
    from streamtrain.prepare.jobfile import load_job

    job, flags = with_mode(load_job(file), flags)
    job, flags = with_optimizer_named(job, flags)
    said = (
        "--optimizer.lr 0.05 --workers 2",
        "--optimizer adamw --optimizer.lr 3e-4",
        "--mode online --json",
        "--resume    # the newest run, from its last checkpoint",
        "--resume --more-passes 5",
        "--resume --branch --optimizer.lr 0.01    # in a new run",
        "--from runs/mnist-epochs-20260102-101500",
    )
    example = "\n".join(f"streamtrain train {file} {flags}" for flags in said)
    return parse(Job, flags, f"streamtrain train {file}", example, default=job)


def _begin_again_portably() -> None:
    """Begins this command anew where the libraries' switches are not set: they are read before the first import."""
    from streamtrain.model.machine.portable import portable_environment

    wanted = portable_environment()
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | wanted)  # noqa: S606 - this very command


def run_probe(words: Sequence[str]) -> None:
    """``streamtrain probe``."""
    given = parse(ProbeArguments, words, "streamtrain probe", PROBE_EXAMPLES)
    for name, count in (("--examples", given.examples), ("--repeats", given.repeats)):
        require_count(name, count)
    from streamtrain.run.folder import RunFolder
    from streamtrain.run.watching.probing import command_of, journal_probe, probe
    from streamtrain.track.figures import save
    from streamtrain.track.mlflow.sync import raise_for, sync

    folder = RunFolder.existing(given.run)
    file, flags = (str(given.job), []) if given.job is not None else command_of(folder)
    job = declared_job(file, beginning_of(flags)[1])
    if given.batch_size:
        print_batch_probe(job, given)
        return
    examples = 2000 if given.examples is None else given.examples
    found = probe(job, given.run, examples=examples, iterations=given.iterations)
    print(json.dumps(found.summary()) if given.json else found.words)
    save(found.figure(), given.figure or folder.probe_figure)
    if given.log:
        with folder.alone("--log"):
            journal_probe(found, folder)
        raise_for([sync(folder.path, None)])


def print_batch_probe(job: Job, given: ProbeArguments) -> None:
    """``streamtrain probe --batch-size``."""
    from streamtrain.run.watching.branching import probe_batch_size

    for name, value in (("--log", given.log or None), ("--figure", given.figure)):
        require(value is None, name, "nothing with --batch-size, which only prints", value, "leave it out")
    found = probe_batch_size(job, given.run, examples=given.examples, repeats=given.repeats)
    print(json.dumps(found.summary()) if given.json else found.words)


def run_compare(words: Sequence[str]) -> None:
    """``streamtrain compare``."""
    from streamtrain.run.folder import RunFolder
    from streamtrain.run.outcome.compare import compare, log_comparison
    from streamtrain.track.mlflow import default_uri

    before, after = _groups(words)
    given = parse(CompareArguments, [*before, *after], "streamtrain compare", COMPARE_EXAMPLES)
    if not after and len(given.runs) != 2:
        do = "name two, or two groups with -- between them"
        raise ConfigError(complaint("compare", expected="two runs", found=str(len(given.runs)), do=do))
    second = parse(CompareArguments, after, "streamtrain compare", COMPARE_EXAMPLES).runs if after else given.runs[1:]
    comparison = compare(given.runs[: len(given.runs) - len(second)], second, uri=given.uri)
    print(json.dumps(comparison.summary()) if given.json else comparison.table)
    if given.log:
        left = log_comparison(comparison, RunFolder.new(RUNS, "compare"), given.uri or default_uri(), given.experiment)
        if left:
            print(left, file=sys.stderr)


def _groups(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and after it."""
    at = list(words).index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])
