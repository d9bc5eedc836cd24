"""What `st.Balanced` cannot balance is refused before anything starts, in one line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and what else a field may hold; of the class ``owl`` there is one example, and not in training."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "d.npz", x=rng.normal(size=(100, 4)).astype(np.float32), label=np.arange(100) % 3 // 2,
        one=np.ones(100, np.int64), pair=np.zeros((100, 2), np.int64),
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
    monkeypatch.setattr("streamtrain.prepare.plan.data_folder", lambda url: None)
    with pytest.raises(ConfigError, match=r"data.balance: expected a data set in a folder, found .*; copy it"):
        plan(job_on(folder, "label"))


@pytest.mark.parametrize("given", ["label", ("label",), 3])
def test_declared_as_something_else(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"data.balance: expected st.Balanced\(…\), found "):
        st.Data("d", balance=given)
    with pytest.raises(ConfigError, match="st.Balanced, field: expected "):
        st.Balanced(given if given == 3 else "")
