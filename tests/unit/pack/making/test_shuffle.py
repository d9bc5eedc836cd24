"""Promise 1: the stored order is a uniformly random permutation, out of core."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from streamtrain.pack.making.shuffle import Shuffle, stored_order

Order = NDArray[np.int64]
EXAMPLES = 20_000


def out_of_core(seed: int, examples: int, memory_bytes: int, folder: Path) -> list[int]:
    shuffle = Shuffle(seed, memory_bytes, folder)
    for number in range(examples):
        shuffle.add(b"%d" % number)
    return [int(payload) for payload in shuffle]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), examples=st.integers(0, 400), memory=st.sampled_from([2_000, 20_000, 1 << 20]))
def test_promise_1_out_of_core_order_is_the_naive_twins(
    seed: int, examples: int, memory: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scratch")
    assert out_of_core(seed, examples, memory, folder) == stored_order(seed, examples).tolist()
    assert not [left for left in folder.rglob("*") if left.is_file()]


def test_buckets_larger_than_the_memory_are_split_again(tmp_path: Path) -> None:
    assert out_of_core(5, 5_000, 2_000, tmp_path) == stored_order(5, 5_000).tolist()
    assert any(left.is_dir() for left in tmp_path.iterdir()), "the second level was never used"


def test_promise_1_stored_order_is_a_permutation_that_the_seed_decides() -> None:
    for examples in (1, 65_536, 65_537, 200_000):
        assert np.array_equal(np.sort(stored_order(1, examples)), np.arange(examples))
    assert np.array_equal(stored_order(7, 5_000), stored_order(7, 5_000))
    assert not np.array_equal(stored_order(7, 5_000), stored_order(8, 5_000))


def windowed(window: int) -> Callable[[int], Order]:
    """A shuffle buffer of ``window`` examples, as streaming loaders have."""

    def order(seed: int) -> Order:
        generator = np.random.default_rng(seed)
        held, out = list(range(window)), []
        for number in range(window, EXAMPLES):
            index = generator.integers(window)
            out.append(held[index])
            held[index] = number
        generator.shuffle(held)
        return np.array(out + held)

    return order


def p_values(order_of: Callable[[int], Order]) -> list[float]:
    """Of position-to-position correlation, and of chi-square over 20×20 bins of (source, stored) position."""
    found = []
    for seed in range(10):
        order = order_of(seed)
        found.append(float(stats.spearmanr(np.arange(EXAMPLES), order).pvalue))
        table, _, _ = np.histogram2d(np.arange(EXAMPLES), order, bins=20)
        found.append(float(stats.chisquare(table.ravel(), ddof=2 * 20 - 2).pvalue))
    return found


def is_uniform(order_of: Callable[[int], Order]) -> bool:
    """Ten seeds, two tests each: none below 0.1 %, and the p-values themselves uniform."""
    found = p_values(order_of)
    return min(found) > 1e-3 and bool(stats.kstest(found, "uniform").pvalue > 1e-3)


def test_promise_1_the_shuffle_is_uniform() -> None:
    assert is_uniform(lambda seed: stored_order(seed, EXAMPLES))


@pytest.mark.parametrize("window", [100, 1_000, 10_000])
def test_a_windowed_shuffle_fails_the_same_test(window: int) -> None:
    assert not is_uniform(windowed(window))


def test_neighbours_in_the_source_are_not_neighbours_in_the_stored_order() -> None:
    position = np.argsort(stored_order(3, EXAMPLES))
    distance = np.abs(np.diff(position))
    expected = EXAMPLES / 3  # mean distance of two independent uniform positions
    assert abs(distance.mean() - expected) < 4 * distance.std() / np.sqrt(EXAMPLES)
