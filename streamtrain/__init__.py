"""streamtrain: train on data sets too large for one machine, and see the generalization gap.

Public names only; each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamtrain.aggregate.optimizers.adagrad import Adagrad
    from streamtrain.aggregate.optimizers.adam import Adam
    from streamtrain.aggregate.optimizers.adamw import AdamW
    from streamtrain.aggregate.optimizers.lion import Lion
    from streamtrain.aggregate.optimizers.muon import Muon
    from streamtrain.aggregate.optimizers.rmsprop import RMSprop
    from streamtrain.aggregate.optimizers.sgd import SGD
    from streamtrain.aggregate.optimizers.torch_optim import Torch
    from streamtrain.errors import (
        ConfigError,
        DataError,
        Interrupted,
        JobError,
        ManifestError,
        NonFiniteError,
        ShardError,
        SourceError,
        StoreError,
        StreamtrainError,
        TrackingError,
        TrainingError,
        WorkerLost,
    )
    from streamtrain.job import (
        Average,
        Balanced,
        BatchSize,
        Checkpoints,
        Clip,
        Data,
        Epochs,
        Evaluate,
        Group,
        Job,
        Metric,
        Mixture,
        OfMeans,
        Online,
        Optimizer,
        Pack,
        Pad,
        Schedule,
        Stale,
        Synchronous,
        Tracking,
        Weighted,
    )
    from streamtrain.landscape.probe import Probe
    from streamtrain.packing.options import PackOptions
    from streamtrain.prepare.jobfile import load_job
    from streamtrain.run.fleet.cluster.pack_tasks import pack
    from streamtrain.run.outcome.compare import Comparison, compare
    from streamtrain.run.outcome.report import table
    from streamtrain.run.outcome.result import Evaluation, Result
    from streamtrain.run.train import train
    from streamtrain.run.watching.probing import probe
    from streamtrain.stream.loops.opened import open  # noqa: A004  # `st.open` says what it does
    from streamtrain.track.tracker import Tracker

_ERRORS = (
    *("ConfigError", "DataError", "Interrupted", "JobError", "ManifestError", "NonFiniteError", "ShardError"),
    *("SourceError", "StoreError", "StreamtrainError", "TrackingError", "TrainingError", "WorkerLost"),
)
_DECLARATIONS = (
    *("Average", "Balanced", "BatchSize", "Checkpoints", "Clip", "Data", "Epochs", "Evaluate", "Group"),
    *(
        "Job",
        "Metric",
        "Mixture",
        "OfMeans",
        "Online",
        "Optimizer",
        "Pack",
        "Pad",
        "Schedule",
        "Stale",
        "Synchronous",
        "Tracking",
        "Weighted",
    ),
)
_OPTIMIZERS = {
    name: f"streamtrain.aggregate.optimizers.{name.lower()}"
    for name in ("SGD", "Adagrad", "Adam", "AdamW", "Lion", "Muon", "RMSprop")
}
_LATE = {
    **dict.fromkeys(_ERRORS, "streamtrain.errors"),
    **dict.fromkeys(_DECLARATIONS, "streamtrain.job"),
    **_OPTIMIZERS,
    "Torch": "streamtrain.aggregate.optimizers.torch_optim",
    "PackOptions": "streamtrain.packing.options",
    "pack": "streamtrain.run.fleet.cluster.pack_tasks",
    "open": "streamtrain.stream.loops.opened",
    "load_job": "streamtrain.prepare.jobfile",
    "Probe": "streamtrain.landscape.probe",
    "probe": "streamtrain.run.watching.probing",
    "Comparison": "streamtrain.run.outcome.compare",
    "compare": "streamtrain.run.outcome.compare",
    "Evaluation": "streamtrain.run.outcome.result",
    "Result": "streamtrain.run.outcome.result",
    "table": "streamtrain.run.outcome.report",
    "Tracker": "streamtrain.track.tracker",
    "train": "streamtrain.run.train",
}

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Average",
    "Balanced",
    "BatchSize",
    "Checkpoints",
    "Clip",
    "Comparison",
    "ConfigError",
    "Data",
    "DataError",
    "Epochs",
    "Evaluate",
    "Evaluation",
    "Group",
    "Interrupted",
    "Job",
    "JobError",
    "Lion",
    "ManifestError",
    "Metric",
    "Mixture",
    "Muon",
    "NonFiniteError",
    "OfMeans",
    "Online",
    "Optimizer",
    "Pack",
    "PackOptions",
    "Pad",
    "Probe",
    "RMSprop",
    "Result",
    "Schedule",
    "ShardError",
    "SourceError",
    "Stale",
    "StoreError",
    "StreamtrainError",
    "Synchronous",
    "Torch",
    "Tracker",
    "Tracking",
    "TrackingError",
    "TrainingError",
    "Weighted",
    "WorkerLost",
    "compare",
    "load_job",
    "open",
    "pack",
    "probe",
    "table",
    "train",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("streamtrain")
    if name not in _LATE:
        raise AttributeError(f"module 'streamtrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
