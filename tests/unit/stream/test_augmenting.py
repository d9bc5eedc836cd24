"""Promise 11: an example's augmentation is a function of the seed, the pass and its number, whoever reads it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.order import Order, Passes, select_lanes
from streamtrain.order.passes import ExamplePasses, StoredPasses
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.stream.examples.batch_augmentation import augment_batch
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays, Selection
from tests.support.augmentations import erased, shifted
from tests.support.datasets import pack_digits

EXAMPLES = 101


@pytest.fixture(scope="module", params=["samples", "blocks"])
def examples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("digits") / "a"
    options = st.PackOptions(splits=(1, 0, 0), shard_examples=16, blocks=request.param == "blocks")
    pack_digits(folder, options, examples=EXAMPLES)
    return st.open(folder, augment=shifted)


def by_number(reader: Reader, passes: Passes, lanes: int, steps: range, augmentation: Augmentation) -> dict[int, bytes]:
    """Every example's augmented image, out of the parts of all lanes."""
    order = Order(EXAMPLES, lanes, 12)
    found: dict[int, bytes] = {}
    for selection in select_lanes(order, passes, range(lanes), steps.start, steps.stop):
        arrays = reader.select(selection, augmentation)
        found |= {n: image.tobytes() for n, image in zip(selection.each().tolist(), arrays["image"], strict=True)}
    return found


def test_promise_11_1_and_4_lanes_augment_every_example_alike_and_passes_do_not(examples: Any) -> None:
    steps = Order(EXAMPLES, 1, 12).steps
    augmentation = Augmentation(shifted, 7)
    for passes in (StoredPasses(), ExamplePasses(EXAMPLES, 7)):
        seen = []
        for index in range(2):
            part = range(index * steps, (index + 1) * steps)
            one, four = (by_number(examples.reader, passes, lanes, part, augmentation) for lanes in (1, 4))
            assert one == four and len(one) == EXAMPLES
            seen.append(one)
        assert sum(seen[0][n] != seen[1][n] for n in range(EXAMPLES)) > 95
    other = by_number(examples.reader, StoredPasses(), 1, range(steps), Augmentation(shifted, 8))
    assert sum(other[n] != seen[0][n] for n in range(EXAMPLES)) > 95


def test_promise_11_any_number_of_threads_augments_alike(examples: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0), shard_examples=16), examples=EXAMPLES)
    found = [
        st.open(folder, augment=shifted, decode_threads=threads).reader.select(
            Selection(0, ((0, EXAMPLES),)), Augmentation(shifted, 7)
        )["image"]
        for threads in (1, 4)
    ]
    assert np.array_equal(*found) and found[0].std() > 0


def test_nothing_leaks_into_the_callers_generators(examples: Any) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = drawn()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    next(iter(examples.batches(20)))
    augment_batch(erased, {"image": torch.zeros(3, 8, 8)}, 3, torch.device("cpu"))
    assert drawn() == expected


def test_the_generators_of_an_example_give_different_numbers(examples: Any) -> None:
    """Python's and NumPy's begin with the same ones where they are seeded alike."""
    seen: list[tuple[float, ...]] = []

    def noted(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        seen.append((random.random(), np.random.rand(), float(torch.rand((), dtype=torch.float64)), rng.random()))
        return example

    examples.reader.select(Selection(0, ((0, 50),)), Augmentation(noted, 1))
    numbers = np.array(seen)
    assert len(np.unique(numbers)) == 200
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.5


def joined(batches: list[dict[str, Any]]) -> bytes:
    return b"".join(batch["image"].numpy().tobytes() for batch in batches)


@pytest.mark.parametrize("reshuffle", ["stored", "examples"])
def test_batches_of_open_go_on_with_the_same_augmentation(examples: Any, reshuffle: Any) -> None:
    whole = examples.batches(16, reshuffle=reshuffle, seed=3)
    expected = [list(whole), list(whole)]
    assert joined(expected[0]) != joined(expected[1])
    for stop in (0, 3, 7, 9):
        batches = examples.batches(16, reshuffle=reshuffle, seed=3)
        taken = [batch for each in range(stop) for batch in [next(iter(batches))]]
        later = examples.batches(16, reshuffle=reshuffle, seed=3)
        later.load_state_dict(batches.state_dict())
        rest = list(later) + (list(later) if stop < 7 else [])
        assert joined(taken + rest) == joined(expected[0] + expected[1]), stop
    assert joined(list(examples.batches(16, seed=4))) != joined(expected[0])


def test_single_examples_of_open_are_as_they_are(examples: Any) -> None:
    plain: Arrays = examples[0:16]
    (batch,) = [b for _, b in zip(range(1), examples.batches(16), strict=False)]
    assert not np.array_equal(plain["image"], batch["image"].numpy())
    assert np.array_equal(plain["label"], batch["label"].numpy())


def test_a_thread_that_would_share_the_generators_is_refused(examples: Any) -> None:
    with pytest.raises(st.ConfigError, match="batches, ahead: expected 0, and no device, beside augment, found 2"):
        examples.batches(16, ahead=2)
    with pytest.raises(st.ConfigError, match=r"found 0, cpu; give open\(…, streamers=1\) as well"):
        examples.batches(16, device="cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_an_example_that_cannot_be_augmented_is_bad(threads: int, tmp_path: Path) -> None:
    def picky(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if rng.random() < 0.2:
            raise ValueError("no luck")
        return example

    folder = tmp_path / "a"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0)), examples=EXAMPLES)
    with pytest.raises(st.JobError, match=r"example '.*': data.augment failed: ValueError: no luck"):
        list(st.open(folder, augment=picky, decode_threads=threads).batches(50))
    skipping = st.open(folder, augment=picky, decode_threads=threads, on_bad_example="skip")
    counts = [[len(batch["label"]) for batch in skipping.batches(50)] for _ in range(2)]
    assert counts[0] == counts[1] and 60 < sum(counts[0]) < 95
