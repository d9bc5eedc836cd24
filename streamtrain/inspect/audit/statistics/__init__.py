"""Tests of the hypothesis that the stored order is a uniformly random one: a statistic a file, with its equation."""
