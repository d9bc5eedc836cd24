"""Measured quantities against independent computations, standard errors by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.measure.cost import MeasuringTime
from streamtrain.measure.early_stopping import EarlyStopping
from streamtrain.measure.gap import Parts, gap, paired
from streamtrain.measure.risk import pooled
from streamtrain.measure.run_curves import cost_readings, risk_readings
from streamtrain.measure.verdict import largest_gap, verdict
from streamtrain.values import Moments, Risk

NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=50)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_moments_of_parts_are_those_of_the_whole(a: list[float], b: list[float], c: list[float]) -> None:
    whole, merged = (
        Moments.of(np.array(a + b + c)),
        Moments.of(np.array(a)) + Moments.of(np.array(b)) + Moments.of(np.array(c)),
    )
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-3)


def test_standard_error_and_variance_of_known_numbers() -> None:
    moments = Moments.of(np.array([1.0, 2.0, 3.0, 4.0]))
    few = scipy.stats.t.ppf(scipy.stats.norm.cdf(1), 3)
    assert moments.variance == pytest.approx(5 / 3)
    assert moments.standard_error == pytest.approx(few * math.sqrt(5 / 12), rel=1e-3)
    assert math.isnan(Moments.of(np.array([1.0])).standard_error)


def test_standard_errors_of_risk_and_gap_are_the_spread_of_repeated_measurements() -> None:
    generator = np.random.default_rng(0)
    gaps, stated = [], []
    for _ in range(4000):
        train, held_out = (Moments.of(generator.exponential(size=n)) for n in (60, 40))
        measured = gap(train, held_out)
        gaps.append(measured.value)
        stated.append(measured.standard_error**2)
    assert np.mean(gaps) == pytest.approx(0, abs=4 * np.std(gaps) / math.sqrt(4000))
    assert np.mean(stated) == pytest.approx(np.var(gaps), rel=0.1)


def slices(*values: np.ndarray) -> list[Risk]:
    return [Risk(Moments.of(part), Moments.of(part)) for part in values]


def test_a_paired_difference_is_scipys_and_the_spread_of_repeated_measurements() -> None:
    """Two measurements on the same examples, of which some are hard for both."""
    generator = np.random.default_rng(0)
    found, stated, unpaired = [], [], []
    for _ in range(800):
        hard = generator.exponential(size=(40, 25))
        first, second = (hard + 0.3 * generator.normal(size=hard.shape) for _ in range(2))
        before, after = Parts.of(slices(*first)), Parts.of(slices(*second))
        difference = paired(before.examples, before.means["loss"], after.means["loss"])
        assert difference is not None
        found.append(difference.value)
        stated.append(difference.standard_error**2)
        unpaired.append(Moments.of(first).variance / 1000 + Moments.of(second).variance / 1000)
    test = scipy.stats.ttest_rel(second.mean(1), first.mean(1))
    assert difference.standard_error == pytest.approx(difference.value / test.statistic)
    assert np.mean(stated) == pytest.approx(np.var(found), rel=0.15) and np.mean(unpaired) > 8 * np.mean(stated)


def test_parts_are_joined_slices_and_their_weights_their_examples() -> None:
    risks = slices(*(np.full(5, float(index)) for index in range(120)))
    parts = Parts.of(risks)
    assert len(parts.examples) == 60 and parts.examples[0] == 10 and parts.means["loss"][:2] == (0.5, 2.5)
    uneven = Parts.of(slices(*(np.arange(float(n)) for n in range(1, 13))))
    shifted = tuple(mean + n for mean, n in zip(uneven.means["loss"], uneven.examples, strict=True))
    difference = paired(uneven.examples, uneven.means["loss"], shifted)
    assert difference is not None and difference.value == pytest.approx(np.average(range(1, 13), weights=range(1, 13)))
    assert paired((5,) * 3, (0.0,) * 3, (1.0,) * 3) is None


def test_readings_of_a_risk() -> None:
    risk = pooled([Risk(Moments.of(np.array([1.0, 3.0])), Moments.of(np.array([0.0, 1.0])))])
    assert {r.name: r.value for r in risk_readings("test_risk", risk, 3, 0.0)} == {
        "test_risk/loss": 2.0,
        "test_risk/loss_standard_error": 1.8125,  # Student's, of two
        "test_risk/error": 0.5,
        "test_risk/error_standard_error": pytest.approx(math.sqrt(1 / 8 + 1 / 16) / 1.5),  # Wilson's
    }


def test_early_stopping() -> None:
    state = EarlyStopping(patience=2, min_delta=0.1)
    seen = []
    for passes, error in enumerate([1.0, 0.95, 0.8, 0.75, 0.71, 0.9], 1):
        state = state.after(passes, error)
        seen.append((state.best_at, state.improved, state.should_stop))
    assert seen == [
        (1, True, False),
        (1, False, False),
        (3, True, False),
        (3, False, False),
        (3, False, True),
        (3, False, True),
    ]


def test_patience_in_examples_counts_what_lies_between_measurements() -> None:
    state = EarlyStopping(patience=1000)
    seen = []
    for examples, error in [(400, 0.5), (800, 0.6), (1399, 0.6), (1400, 0.6)]:
        state = state.after(examples, error)
        seen.append(state.should_stop)
    assert seen == [False, False, False, True]


@pytest.mark.parametrize("steps", [7, 10, 20, 30])
def test_patience_in_passes_counts_parts_of_passes_exactly(steps: int) -> None:
    """Measured after every step: 4.35 passes are 4 after 0.35, whatever binary fractions make of these."""
    for best in range(1, 8 * steps):
        state = EarlyStopping(patience=4).after(best / steps, 0.5)
        assert not state.after((best + 4 * steps - 1) / steps, 0.6).should_stop
        assert state.after((best + 4 * steps) / steps, 0.6).should_stop


def test_early_stopping_never_takes_nan_for_better() -> None:
    state = EarlyStopping(patience=2).after(1, math.nan)
    assert not state.improved and state.after(2, 0.5).improved


def test_a_bound_on_measuring_time_is_kept() -> None:
    """Each measurement takes 3 s, each stint 10 s: with a bound of 0.1, every third is made."""
    measuring, training, made = MeasuringTime(0.1), 0.0, []
    for stint in range(30):
        training += 10
        if not made or measuring.affords(training):
            measuring.spend(3.0)
            made.append(stint)
    fraction = cost_readings("evaluation", measuring, training, 0, 0.0)[1]
    assert made[:3] == [0, 5, 8] and fraction.value <= 0.1
    assert (fraction.name, fraction.value) == ("evaluation/fraction_of_time", pytest.approx(33 / 333))
    assert MeasuringTime(None).affords(0.0)


def losses(*means: float) -> list[Moments]:
    """Measurements on 100 examples each, with a standard error of 0.01."""
    return [Moments(100, mean, 0.01**2 * 100 * 99) for mean in means]


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        ((0.9, 0.5), (0.91, 0.52), "underfitting"),  # a gap of 0.02 ± 0.014, and the training loss falls
        ((0.9, 0.5, 0.5), (0.91, 0.52, 0.52), "no gap seen"),  # it falls no more
        ((0.9, 0.5, 0.4999), (0.91, 0.52, 0.51), "no gap seen"),  # not clearly
        ((0.9,), (0.91,), "no gap seen"),
        ((0.9, 0.5), (0.91, 0.53), "fitting"),  # 0.03 ± 0.014
        ((0.5, 0.1), (0.52, 0.54), "fitting"),  # risen by 0.02 ± 0.014
        ((0.5, 0.1), (0.52, 0.55), "overfitting"),  # risen by 0.03 ± 0.014
        ((0.5, *(0.3,) * 9, 0.1), (*(0.52,) * 10, 0.55), "fitting"),  # the same, the lowest of ten
        ((0.5, *(0.3,) * 9, 0.1), (*(0.52,) * 10, 0.57), "overfitting"),
        ((0.5, 0.9), (0.52, 0.90), "no gap seen"),  # both rose: that is divergence
        ((2.3, 1e-3, 1e-9), (2.3, 1e-3, 1e-9), "no gap seen"),  # a perfect model
        ((0.5, 0.1), (0.52, math.nan), "not finite"),
        ((0.5, math.inf), (0.52, 0.5), "not finite"),
        ((0.5, 0.1, 0.05), (0.52, math.nan, 0.6), "overfitting"),  # one before was
    ],
)
def test_verdicts_rule(train: tuple[float, ...], held_out: tuple[float, ...], expected: str) -> None:
    assert losses(0.5)[0].standard_error == pytest.approx(0.01)
    assert verdict(losses(*train), losses(*held_out)) == expected


def test_no_gap_seen_says_how_large_it_may_be() -> None:
    """A gap of 0.01 ± √2 · 0.01."""
    assert largest_gap(*losses(0.5), *losses(0.51)) == pytest.approx(0.01 + 2 * math.sqrt(2) * 0.01)


def test_a_rise_on_the_same_examples_is_told_by_its_paired_standard_error() -> None:
    """0.02 ± 0.014 where the two are taken for independent, but the same in every part."""
    train, held_out = losses(0.5, 0.1), losses(0.52, 0.54)
    easy = Parts((10,) * 10, {"loss": tuple(0.5 + 0.01 * n for n in range(10))})
    later = Parts((10,) * 10, {"loss": tuple(mean + 0.02 for mean in easy.means["loss"])})
    assert verdict(train, held_out) == "fitting" == verdict(train, held_out, [None, later])
    assert verdict(train, held_out, [easy, later]) == "overfitting"


def test_overfitting_is_seldom_said_of_a_flat_curve() -> None:
    """Ten measurements of the same risk: the lowest of ten lies well below the mean, and yet."""
    generator = np.random.default_rng(0)
    said = 0
    for _ in range(500):
        curve = [Moments.of(generator.normal(1.0, 1.0, 100)) for _ in range(10)]
        said += verdict(losses(*np.linspace(1, 0.9, 10)), curve) == "overfitting"
    assert said / 500 <= 0.05
