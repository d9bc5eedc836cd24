"""`st.open(…, streamers=N)`: the same batches from any number of processes, also where some are killed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import streamtrain as st
from streamtrain.errors import WorkerLost
from streamtrain.stream.loops.batches import Batches
from tests.support.augmentations import shifted
from tests.support.datasets import pack_digits

EXAMPLES = 101


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "a"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0), shard_examples=16), examples=EXAMPLES)
    return folder


def batches_of(folder: Path, streamers: int, **chosen: Any) -> Batches:
    examples = st.open(folder, augment=shifted, streamers=streamers)
    return examples.batches(12, **{"reshuffle": "examples", "seed": 3, **chosen})


def taken(batches: Batches, passes: int = 1) -> list[bytes]:
    return [b["image"].numpy().tobytes() + b["label"].numpy().tobytes() for _ in range(passes) for b in batches]


def processes() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.mark.parametrize("chosen", [{}, {"lanes": 4, "lane": 2}, {"ahead": 2}, {"drop_last": True}], ids=str)
def test_promise_11_1_and_3_streamers_give_the_batches_of_none(folder: Path, chosen: dict[str, Any]) -> None:
    alone = {name: value for name, value in chosen.items() if name != "ahead"}
    expected = taken(batches_of(folder, 0, **alone), passes=3)
    for streamers in (1, 3):
        assert taken(batches_of(folder, streamers, **chosen), passes=3) == expected


def test_they_go_on_over_passes_and_begin_anew_elsewhere(folder: Path) -> None:
    others = {each.pid for each in processes()}
    expected = taken(batches_of(folder, 0), passes=3)
    steps = len(expected) // 3
    batches = batches_of(folder, 2)
    assert taken(batches) == expected[:steps]
    first = {each.pid for each in processes()} - others
    assert taken(batches) == expected[steps : 2 * steps]
    assert {each.pid for each in processes()} - others == first and len(first) == 2
    for stop in (0, 4, steps):
        broken = batches_of(folder, 2)
        list(zip(range(stop), broken, strict=False))
        state = broken.state_dict()
        batches.load_state_dict(state)
        at = state["pass_index"] * steps + state["step"]
        assert taken(batches) == expected[at : at // steps * steps + steps]
    del batches, broken
    assert {each.pid for each in processes()} <= others, "they end with who wanted them"


def test_a_killed_one_is_replaced(folder: Path) -> None:
    expected = taken(batches_of(folder, 0), passes=2)
    batches = batches_of(folder, 3)
    found = []
    for _ in range(2):
        for number, batch in enumerate(batches):
            found.append(batch["image"].numpy().tobytes() + batch["label"].numpy().tobytes())
            if number in (0, 5):
                processes()[-1].kill()
    assert found == expected


def ending(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    os._exit(1)


def test_what_ends_every_process_ends_the_loop(folder: Path) -> None:
    with pytest.raises(WorkerLost, match="a streamer's process died"):
        taken(st.open(folder, augment=ending, streamers=2).batches(12))


def picky(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() < 0.2:
        raise ValueError("no luck")
    return example


def test_what_fails_there_is_told_here(folder: Path) -> None:
    with pytest.raises(st.JobError, match=r"example '.*': data.augment failed: ValueError: no luck"):
        taken(st.open(folder, augment=picky, streamers=2).batches(12))
    skipping = [st.open(folder, augment=picky, streamers=n, on_bad_example="skip") for n in (0, 2)]
    found = [taken(each.batches(12)) for each in skipping]
    assert found[0] == found[1]
    assert {} != skipping[0].reader.skipped.items() <= skipping[1].reader.skipped.items(), "these have read ahead"
    with pytest.raises(st.JobError, match="streamers, field 'word': expected arrays, found objects; turn it into"):
        taken(st.open(folder, map=lambda example: {**example, "word": "a"}, streamers=1).batches(12))
    with pytest.raises(st.ConfigError, match="streamers: expected a whole number of at least 0"):
        st.open(folder, streamers=-1)
