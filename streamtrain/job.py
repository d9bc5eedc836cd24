"""What a user declares: a `Job` and its parts, typed, and validated where they are made.

A job is a Python file that binds a `Job` to the name ``job``. Every setting that is not a function
is a flag of `streamtrain train`, derived from the fields and their docstrings below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streamtrain.errors import ConfigError, complaint

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
    Transform = Callable[[Batch], Batch]
    Loss = Callable[[Any, torch.Tensor], torch.Tensor]
    Model = Callable[[], torch.nn.Module]
else:  # only names for the type checker and for the flags: a job is declared without importing torch
    Transform = Loss = Model = Callable[..., Any]


def _require(holds: bool, setting: str, expected: str, found: object, do: str) -> None:
    if not holds:
        raise ConfigError(complaint(setting, expected=expected, found=repr(found), do=do))


def _require_finite(setting: str, value: float, *, positive: bool) -> None:
    bound = "above 0" if positive else "of at least 0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    holds = number and math.isfinite(value) and (value > 0 if positive else value >= 0)
    _require(holds, setting, f"a finite number {bound}", value, "change it")


def _require_count(setting: str, value: int | None, lowest: int = 1) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    holds = value is None or (whole and value >= lowest)
    _require(holds, setting, f"a whole number of at least {lowest}", value, "change it")


@dataclass(frozen=True)
class Data:
    """Which data set and which of its fields."""

    url: str
    """Folder of the data set that `streamtrain pack` made, or one with train/*.tar and validation/*.tar."""
    inputs: tuple[str, ...] = ("image",)
    """Fields that the model is called with, in this order."""
    target: str = "label"
    """Field that the loss and the error compare the model's output with."""
    extra: tuple[str, ...] = ()
    """Further fields to read, for `transform`."""
    transform: Transform | None = None
    """Function from a batch, dict of tensors with examples along the first axis, to a batch: scaling, types, …"""
    verify: bool = True
    """Check every shard's checksum when a worker first opens it."""

    def __post_init__(self) -> None:
        _require(bool(self.url), "data.url", "a folder", self.url, "name the data set's folder")
        _require(bool(self.inputs), "data.inputs", "at least one field", self.inputs, "name the model's input fields")

    @property
    def fields_read(self) -> tuple[str, ...]:
        """All fields that are read, each once."""
        return tuple(dict.fromkeys((*self.inputs, self.target, *self.extra)))


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the run, as a factor of sgd.lr."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up: constant, or falling to `floor` at the last step of the longest possible run."""
    warmup_steps: int = 0
    """Steps over which the rate first rises linearly to sgd.lr."""
    floor: float = 0.0
    """Factor at the end of `linear` and `cosine`."""

    def __post_init__(self) -> None:
        _require_count("sgd.schedule.warmup_steps", self.warmup_steps, lowest=0)
        _require(0 <= self.floor <= 1, "sgd.schedule.floor", "between 0 and 1", self.floor, "change it")


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, in `torch.optim.SGD`'s semantics, on the clipped mean gradient."""

    lr: float = 0.1
    """Learning rate ε."""
    momentum: float = 0.0
    """Momentum α; 0 is plain SGD."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""
    clip_norm: float | None = None
    """Scale the whole gradient to at most this Euclidean norm."""
    clip_value: float | None = None
    """Clamp every element of the gradient to ±this; applied before `clip_norm`."""
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        _require_finite("sgd.lr", self.lr, positive=True)
        _require(0 <= self.momentum < 1, "sgd.momentum", "at least 0 and below 1", self.momentum, "change it")
        _require_finite("sgd.weight_decay", self.weight_decay, positive=False)
        for name, value in (("sgd.clip_norm", self.clip_norm), ("sgd.clip_value", self.clip_value)):
            if value is not None:
                _require_finite(name, value, positive=True)
        _require(
            not self.nesterov or self.momentum > 0,
            "sgd.nesterov",
            "a momentum above 0 with it",
            self.momentum,
            "set sgd.momentum or leave sgd.nesterov off",
        )


@dataclass(frozen=True)
class Online:
    """One pass or part of one: every example is new to the parameters, so the progressive risk is honest."""

    max_examples: int | None = None
    """Stop after this many examples; all of the training split by default."""
    evaluate_every: int | None = None
    """Examples between two measurements of the held-out risk; a tenth of the run by default."""
    window: int = 2000
    """Examples over which the windowed progressive risk is averaged."""
    passes: int = 1
    """Always 1; more are refused."""

    def __post_init__(self) -> None:
        _require(
            self.passes == 1,
            "mode.passes",
            "one pass in online mode",
            self.passes,
            "a second pass would use examples twice, and its loss would no longer estimate the generalization risk: "
            "use mode=Epochs(...)",
        )
        _require_count("mode.max_examples", self.max_examples)
        _require_count("mode.evaluate_every", self.evaluate_every)
        _require_count("mode.window", self.window, lowest=2)


@dataclass(frozen=True)
class Epochs:
    """Many passes, with early stopping on the validation error and the best parameters kept."""

    max_passes: int = 20
    """Stop after this many passes at the latest."""
    patience: int = 3
    """Stop after this many passes without a better validation error."""
    patience_examples: int | None = None
    """The same in examples used, instead of in passes; looked at after each pass."""
    min_delta: float = 0.0
    """How much lower a validation error must be to count as better."""

    def __post_init__(self) -> None:
        _require_count("mode.max_passes", self.max_passes)
        _require_count("mode.patience", self.patience)
        _require_count("mode.patience_examples", self.patience_examples)
        _require_finite("mode.min_delta", self.min_delta, positive=False)


@dataclass(frozen=True)
class Evaluate:
    """Measurements of both risks while a run goes on."""

    max_fraction_of_time: float | None = None
    """Leave out measurements while they would take more than this part of the time; the first and last are made.
    What is left out then depends on the machine's pace, and early stopping with it."""

    def __post_init__(self) -> None:
        most = self.max_fraction_of_time
        _require(most is None or 0 < most < 1, "evaluate.max_fraction_of_time", "between 0 and 1", most, "change it")


@dataclass(frozen=True)
class Tracking:
    """Where numbers, figures and the model go."""

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """MLflow's tracking URI; MLFLOW_TRACKING_URI, or SQLite in ./mlflow.db, by default."""
    experiment: str = "streamtrain"
    """MLflow experiment."""
    run_name: str | None = None
    """Name of the run; the job's file and mode by default."""
    folder: str = "runs"
    """Folder for the run's own files: journal, best parameters, figures."""
    log_every: int = 10
    """Steps that one point of the minibatch curves is the mean of."""
    diagnostics: bool = True
    """Measure gradient noise, layers, updates and trajectory at every `log_every`-th step."""
    log_model: bool = True
    """Log the final model to MLflow, with signature and input example."""
    register: str | None = None
    """Register the final model in MLflow under this name, as a new version."""
    parent: str | None = None
    """Show the run under this one in MLflow: a run's id, or a name that all runs of a sweep give."""
    system_seconds: float = 10.0
    """Seconds between two points of the system metrics: processor, memory, disk and network of this machine."""

    def __post_init__(self) -> None:
        _require_count("tracking.log_every", self.log_every)
        _require_finite("tracking.system_seconds", self.system_seconds, positive=True)
        _require(
            self.register is None or self.log_model,
            "tracking.register",
            "tracking.log_model with it",
            self.log_model,
            "leave tracking.log_model on",
        )


@dataclass(frozen=True)
class Job:
    """A training run, declared."""

    data: Data
    model: Model
    """Function without arguments that returns a new `torch.nn.Module`."""
    loss: Loss | Literal["cross_entropy", "mse"] = "cross_entropy"
    """Surrogate loss: (output, target) -> tensor of shape (examples,), or a built-in one's name."""
    error: Loss | Literal["zero_one"] | None = None
    """What is really cared about, in the same form; by default 0-1 for cross_entropy, else the loss itself."""
    metrics: Mapping[str, Loss] = field(default_factory=dict)
    """What else is measured with both risks: name -> function in the same form."""
    mode: Online | Epochs = field(default_factory=Epochs)
    sgd: SGD = field(default_factory=SGD)
    batch_size: int = 128
    """Examples of a minibatch, over all workers together."""
    workers: int = 1
    """Worker processes, one CPU core or GPU each."""
    lanes: int | None = None
    """Logical workers that fix order and bits, whatever `workers` is; as many as workers by default."""
    threads: int = 1
    """CPU threads of each worker."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where gradients are computed."""
    precision: Literal["float32", "float64", "bf16"] = "float32"
    """Arithmetic of the model; bf16 is autocast over float32 parameters."""
    seed: int = 0
    """Seed of the initial parameters and of every random number in the run."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "lanes", "threads"):
            _require_count(name, getattr(self, name))
        _require_count("seed", self.seed, lowest=0)
        lanes = self.lanes or self.workers
        _require(
            self.workers <= lanes,
            "workers",
            f"at most {lanes}, the number of lanes",
            self.workers,
            "raise lanes or lower workers",
        )
        _require(
            self.batch_size % lanes == 0,
            "batch_size",
            f"a multiple of the {lanes} lanes",
            self.batch_size,
            f"use {self.batch_size - self.batch_size % lanes or lanes} or {self.batch_size + -self.batch_size % lanes}",
        )
        for name in ("model", "loss", "error"):
            value = getattr(self, name)
            _require(
                value is None or isinstance(value, str) or callable(value), name, "a function", value, "see its help"
            )
        if isinstance(self.loss, str):
            _require(self.loss in ("cross_entropy", "mse"), "loss", "cross_entropy or mse", self.loss, "change it")
        if isinstance(self.error, str):
            _require(self.error == "zero_one", "error", "zero_one", self.error, "change it")

        for name, metric in self.metrics.items():
            free = re.fullmatch(r"[\w.\- ]+", name) is not None and name not in ("loss", "error")
            free = free and not name.endswith("_standard_error")
            expected = "a name of letters, digits, _, -, . and spaces that is not taken"
            _require(free, "metrics", expected, name, "rename it")
            _require(callable(metric), f"metrics, {name!r}", "a function", metric, "see its help")

    @property
    def lane_count(self) -> int:
        """Lanes after the default."""
        return self.lanes or self.workers
