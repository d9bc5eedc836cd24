"""Ratios and functions of means: merged parts are the whole, and standard errors are the spread of repetitions."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from streamtrain.measure.gap import Parts, paired
from streamtrain.measure.progressive import Progressive
from streamtrain.measure.risk import pooled
from streamtrain.samples import Joint, Moments
from streamtrain.values import Risk, Update

PAIRS = some.lists(some.tuples(some.floats(-1e3, 1e3), some.integers(0, 40)), max_size=30)


def ratio(pairs: list[tuple[float, int]]) -> Moments:
    columns = np.array(pairs, np.float64).reshape(-1, 2).T
    return Moments.of_ratio(columns[0], columns[1])


@given(PAIRS, PAIRS, PAIRS)
def test_ratios_of_parts_are_those_of_the_whole(
    a: list[tuple[float, int]], b: list[tuple[float, int]], c: list[tuple[float, int]]
) -> None:
    """Also where a part weighs nothing."""
    parts = (a, b, c)
    whole = [pair for part in parts for pair in part]
    merged = sum(map(ratio, parts), Moments())
    expected = ratio(whole)
    assert merged.count == expected.count == len(whole)
    assert merged.weight == expected.weight == sum(w for _, w in whole)
    if merged.weight:
        assert merged.mean == pytest.approx(expected.mean, rel=1e-9, abs=1e-9)
        assert merged.m2 == pytest.approx(expected.m2, rel=1e-6, abs=1e-6)


@given(PAIRS.filter(lambda pairs: sum(w for _, w in pairs) > 0))
def test_a_ratios_deviations_are_those_of_its_linearized_values(pairs: list[tuple[float, int]]) -> None:
    sums, weights = np.array(pairs, np.float64).T
    found = ratio(pairs)
    away = (sums - sums.sum() / weights.sum() * weights) / weights.mean()
    assert found.mean == pytest.approx(sums.sum() / weights.sum())
    assert found.m2 == pytest.approx(np.square(away).sum(), rel=1e-6, abs=1e-6)


@given(
    arrays(np.float64, some.tuples(some.integers(0, 4), some.integers(0, 300)), elements=some.floats(-1e6, 1e6)),
    some.sampled_from([0.0, math.inf, math.nan]),
)
def test_several_rows_at_once_have_each_one_s_moments_to_the_bit(rows: np.ndarray, odd: float) -> None:
    rows[:1, :1] += odd
    one_by_one = [Moments.of(row) for row in rows]
    found = Moments.of_rows(rows)
    bits = [[struct.pack("qdd", each.count, each.mean, each.m2) for each in some] for some in (found, one_by_one)]
    assert bits[0] == bits[1]


def test_weights_of_one_give_the_plain_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    plain, weighted = Moments.of(values), Moments.of_ratio(values, np.ones(50))
    assert weighted.mean == pytest.approx(plain.mean, rel=1e-12)
    assert weighted.standard_error == pytest.approx(plain.standard_error, rel=1e-12)
    both = plain + weighted
    assert both.weight == 100 and both.mean == pytest.approx(plain.mean, rel=1e-12)


def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of 1 to 30 tokens whose tokens have something in common, longer ones lower losses."""
    lengths = generator.integers(1, 31, n)
    return lengths * (2 - lengths / 30 + generator.exponential(size=n)), lengths.astype(float)


def test_standard_errors_of_ratios_and_functions_are_the_spread_of_repeated_measurements() -> None:
    generator = np.random.default_rng(1)
    found = {"ratio": [], "exp": [], "r2": []}
    stated: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(3000):
        sums, weights = draw(generator, 60)
        y = generator.normal(1, 2, 60)
        squared = np.square(generator.normal(size=60))
        one = np.ones(60)
        joint = Moments.of_joint(60, Joint.of(np.stack([squared, one, y, one, y * y, one])))
        each = {
            "ratio": Moments.of_ratio(sums, weights),
            "exp": Moments.of_ratio(sums, weights).mapped(math.exp),
            "r2": joint.mapped(lambda e, m, s: 1 - e / (s - m * m)),
        }
        for name, moments in each.items():
            found[name].append(moments.mean)
            stated[name].append(moments.standard_error**2)
    for name in found:
        assert np.mean(stated[name]) == pytest.approx(np.var(found[name]), rel=0.15), name


def test_a_function_that_fails_gives_no_number() -> None:
    moments = Moments.of_ratio(np.array([-1.0, -2.0]), np.ones(2)).mapped(math.log)
    assert math.isnan(moments.mean) and math.isnan(moments.standard_error) and moments.count == 2


def test_ratios_are_kept_in_checkpoints() -> None:
    moments = ratio([(1.5, 2), (0.25, 3)])
    assert Moments.from_json(json.loads(json.dumps(moments.to_json()))) == moments
    parts = Parts.of([Risk(ratio([(1.0, n)]), Moments.of(np.ones(1))) for n in range(1, 6)])
    assert parts.weights == {"loss": (1, 2, 3, 4, 5)} and parts.weights_of("error") == (1,) * 5
    assert Parts.from_json(json.loads(json.dumps(parts.to_json()))) == parts


def test_pooled_risks_have_the_functions_of_their_means() -> None:
    slices = [Risk(ratio([(1.0, 2), (3.0, 1)]), Moments.of(np.ones(2)), {"p": ratio([(1.0, 2), (3.0, 1)])})] * 3
    risk = pooled(slices, functions={"p": math.exp})
    assert risk.loss.mean == pytest.approx(4 / 3) and risk.metrics["p"].mean == pytest.approx(math.exp(4 / 3))
    unknown = pooled(slices * 4, "unknown", {"p": math.exp})
    assert unknown.loss.design_effect == pytest.approx(0, abs=1e-9), "all slices are the same"
    difference = paired((1, 2, 3, 4), (1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 3.0))
    assert difference is not None and difference.value == pytest.approx(1.4)


def test_the_progressive_risk_is_the_mean_over_all_weights() -> None:
    """Its standard error: that of the minibatches' own spreads."""
    generator = np.random.default_rng(2)
    progressive = Progressive.over(100)
    every = [draw(generator, 10) for _ in range(40)]
    for step, (sums, weights) in enumerate(every):
        loss = Moments.of_ratio(sums, weights)
        progressive.add(Update(step, loss, loss, 0.1, 1.0, 1.0))
    sums, weights = (np.concatenate(each) for each in zip(*every, strict=True))
    total = progressive.total.loss
    assert total.count == 400 and total.mean == pytest.approx(sums.sum() / weights.sum())
    own = sum((w.sum() ** 2) * np.square((s - s.sum() / w.sum() * w) / w.mean()).sum() / 9 / 10 for s, w in every)
    assert total.standard_error == pytest.approx(math.sqrt(own) / weights.sum(), rel=1e-9)
    window = [np.concatenate(each) for each in zip(*every[-10:], strict=True)]
    assert progressive.recent.loss.mean == pytest.approx(window[0].sum() / window[1].sum())
    assert math.isfinite(progressive.fading.loss.standard_error)
