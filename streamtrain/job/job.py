"""A `Job`: everything that a user declares of a training run.

A job is a Python file that binds a `Job` to the name ``job``. Every setting that is not a function
is a flag of `streamtrain train`, derived from the fields and their docstrings below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from streamtrain.checks import require, require_count, require_declared, require_finite
from streamtrain.job.checkpoints import Checkpoints
from streamtrain.job.data import Data
from streamtrain.job.data.combined import check_combined
from streamtrain.job.fleet import Stale, Synchronous
from streamtrain.job.mode import Epochs, Online
from streamtrain.job.objective import Evaluate, Measure, Metric, OfMeans, Value, check_measures, check_objective
from streamtrain.job.settings import MayChange
from streamtrain.job.tracking import Tracking
from streamtrain.job.update import Average, BatchSize, Clip, Group, Optimizer, Schedule, first_size, needs_last_step
from streamtrain.job.update.fitting import check_batch_size
from streamtrain.job.update.optimizer import refuse_moved

if TYPE_CHECKING:
    import torch

    Model = Callable[[], torch.nn.Module]
    Objective = Callable[[Any, dict[str, torch.Tensor]], Mapping[str, Value]]
    Factor = Callable[[int], float]
    Listener = Callable[[Any], object]
else:  # only names for the type checker and for the flags: a job is declared without importing torch
    Model = Factor = Objective = Listener = Callable[..., Any]


FRACTION = "%"
"""The unit of a fraction: 0.25 is shown as 25 %."""


@dataclass(frozen=True)
class Job:
    """A training run, declared."""

    data: Data
    model: Model
    """Function without arguments that returns a new `torch.nn.Module`."""
    loss: Measure | Literal["cross_entropy", "mse"] = "cross_entropy"
    """Surrogate loss: (output, target) -> tensor of shape (examples,), or st.Weighted, or a built-in one's name."""
    error: Measure | Literal["zero_one"] | None = None
    """What is really cared about, in the same form; by default 0-1 for cross_entropy, else the loss itself."""
    error_unit: MayChange[str | None] = None
    """The error's unit in tables and figures, e.g. m; % says that it is a fraction, which is shown in per cent. By
    default % for zero_one, and none for other functions."""
    metrics: Mapping[str, Measure | OfMeans | Metric] = field(default_factory=dict)
    """What else is measured with both risks: name -> function in the same form, st.OfMeans, or an st.Metric of the
    whole set, one of torchmetrics among them."""
    objective: Objective | None = None
    """In place of data.inputs, data.target, loss and error: (model, batch) -> {"loss": …, "error": …, "my_metric": …},
    each of shape (examples,) or st.Weighted; the error is the loss by default. The batch has all fields of numbers, or
    data.extra's."""
    loss_over: Literal["examples", "minibatch"] = "examples"
    """Whether each example's loss is its own, or depends on the whole minibatch, over all lanes and workers: in-batch
    negatives. Then the model is called twice, and the loss once in every worker, with what it gave for all examples."""
    mode: Online | Epochs = field(default_factory=Epochs)
    max_steps: MayChange[int | None] = None
    """End after so many updates of the run, those before a resume counted; exact, on any number of workers. Minibatches
    that nonfinite=skip passes over count. Schedules that need a last step end there."""
    max_seconds: MayChange[float | None] = None
    """End after so many seconds of the run, those before a resume counted: training, evaluating and waiting, but not
    the start of Ray and workers. After how many updates depends on the machine."""
    optimizer: Optimizer | None = None
    """How the parameters move: st.SGD(…), st.AdamW(…) and so on, or one of your own; st.SGD() by default."""
    clip: Clip = field(default_factory=Clip)
    schedule: Schedule | Factor = field(default_factory=Schedule)
    """The learning rate over the run: a shape, or a function of the global step that gives a factor of optimizer.lr."""
    groups: tuple[Group, ...] = ()
    """Parameters with settings of their own, by name."""
    average: Average = field(default_factory=Average)
    nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is NaN or infinite: stop, or pass the minibatch over without an update."""
    skip_limit: int = 10
    """With nonfinite=skip: stop after this many such minibatches in a row."""
    batch_size: int | BatchSize = 128
    """Examples of a minibatch, over all workers together: a number; sizes by examples used, 0:64,100000:256; or a first
    one that doubles as the gradient's noise allows, 64,most=1024,follow=noise_scale."""
    micro_batch: int | None = None
    """Most examples of one forward and backward: a lane's larger part is taken in pieces and added up (less memory)."""
    workers: MayChange[int | tuple[int, int]] = 1
    """Worker processes, one CPU core or GPU each; or the fewest and the most: the run begins with as many as there is
    room for, and others join while it goes on. The bits are the same for any number."""
    placement: MayChange[Literal["pack", "spread"]] = "pack"
    """Workers on as few hosts of a cluster as there is room on, or spread over as many as there are."""
    streamers: MayChange[Literal["beside", "cpu_nodes"]] = "beside"
    """Where examples are decoded: beside each worker; or on other nodes, without GPUs where workers have them, with
    `data.decode_threads` CPU cores for each of `data.streamers` of every worker. The bits are the same."""
    lanes: int | None = None
    """Logical workers that fix order and bits, whatever `workers` is; as many as the most workers by default."""
    threads: MayChange[int] = 1
    """CPU threads of each worker."""
    exchange: MayChange[Literal["auto", "shared", "collective"]] = "auto"
    """How gradients meet: in shared memory of one host, or by the network over any number of hosts; auto: shared
    where all workers were placed on one host and compute on its CPUs. The bits are the same."""
    lost_after: float = 7.0
    """Seconds without a heartbeat from another host after which its workers are lost; one that computes for long
    has it all the same."""
    device: MayChange[Literal["cpu", "cuda"]] = "cpu"
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
    bits: MayChange[Literal["same", "portable", "any"]] = "same"
    """What workers must have in common: same, all that chooses kernels (CPU, libraries, threads, GPU), else they are
    refused; portable, the same with kernels that any Intel CPU with AVX2 has, so the bits are those of every such
    host; any, nothing: a difference is told and tagged, and the bits depend on the hosts. At --resume likewise."""
    audit_every: MayChange[int | None] = None
    """Updates from one audit to the next; none by default. In an audit a lane of every worker is computed a second
    time, by another worker where there is one: hardware that errs is found, and the step is not made."""
    profile: MayChange[bool] = False
    """Write a Chrome trace of a few steps of all workers, trace.json in the run's folder."""
    seed: int = 0
    """Seed of the initial parameters and of every random number in the run."""
    aggregation: Synchronous | Stale = field(default_factory=Synchronous)
    """Whether workers wait for each other in every step."""
    evaluate: MayChange[Evaluate] = field(default_factory=Evaluate)
    listeners: MayChange[tuple[Listener, ...]] = ()
    """Functions that hear of each evaluation (st.Evaluation); the run ends where one returns a reason, or True."""
    on_listener_error: MayChange[Literal["stop", "go_on"]] = "stop"
    """Whether a listener that raises ends the run, or is told in a line."""
    probe_every: MayChange[int | None] = None
    """Updates from one probe of the loss surface to the next; none by default, since workers wait for each."""
    probe_examples: MayChange[int] = 1000
    """Training examples that the loss of these probes is the mean over."""
    checkpoints: MayChange[Checkpoints] = field(default_factory=Checkpoints)
    tracking: MayChange[Tracking] = field(default_factory=Tracking)

    def __new__(cls, *_: object, **settings: object) -> Self:
        """Refuses a field that was renamed."""
        refuse_moved("Job", settings, {"sgd": "optimizer=st.SGD(…), clip, schedule, groups, average and nonfinite"})
        return super().__new__(cls)

    def __post_init__(self) -> None:
        require_declared(self)
        self._check_kinds()
        counts = ("max_steps", "micro_batch", "lanes", "threads", "audit_every", "probe_every", "probe_examples")
        for name in (*counts, "skip_limit"):
            require_count(name, getattr(self, name))
        require_count("seed", self.seed, lowest=0)
        if self.max_seconds is not None:
            require_finite("max_seconds", self.max_seconds, positive=True)
        do = "give seconds: hosts that are alive have several heartbeats in them"
        require(self.lost_after >= 1, "lost_after", "at least 1", self.lost_after, do)
        self._check_workers()
        lanes = self.lane_count
        check_batch_size(self)
        endless = isinstance(self.mode, Online) and self.mode.follow
        ends = needs_last_step(self.schedule)
        do = "use a schedule that needs no last step, or leave mode.follow off"
        require(not (endless and ends), "schedule.kind", "one without an end", getattr(self.schedule, "kind", ""), do)
        require(
            not self.pooled or (self.exchange != "collective" and self.device == "cpu"),
            "aggregation",
            "Stale, or backup, with a shared exchange on CPUs",
            (self.exchange, self.device),
            "leave exchange and device as they are by default",
        )
        self._check_places()
        self._check_bits()
        do = "lower it, or raise lanes"
        require(self.backup < lanes, "aggregation.backup", f"fewer than the {lanes} lanes", self.backup, do)
        require(callable(self.model), "model", "a function", self.model, "see its help")
        self._check_measures()
        self._check_error_unit()
        check_combined(self.data, self.mode, self.loss_over)
        stop_on = self.mode.stop_on if isinstance(self.mode, Epochs) else ""
        self.evaluate.check_beside(stop_on, is_mixture=self.data.mixture is not None)

    def _check_measures(self) -> None:
        if self.loss_over == "minibatch":
            do = 'leave it out with loss_over="minibatch", whose lanes are not computed apart'
            require(self.objective is None, "objective", "a loss of (output, target)", self.objective, do)
            require(not self.pooled, "aggregation", "st.Synchronous()", self.aggregation, do)
            require(self.audit_every is None, "audit_every", "none", self.audit_every, do)
        if self.objective is None:
            do = 'name the model\'s input fields, e.g. inputs=("image",)'
            require(bool(self.data.inputs), "data.inputs", "at least one field", self.data.inputs, do)
            do = 'name a field, e.g. target="label"'
            require(bool(self.data.targets), "data.target", "at least one field", self.data.target, do)
            check_measures(self.loss, self.error, self.metrics)
            return
        others = {
            "data.inputs": (self.data.inputs, Data.inputs),
            "data.target": (self.data.target, Data.target),
            "loss": (self.loss, type(self).loss),
            "error": (self.error, None),
        }
        check_objective(self.objective, others, self.metrics)

    def _check_error_unit(self) -> None:
        unit = self.error_unit
        do = "leave it as it is by default"
        fits = unit is None or re.fullmatch(r"\S(?:[^\n\r|]{0,18}\S)?", unit) is not None
        require(fits, "error_unit", "1 to 20 characters in one line, without |", unit, "shorten it, e.g. to m")
        require(unit in (None, FRACTION) or not self.errs_by_classes, "error_unit", "% of the 0-1 error", unit, do)

    def _check_kinds(self) -> None:
        """Whether every part of the declaration is one of ours, and the model a function that makes one."""
        kinds: dict[str, tuple[type, ...]] = {
            "data": (Data,),
            "mode": (Online, Epochs),
            "clip": (Clip,),
            "average": (Average,),
            "aggregation": (Synchronous, Stale),
            "evaluate": (Evaluate,),
            "checkpoints": (Checkpoints,),
            "tracking": (Tracking,),
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            expected = " or ".join(f"st.{each.__name__}(…)" for each in kind)
            do = (
                f"declare it, e.g. st.{kind[0].__name__}(), not an object of another library"
                if name != "data"
                else ('declare it, e.g. st.Data("data/photos")')
            )
            require(isinstance(value, kind), name, expected, value, do)
        self._check_update()
        self._check_listeners()
        made = not isinstance(self.model, type) and hasattr(self.model, "state_dict")
        do = "give the class, or lambda: Network(...): every worker makes its own"
        require(not made, "model", "a function that returns a new model", type(self.model).__name__ + "(…)", do)

    def _check_listeners(self) -> None:
        """Whether each can be called, and measurements are asked for in one place."""
        given = isinstance(self.listeners, tuple | list)
        do = "give a tuple of functions, e.g. listeners=(told,)"
        require(given and all(map(callable, self.listeners)), "listeners", "functions", self.listeners, do)
        twice = isinstance(self.mode, Online) and self.mode.evaluate_every and self.evaluate.every
        do = "leave one of them out"
        require(not twice, "evaluate.every", "none with mode.evaluate_every", self.evaluate.every, do)

    def _check_update(self) -> None:
        """Whether optimizer, groups and clipping fit each other, and the schedule is one."""
        shape = isinstance(self.schedule, Schedule)
        given = shape or (callable(self.schedule) and not isinstance(self.schedule, type))
        do = 'declare it, e.g. st.Schedule("cosine"), or lambda step: 0.99**step'
        require(given, "schedule", "st.Schedule(…) or a function of the step", self.schedule, do)
        do = "declare it, e.g. st.AdamW(lr=3e-4), or st.Torch(…) for one of another library"
        known = self.optimizer is None or isinstance(self.optimizer, Optimizer)
        require(known, "optimizer", "st.SGD(…), st.AdamW(…) or another of ours", self.optimizer, do)
        whole = self.optimizer is not None and self.optimizer.together == "model"
        do = "use one of the others, e.g. st.AdamW(lr=3e-4)"
        require(not whole or self.device == "cpu", "device", "cpu with st.Torch", self.device, do)
        for name in ("value", "adaptive", "norm"):
            if getattr(self.clip, name) is not None:
                require_finite(f"clip.{name}", getattr(self.clip, name), positive=True)
        for group in self.groups:
            require(isinstance(group, Group), "groups", "st.Group(…)", group, 'e.g. st.Group("*.bias", lr_factor=2.0)')
            if self.optimizer is not None:
                group.check(self.optimizer)
        kinds = ("stop", "skip")
        do = "choose one of them"
        require(self.nonfinite in kinds, "nonfinite", "stop or skip", self.nonfinite, do)

    def _check_workers(self) -> None:
        two = isinstance(self.workers, tuple | list)
        both = tuple(self.workers) if isinstance(self.workers, tuple | list) else (self.workers, self.workers)
        expected, do = "a number, or the fewest and the most", "e.g. workers=(1, 4)"
        require(not two or len(both) == 2, "workers", expected, self.workers, do)
        for each in both:
            require_count("workers", each)
        require(both[0] <= both[1], "workers", "the fewest before the most", self.workers, "turn them round")
        lanes = self.lane_count
        do = "raise lanes or lower workers"
        require(both[1] <= lanes, "workers", f"at most {lanes}, the number of lanes", both[1], do)

    def _check_places(self) -> None:
        places = ("pack", "spread")
        do = "use pack, or leave exchange and aggregation as they are by default"
        require(self.placement in places, "placement", "pack or spread", self.placement, "choose one of them")
        together = self.exchange == "shared" or self.pooled
        require(not together or self.placement == "pack", "placement", "pack for one host's memory", "spread", do)
        places = ("beside", "cpu_nodes")
        do = "leave streamers as it is by default"
        require(self.streamers in places, "streamers", "beside or cpu_nodes", self.streamers, "choose one of them")
        expected = "none: who reads what of a pool is not known ahead"
        require(not self.pooled or self.streamers == "beside", "streamers", expected, self.streamers, do)
        few = not self.pooled or self.data.streamers == 1
        require(few, "data.streamers", expected, self.data.streamers, "leave data.streamers as it is by default")

    def _check_bits(self) -> None:
        kinds = ("same", "portable", "any")
        do = "choose one of them"
        require(self.bits in kinds, "bits", "same, portable or any", self.bits, do)
        portable = self.bits == "portable"
        do = "use bits=same with it, on hosts of one kind"
        require(not portable or self.device == "cpu", "bits", "same or any on a GPU", self.bits, do)
        require(not portable or not self.compile, "compile", "off with portable bits", self.compile, do)
        do = "leave audit_every or aggregation as they are by default"
        require(not (self.audit_every and self.pooled), "audit_every", "none with a pool", self.audit_every, do)

    @property
    def unit_of_error(self) -> str:
        """The error's unit after the default; empty where none is known."""
        return self.error_unit if self.error_unit is not None else FRACTION if self.errs_by_classes else ""

    @property
    def error_is_loss(self) -> bool:
        """Whether the job has no error of its own, as a regression: then the loss is told, and told once."""
        return self.error is None and self.objective is None and self.loss != "cross_entropy"

    @property
    def errs_by_classes(self) -> bool:
        """Whether the error is the built-in 0-1 error."""
        by_default = self.error is None and self.loss == "cross_entropy" and self.objective is None
        return self.error == "zero_one" or by_default

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
    def loss_group(self) -> int | None:
        """Examples that a held-out loss is over, where it is over whole minibatches: the first ones' size."""
        return self.first_batch_size if self.loss_over == "minibatch" else None

    @property
    def first_batch_size(self) -> int:
        """Examples of the first minibatch."""
        return first_size(self.batch_size)

    @property
    def backup(self) -> int:
        """Lanes that an update does not wait for."""
        return self.aggregation.backup if isinstance(self.aggregation, Synchronous) else 0

    @property
    def pooled(self) -> bool:
        """Whether workers take lanes' parts from a common pool, instead of hosting lanes of their own."""
        return isinstance(self.aggregation, Stale) or self.backup > 0
