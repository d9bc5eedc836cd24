"""Slices that lie one behind the other are read by one call: the same examples of each as by one call a slice."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.model.evaluation import Joined
from streamtrain.run.fleet.processes.measurer import read_batch
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection, Skip, examples_in
from tests.support.datasets import PackOptions, pack_digits

EXAMPLES = 80
LEFT_OUT = 41


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("digits")
    manifest = pack_digits(folder, PackOptions(shard_examples=7), examples=100)
    reader = Reader(LocalFiles(folder), manifest, "train", ("image", "label"))
    reader.leave_out({LEFT_OUT: Skip("here", "as a test")})
    return reader


def assert_the_same(reader: Reader, batch: list[Selection], *, alike: bool) -> bool:
    """Whether it was one call."""
    found = read_batch(reader, batch, alike=alike)
    expected = [reader.select(each) for each in batch]
    if isinstance(found, Joined):
        assert list(found.sizes) == [examples_in(each) for each in expected]
        for name, array in found.arrays.items():
            assert np.array_equal(array, np.concatenate([each[name] for each in expected]))
        return True
    for each, other in zip(found, expected, strict=True):
        assert set(each) == set(other) and all(np.array_equal(each[name], other[name]) for name in each)
    return False


CUTS = st.lists(st.integers(0, EXAMPLES), min_size=2, max_size=6, unique=True).map(sorted)
PIECES = st.tuples(st.integers(0, EXAMPLES - 9), st.integers(1, 9)).map(lambda it: (it[0], it[0] + it[1]))


@given(CUTS)
def test_of_neighbours_by_one_call_unless_an_example_is_left_out(reader: Reader, cuts: list[int]) -> None:
    batch = [Selection(0, (each,)) for each in itertools.pairwise(cuts)]
    whole = not cuts[0] <= LEFT_OUT < cuts[-1]
    assert assert_the_same(reader, batch, alike=True) == (whole and len(batch) > 1)
    assert not assert_the_same(reader, batch, alike=False)


@given(st.lists(st.lists(PIECES, max_size=2), min_size=1, max_size=4))
def test_of_any_others_each_by_itself(reader: Reader, batch: list[list[tuple[int, int]]]) -> None:
    """Of several runs each, or of none."""
    assert_the_same(reader, [Selection(0, tuple(runs)) for runs in batch], alike=True)


def test_two_runs_of_one_slice_are_not_taken_for_two_slices(reader: Reader) -> None:
    batch = [Selection(0, ((3, 5), (5, 9))), Selection(0, ())]
    assert not assert_the_same(reader, batch, alike=True)
