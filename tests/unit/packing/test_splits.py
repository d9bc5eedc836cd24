"""Splits as they are given, and made by group, time, class and content; every one a uniform permutation in itself."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from PIL import Image

import streamtrain as st
from streamtrain.errors import ConfigError, SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.report import read_report, report_file
from streamtrain.packing.sources.source import Source
from streamtrain.packing.splitting import Assigned, assigned
from streamtrain.shards.manifest import SPLITS
from streamtrain.shards.stored_order import order_of, sort_keys
from tests.support.packing import AnyOrder, files

datasets.disable_progress_bars()


def numbers(folder: Path, split: str, field: str = "x") -> list[int]:
    """One field of a split in stored order; nothing where there is no such split."""
    if not (folder / split).is_dir():
        return []
    return np.asarray(st.open(folder, split)[:][field]).reshape(-1).astype(int).tolist()


def picture(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), value).save(file)


def in_splits(root: Path, names: tuple[str, str, str] = ("train", "val", "test")) -> Path:
    for at, (split, name, number) in enumerate(itertools.product(names, ("cat", "dog"), range(4))):
        picture(root / split / name / f"{number}.png", at)
    return root


def table(file: Path, rows: int = 600) -> pa.Table:
    random = np.random.default_rng(1)
    made = pa.table(
        {
            "x": np.arange(rows, dtype=np.float32),
            "customer": [f"c{number}" for number in random.integers(0, 60, rows)],
            "time": random.permutation(rows).astype("datetime64[s]"),
            "label": np.minimum(random.geometric(0.4, rows) - 1, 4),
            "part": [("train", "valid", "test")[number] for number in random.integers(0, 3, rows)],
        }
    )
    pyarrow.parquet.write_table(made, file, row_group_size=100)
    return made


def test_folders_named_as_splits_are_splits(tmp_path: Path) -> None:
    for names in (("train", "val", "test"), ("Training", "Dev", "TEST")):
        place = tmp_path / names[0]
        manifest = pack(in_splits(place / "raw", names), place / "packed")
        assert manifest.field_named("label").classes == ("cat", "dog")
        assert {name: split.examples for name, split in manifest.splits.items()} == dict.fromkeys(SPLITS, 8)
        for at, split in enumerate(SPLITS):
            images = st.open(place / "packed", split)[:]["image"].reshape(8, -1)[:, 0]
            assert sorted(images.tolist()) == list(range(8 * at, 8 * at + 8))
            assert manifest.splits[split].class_counts == {0: 4, 1: 4}


def test_a_split_is_a_uniform_permutation_the_same_for_any_tasks_and_memory(tmp_path: Path) -> None:
    source = in_splits(tmp_path / "raw")
    one = files(pack(source, tmp_path / "one", PackOptions(seed=5)) and tmp_path / "one")
    several = PackOptions(seed=5, tasks=3, memory_bytes=1 << 10)
    pack(source, tmp_path / "several", several, spread=AnyOrder(0))
    assert files(tmp_path / "several") == one
    splits = np.repeat(np.array([0, 1, 2], np.uint8), 8)[np.argsort(np.repeat(["train", "val", "test"], 8).argsort())]
    given = np.array([2] * 8 + [0] * 8 + [1] * 8, np.uint8)  # the source's order: test, train, val
    order = order_of(sort_keys(5, 0, 24, given))
    values = np.concatenate([np.arange(16, 24), np.arange(16)])[order]
    images = [st.open(tmp_path / "one", split)[:]["image"].reshape(8, -1)[:, 0] for split in SPLITS]
    assert np.concatenate(images).tolist() == values.tolist() and len(splits) == 24


def test_fractions_join_the_splits_of_a_source(tmp_path: Path) -> None:
    manifest = pack(in_splits(tmp_path / "raw"), tmp_path / "packed", PackOptions(splits=(0.75, 0.0, 0.25)))
    assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 18, "test": 6}


def test_splits_of_hugging_face_stay(tmp_path: Path) -> None:
    parts = {"train": range(20), "validation": range(20, 25), "test": range(25, 35)}
    made = {name: datasets.Dataset.from_dict({"x": [float(n) for n in part]}) for name, part in parts.items()}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "raw")
    pack(tmp_path / "raw", tmp_path / "packed")
    assert {split: sorted(numbers(tmp_path / "packed", split, "features")) for split in SPLITS} == {
        name: list(part) for name, part in parts.items()
    }
    pack(f"{tmp_path}/raw#train,test=validation", tmp_path / "some")
    assert sorted(numbers(tmp_path / "some", "validation", "features")) == list(range(25, 35))
    assert not (tmp_path / "some/test").exists()
    with pytest.raises(SourceError, match=r"expected splits called train, validation or test, found extra; say what"):
        pack(f"{tmp_path}/raw#train,test=extra", tmp_path / "none")
    with pytest.raises(SourceError, match="expected a split 'dev', found train, validation, test"):
        pack(f"{tmp_path}/raw#dev", tmp_path / "none")


@pytest.mark.parametrize("layout", ["train.csv valid.csv test.csv", "train/0.csv valid/0.csv test/0.csv"])
def test_splits_of_files_of_tables_stay(layout: str, tmp_path: Path) -> None:
    for at, name in enumerate(layout.split()):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.csv.write_csv(pa.table({"x": np.arange(10.0) + 10 * at}), tmp_path / "raw" / name)
    pack(tmp_path / "raw", tmp_path / "packed")
    for at, split in enumerate(SPLITS):
        assert sorted(numbers(tmp_path / "packed", split, "features")) == list(range(10 * at, 10 * at + 10))


def test_a_column_names_the_splits(tmp_path: Path) -> None:
    rows = table(tmp_path / "a.parquet")
    manifest = pack(
        tmp_path / "a.parquet", tmp_path / "packed", PackOptions(split_column="part", columns=("x", "part"))
    )
    wanted = defaultdict(list)
    for x, part in zip(rows["x"].to_pylist(), rows["part"].to_pylist(), strict=True):
        wanted["validation" if part == "valid" else part].append(int(x))
    assert {split: sorted(numbers(tmp_path / "packed", split, "features")) for split in SPLITS} == wanted
    assert manifest.field_named("part") is None
    report = read_report((tmp_path / "packed" / report_file(0)).read_bytes(), "report")
    assert {c.became for c in report.columns if c.name == "part"} == {"names each row's split (--split-column)"}
    with pytest.raises(SourceError, match="column 'customer': expected names of splits"):
        pack(tmp_path / "a.parquet", tmp_path / "none", PackOptions(split_column="customer"))


def found_in(tmp_path: Path, options: PackOptions, rows: int = 600) -> tuple[pa.Table, dict[str, list[int]]]:
    made = table(tmp_path / "a.parquet", rows)
    pack(tmp_path / "a.parquet", tmp_path / "packed", dataclasses.replace(options, columns=("x",)))
    found = {split: numbers(tmp_path / "packed", split, "features") for split in SPLITS}
    assert sorted(number for part in found.values() for number in part) == list(range(rows)), "none is lost"
    return made, found


def test_groups_are_whole_in_one_split(tmp_path: Path) -> None:
    rows, found = found_in(tmp_path, PackOptions(group="customer"))
    customers = rows["customer"].to_pylist()
    of_split = [{customers[number] for number in found[split]} for split in SPLITS]
    assert sum(map(len, of_split)) == len(set(customers)) and all(of_split)
    largest = max(Counter(customers).values())
    for split, fraction in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(found[split]) - fraction * 600) <= largest


def test_the_latest_are_held_out(tmp_path: Path) -> None:
    rows, found = found_in(tmp_path, PackOptions(by="time"))
    times = np.array(rows["time"].cast(pa.int64()))
    train, validation, test = (times[found[split]] for split in SPLITS)
    assert train.max() < validation.min() and validation.max() < test.min()
    assert [len(part) for part in (train, validation, test)] == [480, 60, 60]
    assert not (np.diff(train) > 0).all(), "shuffled all the same"


def test_every_class_has_its_share(tmp_path: Path) -> None:
    rows, found = found_in(tmp_path, PackOptions(stratify="label"))
    labels = rows["label"].to_pylist()
    for split, fraction in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        counts = Counter(labels[number] for number in found[split])
        for label, count in Counter(labels).items():
            assert abs(counts[label] - fraction * count) <= 1.5, (split, label)


@settings(max_examples=200)
@given(
    hs.lists(hs.integers(0, 5), min_size=8, max_size=80),
    hs.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0), (0.6, 0.3, 0.1)]),
)
def test_shares_over_many_cases(labels: list[int], fractions: tuple[float, float, float]) -> None:
    examples = [("", {"x": 1.0, "label": label}) for label in labels]
    source = Source("s", lambda start: iter(examples[start:]), len(labels), "label")
    try:
        found = assigned(source, PackOptions(splits=fractions, stratify="label"))
    except SourceError as error:
        assert "at least one example for" in str(error)
        return
    assert isinstance(found, Assigned) and len(found.splits) == len(labels)
    for split, fraction in enumerate(fractions):
        assert fraction > 0 or not (found.splits == split).any()
        assert abs(int((found.splits == split).sum()) - fraction * len(labels)) <= 2
        for label in set(labels):
            count = sum(1 for at, each in enumerate(labels) if each == label and found.splits[at] == split)
            assert abs(count - fraction * labels.count(label)) <= 2


def twice(tmp_path: Path) -> Path:
    """300 rows, of which 100 come twice, with another label."""
    values = np.concatenate([np.arange(200.0), np.arange(100.0)])
    np.savez(tmp_path / "a.npz", x=np.stack([values, values], 1), label=np.arange(300) % 7)
    return tmp_path / "a.npz"


def test_equal_examples_stay_together(tmp_path: Path) -> None:
    pack(twice(tmp_path), tmp_path / "packed", PackOptions(unique="together"))
    found = [set(numbers(tmp_path / "packed", split)) for split in SPLITS]
    assert not any(one & other for one, other in itertools.combinations(found, 2))
    assert sum(len(numbers(tmp_path / "packed", split)) for split in SPLITS) == 600


def test_equal_examples_are_taken_once(tmp_path: Path) -> None:
    manifest = pack(twice(tmp_path), tmp_path / "packed", PackOptions(unique="once"))
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 160,
        "validation": 20,
        "test": 20,
    }
    found = [number for split in SPLITS for number in numbers(tmp_path / "packed", split)]
    assert sorted(found) == sorted([*range(200), *range(200)])
    labels = [int(label) for split in SPLITS for label in st.open(tmp_path / "packed", split)[:]["label"]]
    assert [label for label, x in zip(labels, found[::2], strict=True) if label != x % 7] == [], "the first of them"


def test_a_test_set_is_added(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 100)):
        np.savez(tmp_path / f"{name}.npz", x=np.arange(start, start + 100))
    pack(tmp_path / "a.npz", tmp_path / "packed", PackOptions(splits=(0.9, 0.1, 0.0)))
    grown = append(tmp_path / "b.npz", tmp_path / "packed", PackOptions(splits=(0.0, 0.0, 1.0)))
    assert {name: split.examples for name, split in grown.splits.items()} == {
        "train": 90,
        "validation": 10,
        "test": 100,
    }
    assert sorted(numbers(tmp_path / "packed", "test")) == list(range(100, 200))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"group": "customer", "by": "time"}, "expected one way to split, found group and by"),
        (
            {"split_column": "part", "splits": (0.8, 0.2, 0.0)},
            "expected one way to split, found split_column and splits",
        ),
        ({"group": "customer", "unique": "together"}, "expected one way to split, found group and unique together"),
    ],
)
def test_ways_that_do_not_go_together(options: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        PackOptions(**options)


def test_ways_beside_given_splits_and_columns_that_are_not_there(tmp_path: Path) -> None:
    source = in_splits(tmp_path / "raw")
    with pytest.raises(ConfigError, match="expected the source's own, found another way as well; set --splits too"):
        pack(source, tmp_path / "none", PackOptions(stratify="label"))
    table(tmp_path / "a.parquet")
    for options in (PackOptions(group="nobody"), PackOptions(by="nobody")):
        with pytest.raises(SourceError, match="expected a column 'nobody'"):
            pack(tmp_path / "a.parquet", tmp_path / "none", options)
    with pytest.raises(SourceError, match="column 'customer': expected times or numbers, found other texts"):
        pack(tmp_path / "a.parquet", tmp_path / "none", PackOptions(by="customer"))
