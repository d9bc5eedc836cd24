"""What is minimized, and what is measured: losses and metrics with their weights, and when they are taken."""

from streamtrain.job.objective.consistency import check_measures, check_names, check_objective
from streamtrain.job.objective.evaluate import Evaluate
from streamtrain.job.objective.metric import Metric
from streamtrain.job.objective.of_means import Measure, OfMeans, functions_in
from streamtrain.job.objective.weighted import Value, Weighted

__all__ = [
    "Evaluate",
    "Measure",
    "Metric",
    "OfMeans",
    "Value",
    "Weighted",
    "check_measures",
    "check_names",
    "check_objective",
    "functions_in",
]
