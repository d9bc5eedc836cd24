"""`by_length` in whole runs and loops: the same bits from anywhere, each example once, and less padding."""

from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.order import select_minibatch
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.stream.loops.batches import Batches
from streamtrain.values import Position
from tests.support.same_run import assert_same_bits_from_a_checkpoint, assert_same_bits_over_ray, train_as_if_stopped
from tests.support.small_job import digest
from tests.support.tokens import PADS, language_job, pack_ragged


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("ragged") / "d", 1000, shortest=1))


def job_on(url: str, runs: Path | None = None, data: dict[str, Any] | None = None, **settings: Any) -> st.Job:
    settings.setdefault("mode", st.Epochs(max_passes=3, reshuffle="examples"))
    tracking = st.Tracking(enabled=False, folder=str(runs or Path(url).parent / "runs"))
    given = {"collate": PADS, "by_length": "tokens", **(data or {})}
    return language_job(url, given, lanes=4, tracking=tracking, checkpoints=st.Checkpoints(seconds=0.001), **settings)


def cut(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    length = rng.integers(1, 1 + len(example["tokens"]))
    return {**example, "tokens": example["tokens"][:length], "next": example["next"][:length]}


def test_the_same_bits_from_a_checkpoint_in_one_process(url: str) -> None:
    assert_same_bits_from_a_checkpoint(job_on(url, data={"augment": cut}))


def test_the_same_bits_over_ray(url: str, local_ray: None) -> None:
    assert_same_bits_over_ray(job_on(url, data={"streamers": 2}), 2)


def test_a_run_goes_on_from_a_checkpoint(url: str, tmp_path: Path) -> None:
    whole = st.train(job_on(url, tmp_path / "whole"), inline=True, quiet=True)
    train_as_if_stopped(job_on(url, tmp_path, mode=st.Epochs(max_passes=2, reshuffle="examples")))
    with pytest.raises(st.ConfigError, match=r"--resume, data.by_length: expected tokens, as the run began, found No"):
        st.train(job_on(url, tmp_path, data={"by_length": None}), inline=True, quiet=True, resume=True)
    result = st.train(job_on(url, tmp_path), inline=True, quiet=True, resume=True)
    assert digest(result.parameters) == digest(whole.parameters)
    assert result.chosen.gap_of_loss == whole.chosen.gap_of_loss
    assert "too small of progressive means and of the gradient's noise: neighbours by tokens" in st.table({"a": result})


def test_the_empirical_risk_is_of_the_examples_that_were_used_in_the_middle_of_a_window(
    url: str, tmp_path: Path
) -> None:
    job = job_on(url, tmp_path, mode=st.Online(), max_steps=4)
    plans = plan(job)
    used = [select_minibatch(plans.order, plans.pass_orders, Position(0, step)).each() for step in range(4)]
    said = [number for lane in plans.used_before(4, []) for number in range(lane.start, lane.stop)]
    assert sorted(said) == sorted(np.concatenate(used).tolist()) and len(said) == 96
    result = st.train(job, inline=True, quiet=True)
    assert result.examples_used == result.chosen.empirical.loss.count == 96


def flat(batches: list[dict[str, Any]]) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches]


@pytest.mark.parametrize("reshuffle", ["stored", "examples"])
def test_loops_seek_resume_and_read_alike_with_streamers(url: str, reshuffle: Any) -> None:
    def batches(lane: int | None = None, **reading: Any) -> Batches:
        opened = st.open(url, fields=("tokens", "next", "label"), **reading)
        return opened.batches(24, lanes=3, lane=lane, reshuffle=reshuffle, seed=2, collate=PADS, by_length="tokens")

    straight = batches()
    expected = [flat(list(straight)) for _ in range(2)]
    examples = sorted(st.open(url)[:]["label"].tolist())
    assert all(sorted(chain.from_iterable(each)) == examples for each in expected) and expected[0] != expected[1]
    assert [flat(list(again)) for again in [batches(streamers=2)] for _ in range(2)] == expected
    of_lanes = [flat(list(batches(lane=lane))) for lane in range(3)]
    assert [list(chain(*each)) for each in zip(*of_lanes, strict=True)] == expected[0]
    resumed = batches()
    head = list(islice(resumed, 7))
    other = batches()
    other.load_state_dict(resumed.state_dict())
    assert flat(head) + flat(list(other)) == expected[0]
    other.seek(Position(1, 3))
    assert flat(list(other)) == expected[1][3:]
    plain = st.open(url, fields=("label",)).batches(24, lanes=3, reshuffle=reshuffle, seed=2)
    with pytest.raises(st.ConfigError, match="state, by_length: expected None, found 'tokens'"):
        plain.load_state_dict(other.state_dict())


def test_there_is_less_padding(url: str) -> None:
    def padded(by_length: str | None) -> int:
        pad = st.Pad("tokens", multiple_of=1)
        batches = st.open(url, fields=("tokens",)).batches(32, collate=pad, by_length=by_length)
        return sum(batch["tokens"].numel() for batch in batches)

    tokens = sum(len(each) for each in st.open(url)[:]["tokens"])
    assert padded("tokens") - tokens < 0.2 * (padded(None) - tokens)


def test_texts_and_stored_numbers_have_lengths_too(url: str) -> None:
    words = st.open(url).lengths("word")
    assert words.tolist() == [len(word) for word in st.open(url)[:]["word"]]
    assert st.open(url).lengths("label").tolist() == st.open(url)[:]["label"].tolist()


def test_the_runs_page_says_so(url: str) -> None:
    card = card_of(plan(job_on(url)), "a")
    assert card.params["data.by_length"] == "tokens"
    assert card.tags["progressive.estimates"].endswith("its ± leaves out what minibatches differ by their lengths")
    assert card.tags["gradient.noise"].startswith("too small")
    assert "gradient.noise" not in card_of(plan(job_on(url, data={"by_length": None})), "a").tags


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"by_length": "token"}, r"data.by_length: expected a field 'token' in .*, found label, next, tokens, word; n"),
        ({"by_length": ""}, r"data.by_length: expected the name of a field, found ''; name one, e.g. by_length="),
        ({"balance": st.Balanced("label")}, r"data.balance: expected none beside data.by_length, found Balanced"),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_line(url: str, change: dict[str, Any], line: str) -> None:
    with pytest.raises(st.ConfigError, match=f"^{line}") as refused:
        plan(job_on(url, data=change))
    assert "\n" not in str(refused.value)


def test_a_field_of_one_length_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((40, 5), np.float32), label=np.arange(40) % 2)
    st.pack(str(tmp_path / "d.npz"), tmp_path / "d")
    expected = (
        r"data.by_length, field 'x': expected arrays of different lengths, texts, or one whole number an example, "
        r"found float32 of shape \(5,\); name the field that st.Pad pads"
    )
    with pytest.raises(st.ConfigError, match=expected):
        plan(st.Job(st.Data(str(tmp_path / "d"), inputs=("x",), by_length="x"), torch.nn.Identity, batch_size=8))
    with pytest.raises(st.ConfigError, match=expected.replace("data.by", "batches, by")):
        st.open(tmp_path / "d").batches(8, by_length="x")
    mode = st.Online(follow=True)
    with pytest.raises(st.ConfigError, match="mode.follow: expected off beside data.by_length, found True"):
        st.Job(st.Data(str(tmp_path / "d"), by_length="x"), torch.nn.Identity, mode=mode)
