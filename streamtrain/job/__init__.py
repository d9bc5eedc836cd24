"""What a user declares: a `Job` and its parts, a file a subject, each validated where it is made."""

from streamtrain.job.checkpoints import Checkpoints
from streamtrain.job.data import CACHE_BYTES, Balanced, Collate, Data, Mixture, Pack, Pad
from streamtrain.job.fleet import Stale, Synchronous
from streamtrain.job.job import FRACTION, Job
from streamtrain.job.mode import Epochs, Online
from streamtrain.job.objective import Evaluate, Measure, Metric, OfMeans, Value, Weighted, functions_in
from streamtrain.job.tracking import RUNS, Tracking
from streamtrain.job.update import Average, BatchSize, Clip, Group, Optimizer, Schedule

__all__ = [
    "CACHE_BYTES",
    "FRACTION",
    "RUNS",
    "Average",
    "Balanced",
    "BatchSize",
    "Checkpoints",
    "Clip",
    "Collate",
    "Data",
    "Epochs",
    "Evaluate",
    "Group",
    "Job",
    "Measure",
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
    "Value",
    "Weighted",
    "functions_in",
]
