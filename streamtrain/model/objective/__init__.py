"""What is minimized and measured: of each example, and of whole sets of them."""

from streamtrain.model.objective.built_in import cross_entropy, margin, mse, soft_error, zero_one
from streamtrain.model.objective.by_class import ByClass
from streamtrain.model.objective.entries import Entries, cut, pieces_of
from streamtrain.model.objective.measuring import (
    Batch,
    Measured,
    Objective,
    loss_and_error,
    metrics_of,
    take_metrics,
)
from streamtrain.model.objective.tally import Tally, risk_of, some_of
from streamtrain.model.objective.whole_set import CLASSES, Computed, Table, WholeSet, check_whole

__all__ = [
    "CLASSES",
    "Batch",
    "ByClass",
    "Computed",
    "Entries",
    "Measured",
    "Objective",
    "Table",
    "Tally",
    "WholeSet",
    "check_whole",
    "cross_entropy",
    "cut",
    "loss_and_error",
    "margin",
    "metrics_of",
    "mse",
    "pieces_of",
    "risk_of",
    "soft_error",
    "some_of",
    "take_metrics",
    "zero_one",
]
