"""Mixtures that cannot be are refused before anything starts, in one line that names the data set."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.cli.flags import parse
from streamtrain.errors import ConfigError, DataError
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.stream.whole.mixed import Source, names_of


def linear() -> torch.nn.Module:
    return torch.nn.Linear(4, 2)


def packed(folder: Path, splits: tuple[float, float, float] = (0.8, 0.1, 0.1), **fields: Any) -> Path:
    arrays = {"x": np.zeros((60, 4), np.float32), "label": np.arange(60) % 2, **fields}
    folder.parent.mkdir(parents=True, exist_ok=True)
    np.savez(folder.with_suffix(".npz"), **{name: array for name, array in arrays.items() if array is not None})
    pack(str(folder.with_suffix(".npz")), folder, PackOptions(splits, seed=1, blocks=True))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    packed(folder / "a")
    packed(folder / "wide", x=np.zeros((60, 5), np.float32))
    packed(folder / "double", x=np.zeros((60, 4)))
    packed(folder / "unlabelled", label=None)
    packed(folder / "more", also=np.zeros((60, 3), np.float32))
    packed(folder / "unheld", (1, 0, 0))
    return folder


def job_on(*folders: Path, data: dict[str, Any] | None = None, **settings: Any) -> st.Job:
    mixture = st.Mixture({str(each): 1 / len(folders) for each in folders})
    return st.Job(st.Data(mixture, inputs=("x",), **(data or {})), linear, batch_size=8, **settings)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("wide", r"st.Mixture, .*/wide, field 'x': expected shape \(4,\) as in .*/a, found shape \(5,\); pack them"),
        ("double", r"st.Mixture, .*/double, field 'x': expected dtype float32 as in .*/a, found dtype float64; pack"),
        ("unlabelled", r"st.Mixture, .*/unlabelled: expected a field 'label' as in .*/a, found none; leave the field"),
        ("unheld", r"st.Mixture: expected examples in the validation split of .*/unheld, found train 60; pack it with"),
    ],
)
def test_parts_that_do_not_go_together(folder: Path, name: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refused:
        plan(job_on(folder / "a", folder / name))
    assert "\n" not in str(refused.value)


def test_a_field_that_only_a_later_part_has(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"st.Mixture, .*/unlabelled: expected a field 'label', found x; leave"):
        plan(job_on(folder / "unlabelled", folder / "a"))


def test_fields_that_nobody_asks_for_may_differ(folder: Path) -> None:
    plans = plan(job_on(folder / "a", folder / "more"))
    assert [field.name for field in plans.manifest.fields] == ["label", "x"]
    with pytest.raises(ConfigError, match=r"st.Mixture, .*/a: expected a field 'also' as in .*/more, found none"):
        plan(job_on(folder / "more", folder / "a", data={"extra": ("also",)}))


def test_classes_of_other_names(tmp_path: Path) -> None:
    from PIL import Image

    for part, names in (("a", ("cat", "dog")), ("b", ("dog", "owl"))):
        for name in names:
            (tmp_path / f"raw-{part}" / name).mkdir(parents=True)
            for index in range(20):
                Image.new("L", (4, 4), index).save(tmp_path / f"raw-{part}" / name / f"{index}.png")
        pack(str(tmp_path / f"raw-{part}"), tmp_path / part, PackOptions(seed=1))
    mixture = st.Mixture({str(tmp_path / "a"): 0.5, str(tmp_path / "b"): 0.5})
    expected = (
        r"st.Mixture, .*/b, field 'label': expected classes cat, dog as in .*/a, found classes dog, owl; pack them"
    )
    with pytest.raises(ConfigError, match=expected):
        plan(st.Job(st.Data(mixture), linear, batch_size=8))


def test_a_part_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match="nowhere/manifest.json: expected a data set's manifest"):
        plan(job_on(folder / "a", folder / "nowhere"))


def test_a_part_behind_a_url() -> None:
    mixture = st.Mixture({"https://user:secret@host/a": 1.0})
    with pytest.raises(ConfigError, match="expected a data set in a folder, found a URL; copy it") as refused:
        plan(st.Job(st.Data(mixture), linear, batch_size=8))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ({"a": 0.7, "b": 0.2}, "st.Mixture: expected shares that add up to 1, found '0.9'"),
        ({"a": 1.2, "b": -0.2}, "st.Mixture, a: expected a share above 0 and up to 1, found 1.2"),
        ({"a": 1, "b": 0}, "st.Mixture, b: expected a share above 0 and up to 1, found 0"),
        ({"a": float("nan"), "b": 1}, "st.Mixture, a: expected a share above 0 and up to 1, found nan"),
        ({"a": "0.5", "b": 0.5}, "st.Mixture, a: expected a share above 0 and up to 1, found '0.5'"),
        ({"a": 0.123456789, "b": 0.876543211}, "st.Mixture: expected shares with few decimals, or simple fractions"),
        ({}, "st.Mixture: expected shares by data sets, found {}"),
        (["a", "b"], "st.Mixture: expected shares by data sets, found ['a', 'b']"),
        ({"": 1.0}, "st.Mixture: expected folders of data sets, found ''"),
    ],
)
def test_shares_that_are_none(shares: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        st.Mixture(shares)


def test_shares_are_taken_exactly() -> None:
    assert st.Mixture({"a": 0.7, "b": 0.3}).weights == (7, 3)
    assert st.Mixture({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}).weights == (1, 1, 1)
    assert st.Mixture({"a": 0.1, "b": 0.2, "c": 0.7}).weights == (1, 2, 7)
    assert st.Mixture({"a": 0.0001, "b": 0.9999}).weights == (1, 9999)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mode": st.Epochs(reshuffle="shards")}, "mode.reshuffle: expected stored or examples beside st.Mixture"),
        ({"mode": st.Online(follow=True)}, "mode.follow: expected off beside st.Mixture, found True"),
        ({"loss_over": "minibatch"}, "loss_over: expected examples beside st.Mixture, found 'minibatch'"),
        ({"data": {"balance": st.Balanced("label")}}, "data.balance: expected none beside st.Mixture, found Balanced"),
    ],
)
def test_settings_that_do_not_go_with_it(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        job_on(Path("a"), Path("b"), **settings)


def test_online_has_no_more_examples_than_come_once(folder: Path) -> None:
    job = job_on(folder / "a", folder / "more", mode=st.Online(max_examples=97))
    with pytest.raises(ConfigError, match="mode.max_examples: expected at most 96, in which no example of .* comes tw"):
        plan(job)


def test_flags_leave_it_as_declared_or_name_one_data_set(folder: Path) -> None:
    job = job_on(folder / "a", folder / "more")
    assert parse(st.Job, [], "train", "", job).data.url == job.data.url
    assert parse(st.Job, ["--data.url", "one"], "train", "", job).data.url == "one"


def test_parts_have_names_of_their_own() -> None:
    def named(*places: str) -> tuple[str, ...]:
        return names_of([Source(place, Path(place), None) for place in places])  # type: ignore[arg-type]

    assert named("data/web", "data/books") == ("web", "books")
    assert named("x/a", "y/a") == ("a_1", "a_2")
    assert named("x/a", "y/a", "z/a_1") == ("1_a", "2_a", "3_a_1")
