"""Flags out of typed declarations: what each command takes, and how a wrong flag is told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Epochs, Job, Online
from streamtrain.pack.options import PackOptions

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class PackArguments:
    """Shuffles raw data uniformly, splits it, and writes WebDataset shards and a manifest."""

    source: tyro.conf.Positional[str]
    """Folder of images by class, .csv, .parquet, .arrow, .npz, .npy, WebDataset .tar, hf:NAME, or module:function."""
    dest: tyro.conf.Positional[Path]
    """Folder to make."""
    options: Annotated[PackOptions, tyro.conf.arg(name="")] = field(default_factory=PackOptions)
    append: bool = False
    """Add to the data set in DEST, as a new segment that is shuffled in itself."""
    json: bool = False
    """Print a summary as JSON."""


@dataclass(frozen=True)
class InspectArguments:
    """Shows what a data set holds, whether it is whole, and the way of one example through a run."""

    dest: tyro.conf.Positional[str]
    """The data set's folder, or its URL."""
    verify: bool = False
    """Read every shard and check its checksum; of a URL, as it comes into the cache."""
    lint: bool = False
    """List all that readers would take differently, and nothing else: for shards that `pack` did not write."""
    audit: bool = False
    """Test whether the stored order is shuffled, and look for duplicates in and across the splits."""
    audit_examples: int = 50_000
    """For --audit: training examples to look at, in evenly spread stretches where there are more."""
    example: str | None = None
    """Key of an example: show it, and where it goes in training."""
    batch_size: int = 128
    """For --example and --audit: the size of the minibatches."""
    lanes: int = 1
    """For --example: the number of lanes."""
    json: bool = False
    """Print as JSON."""

    def __post_init__(self) -> None:
        if self.audit_examples < 1:
            found = str(self.audit_examples)
            raise ConfigError(complaint("--audit-examples", expected="at least 1", found=found, do="raise it"))


@dataclass(frozen=True)
class SyncArguments:
    """Delivers to MLflow what it had not taken when runs ended: in order, nothing twice. The journals stay."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs' folders; all below runs/ by default."""
    uri: str | None = None
    """MLflow's tracking URI, where it is not the one that the run was told."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class ProbeArguments:
    """The loss surface around a run's parameters: slope, curvature, kind of point, lines; dear, so on request only."""

    run: tyro.conf.Positional[Path]
    """The run's folder, a checkpoint's .safetensors in it, or a .safetensors file of a state dict."""
    job: Path | None = None
    """The job file with which they were trained, where `streamtrain train` did not begin the run. It finds its own
    jobs by the command in the run's journal, with the flags that were given; start it where that was."""
    examples: int = 2000
    """Training examples that the loss is the mean over."""
    iterations: int = 40
    """Products with the Hessian, at most; each costs about two gradients."""
    figure: Path | None = None
    """PNG to write; probe.png in the run's folder by default."""
    log: bool = False
    """Add the numbers, the figure and the words to the run in MLflow."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class CompareArguments:
    """Two runs at equal numbers of updates, e.g. online against many passes: what does reusing examples cost?"""

    first: tyro.conf.Positional[str]
    """A finished run's folder or its MLflow run id."""
    second: tyro.conf.Positional[str]
    """The run to compare it with."""
    uri: str | None = None
    """MLflow's tracking URI; MLFLOW_TRACKING_URI, or SQLite in ./mlflow.db, by default."""
    experiment: str = "streamtrain"
    """MLflow experiment for the comparison."""
    log: bool = True
    """Log the comparison and its figures to MLflow as a run of its own."""
    json: bool = False
    """Print as JSON."""


ADDRESS = "http://127.0.0.1:8265"


@dataclass(frozen=True)
class SubmitArguments:
    """Runs a job on a Ray cluster: ships the job file, the Python files beside it and this package, and trains there.

    All other flags are those of `streamtrain train`. Environment variables of MLflow (MLFLOW_…) and the stores (AWS_…,
    HF_…) go with it, readable for whoever may read the cluster's jobs.
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


@dataclass(frozen=True)
class UiArguments:
    """MLflow's own pages on this folder's runs, or on those of MLFLOW_TRACKING_URI; for this machine only."""

    port: int = 5000
    """Port on localhost."""


def parse(
    declaration: type[Parsed], words: Sequence[str], program: str, examples: str, default: Parsed | None = None
) -> Parsed:
    """The declaration filled from flags.

    Raises:
        ConfigError: a wrong flag or value, in one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                declaration,
                args=list(words),
                default=default,
                prog=program,
                description=f"{declaration.__doc__}\n\nExamples:\n\n{examples}",
                config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
            )
    except SystemExit as stopped:
        if stopped.code in (0, None):
            raise
        raise ConfigError(_unboxed(said.getvalue())) from None
    assert parsed is not None
    return parsed


def own_flags(words: Sequence[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words parted into those of these flags (``--name``; with a value where they end in ``=``), and all others."""
    ours: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        name = word.partition("=")[0]
        if name in own or name + "=" in own:
            ours.append(word)
            if name + "=" in own and "=" not in word:
                ours += [value for value in (next(left, None),) if value is not None]
        else:
            others.append(word)
    return ours, others


def with_mode(job: Job, flags: list[str]) -> tuple[Job, list[str]]:
    """Takes ``--mode online|epochs`` out of the flags: the other mode, with its defaults."""
    if "--mode" not in flags:
        return job, flags
    at = flags.index("--mode")
    name = flags[at + 1] if at + 1 < len(flags) else "nothing"
    if name not in ("online", "epochs"):
        raise ConfigError(f"--mode: expected online or epochs, found {name}; change it")
    mode = Online() if name == "online" else Epochs()
    rest = flags[:at] + flags[at + 2 :]
    return (job if type(job.mode) is type(mode) else dataclasses.replace(job, mode=mode)), rest


def _unboxed(box: str) -> str:
    """The text of tyro's framed message, on one line."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if line.startswith("│")]
    text = " ".join(line for line in lines if line and not line.startswith("─"))
    for rest in (" For full helptext", " Got errors", " Argument helptext:"):
        text, _, _ = text.partition(rest)
    text = re.sub(r"^Error parsing (Job: )?", "", text)
    return text.replace(" Perhaps you meant:", "; perhaps you meant") + "; see --help"
