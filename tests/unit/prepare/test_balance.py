"""What `st.Balanced` cannot balance is refused before anything starts, in one line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.cli.flags import parse
from streamtrain.errors import ConfigError
from streamtrain.order import Weights
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and what else a field may hold; of the class ``owl`` there is one example, and not in training."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "d.npz", x=rng.normal(size=(100, 4)).astype(np.float32), label=np.arange(100) % 3 // 2,
        one=np.ones(100, np.int64), pair=np.zeros((100, 2), np.int64), none=np.zeros(100), negative=-np.ones(100),
        huge=np.full(100, 1e308),
    )  # fmt: skip
    pack(str(folder / "d.npz"), folder / "d", PackOptions(seed=1, blocks=True))
    return folder / "d"


def linear() -> torch.nn.Module:
    return torch.nn.Linear(4, 2)


def job_on(folder: Path | str, field: str, **settings: Any) -> st.Job:
    return st.Job(st.Data(str(folder), inputs=("x",), balance=st.Balanced(field)), linear, batch_size=8, **settings)


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("labels", r"data.balance: expected a field 'labels' in .*/d, found .*label.*; name one of these"),
        (
            "x",
            r"data.balance, field 'x': expected one whole number an example, found float32 of shape \(4,\); name",
        ),
        (
            "pair",
            r"data.balance, field 'pair': expected one whole number an example, found int64 of shape \(2,\); name",
        ),
        ("one", r"data.balance, field 'one': expected 2 to 10,000 classes, found 1 values; name a field of classes"),
    ],
)
def test_fields_that_are_no_classes(folder: Path, field: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refused:
        plan(job_on(folder, field))
    assert "\n" not in str(refused.value)


def test_a_class_without_training_examples(tmp_path: Path) -> None:
    from PIL import Image

    for name, count in (("cat", 20), ("dog", 20), ("owl", 1)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), index).save(tmp_path / "raw" / name / f"{index}.png")
    for seed in range(40):  # until it lies in another split
        manifest = pack(str(tmp_path / "raw"), tmp_path / f"d{seed}", PackOptions(seed=seed, splits=(0.5, 0.4, 0.1)))
        if 2 not in manifest.splits["train"].class_counts:
            break
    job = st.Job(st.Data(str(tmp_path / f"d{seed}"), balance=st.Balanced("label")), linear, batch_size=8)
    expected = "data.balance, field 'label': expected training examples of every class in .*, found none of owl; pack"
    with pytest.raises(ConfigError, match=expected):
        plan(job)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mode": st.Epochs(reshuffle="shards")}, "mode.reshuffle: expected stored or examples beside data.balance"),
        ({"mode": st.Online(follow=True)}, "mode.follow: expected off beside data.balance, found True"),
        ({"loss_over": "minibatch"}, "loss_over: expected examples beside data.balance, found 'minibatch'"),
    ],
)
def test_settings_that_do_not_go_with_it(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        job_on("nowhere", "label", **settings)


def test_online_has_no_more_examples_than_come_once(folder: Path) -> None:
    job = job_on(folder, "label", mode=st.Online(max_examples=70))
    expected = r"mode.max_examples: expected at most 5\d, in which no example of .*/d comes twice and each class has"
    with pytest.raises(ConfigError, match=expected):
        plan(job)


def test_a_data_set_behind_a_url(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("streamtrain.stream.whole.weighing.data_folder", lambda url: None)
    with pytest.raises(ConfigError, match=r"data.balance: expected a data set in a folder, found .*; copy it"):
        plan(job_on(folder, "label"))


@pytest.mark.parametrize("given", ["label", ("label",), 3])
def test_declared_as_something_else(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"data.balance: expected st.Balanced\(…\), found "):
        st.Data("d", balance=given)
    with pytest.raises(ConfigError, match="st.Balanced, field: expected "):
        st.Balanced(given if given == 3 else "")


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("weight", r"data.balance, weights: expected a field 'weight' in .*/d, found .*label.*; name one of these"),
        ("x", r"data.balance, weights, field 'x': expected one number an example, found float32 of shape \(4,\); "),
        ("none", r"data.balance, weights, field 'none': expected a weight above 0, found only 0; name another field"),
        ("negative", r"data.balance, weights, field 'negative': expected weights that are finite and not below 0, "
            r"found -1 in .*/train/0.*, example '0.*'; correct it and 79 more, and pack again"),
    ],
)  # fmt: skip
def test_weights_that_are_none(folder: Path, field: str, line: str) -> None:
    data = st.Data(str(folder), inputs=("x",), balance=st.Balanced(weights=field))
    with pytest.raises(ConfigError, match=f"^{line}") as refused:
        plan(st.Job(data, linear, batch_size=8))
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_no_number(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """`pack` takes none; other people's shards may have one."""
    pieces = [(np.arange(80), np.where(np.arange(80) == 7, np.nan, 1.0))]
    monkeypatch.setattr("streamtrain.stream.whole.weighing.pieces_of", lambda reader, name: pieces)
    data = st.Data(str(folder), inputs=("x",), balance=st.Balanced(weights="none"))
    expected = "weights that are finite and not below 0, found nan in .*, example '0+7'; correct it, and pack again"
    with pytest.raises(ConfigError, match=expected):
        plan(st.Job(data, linear, batch_size=8))


def test_weights_of_any_size_have_a_sum(folder: Path) -> None:
    data = st.Data(str(folder), inputs=("x",), balance=st.Balanced(weights="huge"))
    parts = plan(st.Job(data, linear, batch_size=8)).parts
    assert isinstance(parts, Weights) and np.allclose(parts.expected, 1)


def test_online_takes_no_weights() -> None:
    data = st.Data("d", balance=st.Balanced(weights="w"))
    with pytest.raises(ConfigError, match=r"^mode: expected st.Epochs\(…\) beside data.balance by weights, fo"):
        st.Job(data, linear, mode=st.Online())


@pytest.mark.parametrize("given", [{}, {"field": ""}, {"field": "label", "weights": "w"}, {"weights": ""}])
def test_one_field_is_named(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="^st.Balanced, field: expected a field's name, or weights, found "):
        st.Balanced(**given)


def test_it_is_one_flag() -> None:
    job = st.Job(st.Data("d"), linear)
    assert parse(st.Job, ["--data.balance", "weights=w"], "train", "", job).data.balance == st.Balanced(weights="w")
    assert parse(st.Job, ["--data.balance", "label"], "train", "", job).data.balance == st.Balanced("label")
    assert str(st.Balanced(weights="w")) == "weights=w" and str(st.Balanced("label")) == "label"
