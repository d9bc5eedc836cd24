"""What a user declares: a `Job` and its parts, typed, and validated where they are made.

A job is a Python file that binds a `Job` to the name ``job``. Every setting that is not a function
is a flag of `streamtrain train`, derived from the fields and their docstrings below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streamtrain.checks import require as _require
from streamtrain.checks import require_count as _require_count
from streamtrain.checks import require_finite as _require_finite
from streamtrain.optimizer import ENDING, SGD, Group, Schedule

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
    Transform = Callable[[Batch], Batch]
    Map = Callable[[dict[str, Any]], Mapping[str, Any]]
    Loss = Callable[[Any, torch.Tensor], torch.Tensor]
    Model = Callable[[], torch.nn.Module]
else:  # only names for the type checker and for the flags: a job is declared without importing torch
    Transform = Map = Loss = Model = Callable[..., Any]

CACHE_BYTES = 32 * 2**30
"""Bound on the host's cache of fetched shards, unless a job sets another."""

__all__ = ["SGD", "Data", "Epochs", "Group", "Job", "Online", "Schedule", "Stale", "Synchronous", "Tracking"]


@dataclass(frozen=True)
class Data:
    """Which data set and which of its fields."""

    url: str
    """Folder or URL (s3, gs, az, http, https, hf) of a data set that `streamtrain pack` made.

    A folder may also be one with train/*.tar and validation/*.tar of other origin.
    """
    inputs: tuple[str, ...] = ("image",)
    """Fields that the model is called with, in this order."""
    target: str = "label"
    """Field that the loss and the error compare the model's output with."""
    extra: tuple[str, ...] = ()
    """Further fields to read, for `transform`."""
    transform: Transform | None = None
    """Function from a batch, dict of tensors with examples along the first axis, to a batch: scaling, types, …"""
    map: Map | None = None
    """Function from one decoded example, a dict, to a dict of arrays or numbers of one form: tokens, crops, …"""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to; large JPEGs are decoded at a fraction of their size."""
    decode_threads: int = 1
    """Threads that decode for each worker, beside it."""
    on_bad_example: Literal["stop", "skip"] = "stop"
    """What to do about an example that cannot be decoded, or that `map` refuses."""
    max_bad_examples: int = 100
    """Stop when more examples than this were skipped."""
    verify: bool = True
    """Check every shard's checksum when a worker first opens it; what is fetched from a URL is always checked."""
    cache: str | None = None
    """Folder for shards fetched from a URL, on a disk of the host; ~/.cache/streamtrain by default."""
    cache_bytes: int = CACHE_BYTES
    """Bytes that the shards in the cache may have, over all runs on the host."""

    def __post_init__(self) -> None:
        _require(bool(self.url), "data.url", "a folder", self.url, "name the data set's folder")
        _require_count("data.cache_bytes", self.cache_bytes)
        _require(bool(self.inputs), "data.inputs", "at least one field", self.inputs, "name the model's input fields")
        _require_count("data.decode_threads", self.decode_threads)
        _require_count("data.max_bad_examples", self.max_bad_examples, lowest=0)
        kinds = ("stop", "skip")
        _require(self.on_bad_example in kinds, "data.on_bad_example", "stop or skip", self.on_bad_example, "change it")
        for side in self.image_size or ():
            _require_count("data.image_size", side)

    @property
    def fields_read(self) -> tuple[str, ...]:
        """All fields that are read, each once."""
        return tuple(dict.fromkeys((*self.inputs, self.target, *self.extra)))


@dataclass(frozen=True)
class Online:
    """One pass or part of one: every example is new to the parameters, so the progressive risk is honest."""

    max_examples: int | None = None
    """Stop after this many examples; all of the training split by default."""
    evaluate_every: int | None = None
    """Examples between two measurements of the held-out risk; a tenth of the run by default."""
    window: int = 2000
    """Examples over which the windowed progressive risk is averaged."""
    follow: bool = False
    """Go on with segments that `streamtrain pack --append` adds while the run lasts."""
    idle_timeout: float = 60.0
    """With `follow`: end when no segment has come for this many seconds."""
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
        _require_finite("mode.idle_timeout", self.idle_timeout, positive=False)
        both, do = self.follow and self.max_examples is not None, "leave one of them out"
        _require(not both, "mode.max_examples", "none with mode.follow", self.max_examples, do)
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
    reshuffle: Literal["stored", "shards", "examples"] = "stored"
    """Order of the passes after the first: the same, the shards permuted, or all examples permuted."""

    def __post_init__(self) -> None:
        _require_count("mode.max_passes", self.max_passes)
        _require_count("mode.patience", self.patience)
        _require_count("mode.patience_examples", self.patience_examples)
        _require_finite("mode.min_delta", self.min_delta, positive=False)
        kinds = ("stored", "shards", "examples")
        _require(self.reshuffle in kinds, "mode.reshuffle", "stored, shards or examples", self.reshuffle, "change it")


@dataclass(frozen=True)
class Synchronous:
    """Every update waits for all of its minibatch, computed at the parameters of the update before."""

    backup: int = 0
    """Do not wait for so many of the slowest lanes: their examples come in a later minibatch of the pass, or stay
    unused in online mode. Above 0 the bits depend on timing."""

    def __post_init__(self) -> None:
        _require_count("aggregation.backup", self.backup, lowest=0)


@dataclass(frozen=True)
class Stale:
    """Workers take lanes' parts from a common pool, and wait for nobody who is less than `bound` minibatches behind."""

    bound: int = 1
    """Most updates that may be missing from the parameters at which a gradient is computed; 0 gives the synchronous
    bits, with a slow worker's parts done by others."""

    def __post_init__(self) -> None:
        _require_count("aggregation.bound", self.bound, lowest=0)


@dataclass(frozen=True)
class Evaluate:
    """Measurements of both risks while a run goes on."""

    max_fraction_of_time: float | None = None
    """Leave out measurements while they would take more than this part of the time; the first and last are made.
    What is left out then depends on the machine's pace, and early stopping with it. Probes have a part of this size of
    their own."""

    def __post_init__(self) -> None:
        most = self.max_fraction_of_time
        _require(most is None or 0 < most < 1, "evaluate.max_fraction_of_time", "between 0 and 1", most, "change it")


@dataclass(frozen=True)
class Checkpoints:
    """What a run leaves behind so that it can go on after anything, by `--resume`."""

    enabled: bool = True
    """Write them; without, a run whose workers are all lost begins from the start."""
    seconds: float = 30.0
    """From one to the next; longer where they would take more than a fiftieth of the time."""
    keep: int = 2
    """How many of the last ones stay, beside the best parameters until then, best.safetensors."""
    folder: str | None = None
    """Folder or URL (s3, gs, az) for them, under the run's name; by default checkpoints/ in the run's own folder."""

    def __post_init__(self) -> None:
        _require_finite("checkpoints.seconds", self.seconds, positive=False)
        _require_count("checkpoints.keep", self.keep)


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
    micro_batch: int | None = None
    """Most examples of one forward and backward: a lane's larger part is taken in pieces and added up (less memory)."""
    workers: int | tuple[int, int] = 1
    """Worker processes, one CPU core or GPU each; or the fewest and the most: the run begins with as many as there is
    room for, and others join while it goes on. The bits are the same for any number."""
    placement: Literal["pack", "spread"] = "pack"
    """Workers on as few hosts of a cluster as there is room on, or spread over as many as there are."""
    streamers: Literal["beside", "cpu_nodes"] = "beside"
    """Where examples are decoded: beside each worker; or on other nodes, without GPUs where workers have them, with
    `data.decode_threads` CPU cores for each worker. The bits are the same."""
    lanes: int | None = None
    """Logical workers that fix order and bits, whatever `workers` is; as many as the most workers by default."""
    threads: int = 1
    """CPU threads of each worker."""
    exchange: Literal["auto", "shared", "collective"] = "auto"
    """How gradients meet: in shared memory of one host, or by the network over any number of hosts; auto: shared
    where all workers were placed on one host and compute on its CPUs. The bits are the same."""
    lost_after: float = 7.0
    """Seconds without a sign of life from another host after which its workers are lost; one that computes for long
    gives it all the same."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where gradients are computed."""
    precision: Literal["float32", "float64", "bf16", "fp16"] = "float32"
    """Arithmetic of the model; bf16 and fp16 are autocast over float32 parameters, fp16 with a loss scaler."""
    compile: bool = False
    """Compile the model by torch.compile: faster steps for a minute or so at the start of every worker."""
    channels_last: bool = False
    """Keep images, and the weights that they meet, with the channels as the last in memory."""
    deterministic: bool = False
    """Use only kernels that give the same bits every time; an operation that has none stops the run by its name. The
    speed on a CPU is the same: 1.00 times an MLP's, 0.98 times a CNN's, within the noise. Not measured on GPUs."""
    profile: bool = False
    """Write a Chrome trace of a few steps of all workers, trace.json in the run's folder."""
    seed: int = 0
    """Seed of the initial parameters and of every random number in the run."""
    aggregation: Synchronous | Stale = field(default_factory=Synchronous)
    """Whether workers wait for each other in every step."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    probe_every: int | None = None
    """Updates from one probe of the loss surface to the next; none by default, since workers wait for each."""
    probe_examples: int = 1000
    """Training examples that the loss of these probes is the mean over."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch", "lanes", "threads", "probe_every", "probe_examples"):
            _require_count(name, getattr(self, name))
        _require_count("seed", self.seed, lowest=0)
        do = "give seconds: hosts that are alive give a sign of life several times in them"
        _require(self.lost_after >= 1, "lost_after", "at least 1", self.lost_after, do)
        self._check_workers()
        lanes = self.lane_count
        _require(
            self.batch_size % lanes == 0,
            "batch_size",
            f"a multiple of the {lanes} lanes",
            self.batch_size,
            f"use {self.batch_size - self.batch_size % lanes or lanes} or {self.batch_size + -self.batch_size % lanes}",
        )
        endless = isinstance(self.mode, Online) and self.mode.follow
        kind, do = self.sgd.schedule.kind, "use a schedule that needs no last step, or leave mode.follow off"
        _require(not endless or kind not in ENDING, "sgd.schedule.kind", "one without an end", kind, do)
        _require(
            not self.pooled or (self.exchange != "collective" and self.device == "cpu"),
            "aggregation",
            "Stale, or backup, with a shared exchange on CPUs",
            (self.exchange, self.device),
            "leave exchange and device as they are by default",
        )
        self._check_places()
        do = "lower it, or raise lanes"
        _require(self.backup < lanes, "aggregation.backup", f"fewer than the {lanes} lanes", self.backup, do)
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

    def _check_workers(self) -> None:
        two = isinstance(self.workers, tuple | list)
        both = tuple(self.workers) if isinstance(self.workers, tuple | list) else (self.workers, self.workers)
        expected, do = "a number, or the fewest and the most", "e.g. workers=(1, 4)"
        _require(not two or len(both) == 2, "workers", expected, self.workers, do)
        for each in both:
            _require_count("workers", each)
        _require(both[0] <= both[1], "workers", "the fewest before the most", self.workers, "turn them round")
        lanes, do = self.lane_count, "raise lanes or lower workers"
        _require(both[1] <= lanes, "workers", f"at most {lanes}, the number of lanes", both[1], do)

    def _check_places(self) -> None:
        places, do = ("pack", "spread"), "use pack, or leave exchange and aggregation as they are by default"
        _require(self.placement in places, "placement", "pack or spread", self.placement, "change it")
        together = self.exchange == "shared" or self.pooled
        _require(not together or self.placement == "pack", "placement", "pack for one host's memory", "spread", do)
        places, do = ("beside", "cpu_nodes"), "leave streamers as it is by default"
        _require(self.streamers in places, "streamers", "beside or cpu_nodes", self.streamers, "change it")
        none = self.pooled and self.streamers != "beside"
        _require(not none, "streamers", "none: who reads what of a pool is not known ahead", self.streamers, do)

    @property
    def least_workers(self) -> int:
        """Workers that the run begins with at least."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that the run ever has."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def lane_count(self) -> int:
        """Lanes after the default."""
        return self.lanes or self.most_workers

    @property
    def backup(self) -> int:
        """Lanes that an update does not wait for."""
        return self.aggregation.backup if isinstance(self.aggregation, Synchronous) else 0

    @property
    def pooled(self) -> bool:
        """Whether workers take lanes' parts from a common pool, instead of hosting lanes of their own."""
        return isinstance(self.aggregation, Stale) or self.backup > 0
