"""What widens ± for few values and for fractions, against scipy's Student and Wilson."""

import math

import numpy as np
import pytest
import scipy.stats

from streamtrain.plus_minus import SMALL, fraction_error, student_factor
from streamtrain.values import Moments

ONE_SIGMA = float(scipy.stats.norm.cdf(1))


@pytest.mark.parametrize("count", range(2, SMALL))
def test_few_values_are_widened_by_students_quantile(count: int) -> None:
    quantile = float(scipy.stats.t.ppf(ONE_SIGMA, count - 1))
    assert student_factor(count) == pytest.approx(quantile, rel=0.015 if count == 2 else 0.001)
    values = np.random.default_rng(count).normal(size=count)
    assert Moments.of(values).standard_error == pytest.approx(student_factor(count) * scipy.stats.sem(values))


def test_from_thirty_values_on_it_is_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=SMALL)
    assert Moments.of(values).standard_error == pytest.approx(scipy.stats.sem(values))
    assert scipy.stats.t.ppf(ONE_SIGMA, SMALL - 1) < 1.02


@pytest.mark.parametrize("count", [2, 10, 400])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0])
def test_a_fractions_error_is_half_of_wilsons_interval(count: int, part: float) -> None:
    hits = round(count * part)
    found = scipy.stats.binomtest(hits, count).proportion_ci(2 * ONE_SIGMA - 1, method="wilson")
    reach = found.high - found.low if hits in (0, count) else (found.high - found.low) / 2
    values = np.arange(count) < hits
    assert Moments.of(values).standard_error == pytest.approx(reach) == fraction_error(count, hits / count)


def test_none_of_many_wrong_is_no_proof_unless_all_there_are_were_looked_at() -> None:
    right = Moments.of(np.zeros(7000))
    assert right.standard_error == pytest.approx(1 / 7001)
    assert Moments(7000, 0.0, 0.0, population=28_000).standard_error == pytest.approx(math.sqrt(0.75) / 7001)
    whole = Moments(7000, 0.0, 0.0, population=7000)
    assert whole.standard_error == 0 and whole.is_exact and not right.is_exact


def test_values_between_0_and_1_are_no_fraction() -> None:
    values = np.random.default_rng(1).random(50)
    assert Moments.of(values).standard_error == pytest.approx(scipy.stats.sem(values))
    assert Moments.of(np.full(50, 0.5)).standard_error == 0
    assert math.isnan(Moments.of(np.array([0.0])).standard_error)
