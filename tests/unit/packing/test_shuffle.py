"""Promise 1: the stored order is a uniformly random permutation, out of core."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from streamtrain.packing.shuffling.runs.sorted_runs import Run, Runs, run_folder, write_run
from streamtrain.shards.stored_order import order_of, sort_keys, stored_order

Order = NDArray[np.int64]
EXAMPLES = 20_000


def merged(seed: int, sizes: Sequence[int], window: int, folder: Path) -> list[int]:
    """The order that runs of these sizes are read in, by windows."""
    start, folders = 0, []
    for size in sizes:
        stop = start + size
        columns = {"number": np.arange(start, stop)}
        write_run(folder, Run(start, stop, False, {}), sort_keys(seed, start, stop), columns)
        folders.append(run_folder(folder, start))
        start = stop
    runs, found = Runs.of(folders), []
    for first in range(0, start, window):
        part = runs.window(first, min(first + window, start))
        found += part.column("number", np.dtype(np.int64))[part.order].tolist()
    return found


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 90), max_size=8), window=st.integers(1, 200))
def test_promise_1_runs_are_merged_in_the_naive_twins_order(
    seed: int, sizes: list[int], window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    naive = np.argsort(sort_keys(seed, 0, sum(sizes)), kind="stable")
    assert merged(seed, sizes, window, folder) == naive.tolist() == stored_order(seed, sum(sizes)).tolist()


@given(keys=st.lists(st.integers(0, 3) | st.integers(2**64 - 600, 2**64 - 1) | st.integers(0, 2**64 - 1), max_size=300))
def test_keys_are_sorted_by_all_their_bits_and_equal_ones_keep_their_order(keys: list[int]) -> None:
    found = order_of(np.array(keys, np.uint64))
    assert found.tolist() == sorted(range(len(keys)), key=keys.__getitem__)


@given(seed=st.integers(0, 2**32), start=st.integers(0, 70_000), size=st.integers(0, 50))
def test_keys_are_a_function_of_seed_and_number(seed: int, start: int, size: int) -> None:
    whole = np.random.Philox(key=seed).random_raw(start + size)
    assert np.array_equal(sort_keys(seed, start, start + size), whole[start:])


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
