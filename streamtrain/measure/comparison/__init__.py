"""Runs against each other: at equal updates, and what more passes over the same examples were worth."""

from streamtrain.measure.comparison.difference import Difference, Point, differences, group_differences
from streamtrain.measure.comparison.reuse import Reuse, reuse, reuse_of_runs

__all__ = ["Difference", "Point", "Reuse", "differences", "group_differences", "reuse", "reuse_of_runs"]
