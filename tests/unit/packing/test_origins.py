"""Where every example came from, and examples that could not be taken: named all at once, or left out and listed."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as hs

import streamtrain as st
from streamtrain.errors import ConfigError, ManifestError, SourceError
from streamtrain.inspect.card import inspect_dataset
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.shuffling.runs.bad_examples import RefusedExamples
from streamtrain.shards.origins import OriginLog, read_origins, write_origins
from tests.support.packing import AnyOrder, files
from tests.unit.packing.test_sources import png

ALL_TRAIN = PackOptions(splits=(1.0, 0.0, 0.0))


def photos(root: Path, bad: tuple[str, ...] = ()) -> Path:
    for at in range(40):
        file = root / ("cat", "dog")[at % 2] / f"photo {at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image" if file.stem.split()[1] in bad else png(np.full((4, 5, 3), at, np.uint8)))
    return root


def test_inspect_names_the_file_and_finds_an_example_by_it(tmp_path: Path) -> None:
    pack(photos(tmp_path / "photos"), tmp_path / "packed", PackOptions(splits=(0.5, 0.25, 0.25)))
    for at in range(40):
        name = f"{('cat', 'dog')[at % 2]}/photo {at}.png"
        found = inspect_dataset(str(tmp_path / "packed"), key=name)
        assert found["example"]["source"] == f"photos/{name}" == found["way"]["source"]
        split, number = found["example"]["split"], found["way"]["number_in_split"]
        assert st.open(tmp_path / "packed", split)[number]["image"][0, 0, 0] == at
        key = found["example"]["key"]
        assert inspect_dataset(str(tmp_path / "packed"), key=key)["way"]["source"] == f"photos/{name}"
    with pytest.raises(
        ConfigError, match=r"expected a key of .*, or a place in its source, e.g. 'photos/cat/photo 0.p"
    ):
        inspect_dataset(str(tmp_path / "packed"), key="cat/none.png")


def test_rows_of_tables_and_of_segments(tmp_path: Path) -> None:
    for name in ("a", "b"):
        values = np.arange(100.0) + 100 * (name == "b")
        pyarrow.parquet.write_table(pa.table({"x": values}), tmp_path / f"{name}.parquet")
    pack(tmp_path / "a.parquet", tmp_path / "packed")
    append(tmp_path / "b.parquet", tmp_path / "packed")
    for name, row in (("a", 0), ("a", 99), ("b", 0), ("b", 57)):
        found = inspect_dataset(str(tmp_path / "packed"), key=f"{name}.parquet, row {row}")
        split, number = found["example"]["split"], found["way"]["number_in_split"]
        value = st.open(tmp_path / "packed", split)[number]["features"][0]
        assert value == row + 100 * (name == "b")


def test_rows_that_are_left_out_move_no_others_place(tmp_path: Path) -> None:
    values = [None if number % 7 == 3 else float(number) for number in range(200)]
    pyarrow.parquet.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    pack(tmp_path / "a.parquet", tmp_path / "packed", PackOptions(missing="drop"))
    for row in (0, 2, 4, 198):
        found = inspect_dataset(str(tmp_path / "packed"), key=f"a.parquet, row {row}")
        split, number = found["example"]["split"], found["way"]["number_in_split"]
        assert st.open(tmp_path / "packed", split)[number]["features"][0] == row


def test_a_table_takes_some_bytes_and_files_a_few_each(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(100_000))
    pack(tmp_path / "a.npz", tmp_path / "packed")
    assert (tmp_path / "packed/about/000000.examples.gz").stat().st_size < 100
    log = OriginLog()
    for number in range(10_000):
        log.add(f"train/n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG", 5)
    write_origins(tmp_path / "many.gz", [log.done()], "")
    assert (tmp_path / "many.gz").stat().st_size < 20 * 10_000


@settings(max_examples=100)
@given(
    hs.lists(hs.tuples(hs.sampled_from(["a, row ", "b/", "", "x0", "row 1"]), hs.integers(0, 12)), min_size=1),
    hs.data(),
)
def test_any_cut_gives_the_same_bytes_and_every_place_comes_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int]], data: hs.DataObject
) -> None:
    places = [f"{prefix}{number}" for prefix, number in parts]
    codes = data.draw(hs.lists(hs.integers(0, 5), min_size=len(places), max_size=len(places)))
    cut = data.draw(hs.integers(0, len(places)))
    folder = tmp_path_factory.mktemp("origins")
    logs = []
    for piece in (slice(0, None), slice(0, cut), slice(cut, None)):
        log = OriginLog()
        for place, code in zip(places[piece], codes[piece], strict=True):
            log.add(place, code)
        logs.append(log.done())
    write_origins(folder / "one", logs[:1], "")
    write_origins(folder / "two", logs[1:], "")
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()
    found = read_origins((folder / "one").read_bytes(), "one")
    assert [found.place(number) for number in range(len(places))] == places
    assert np.repeat(found.codes, found.counts).tolist() == codes
    for place in places:
        number = found.find(place)
        assert number is not None and found.place(number).endswith(place)


@pytest.mark.parametrize(
    "lines", [b"[1, 2]\n", b'[0, 0, "a"]\n', b'[1, 9, "a"]\n', b'{"a": 1}\n', b'["1", 0, "a"]\n', b"no json\n", None]
)
def test_damaged_lists_are_refused_in_one_line(lines: bytes | None) -> None:
    with pytest.raises(ManifestError, match="about/0: expected a list of origins"):
        read_origins(b"no gzip" if lines is None else gzip.compress(lines), "about/0")


BAD = ("3", "8", "21")


def test_all_bad_examples_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        pack(photos(tmp_path / "photos", BAD), tmp_path / "packed", ALL_TRAIN)
    message = str(raised.value)
    assert "found 3 that cannot" in message and "set --on-bad-example skip" in message
    assert all(f"photo {number}.png" in message for number in BAD) and "\n" not in message
    assert not (tmp_path / "packed").exists()


def test_more_bad_examples_than_a_line_holds_are_all_listed(tmp_path: Path) -> None:
    none = photos(tmp_path / "none", tuple(map(str, range(40))))
    listed = tmp_path / "packed.bad_examples.jsonl"
    with pytest.raises(SourceError, match=rf"found 40 that cannot: .* and 20 more, all of them listed in {listed}; "):
        pack(none, tmp_path / "packed", ALL_TRAIN)
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len({line["example"] for line in lines}) == 40 and not (tmp_path / "packed").exists()
    error = RefusedExamples([("a", "a: expected 1, found 2; do")] * 30, more=True, listed="file")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.bad == error.bad
    pack(photos(tmp_path / "repaired", ()), tmp_path / "packed", ALL_TRAIN)
    assert not listed.exists(), "the list is of what was refused last"


def test_keys_that_only_look_counted_stay_what_they_are(tmp_path: Path) -> None:
    """The first and the last fit numbers in a row, the one between them does not."""
    keys = ("k1", "k15", "k3")
    (tmp_path / "source").mkdir()
    with webdataset.TarWriter(str(tmp_path / "source" / "a.tar")) as tar:
        for number, key in enumerate(keys):
            tar.write({"__key__": key, "cls": number})
    pack(tmp_path / "source", tmp_path / "packed", ALL_TRAIN)
    origins = read_origins((tmp_path / "packed/about/000000.examples.gz").read_bytes(), "a")
    places = [origins.place(number) for number in range(3)]
    assert [place.rpartition("k")[2].strip("'") for place in places] == ["1", "15", "3"]


@pytest.mark.parametrize("bad", [BAD, ("0", "1")])
def test_bad_examples_are_left_out_and_listed(bad: tuple[str, ...], tmp_path: Path) -> None:
    options = PackOptions(splits=(1.0, 0.0, 0.0), on_bad_example="skip", seed=2)
    manifest = pack(photos(tmp_path / "photos", bad), tmp_path / "packed", options)
    good = [at for at in range(40) if str(at) not in bad]
    assert manifest.examples == len(good)
    found = st.open(tmp_path / "packed")[:]
    assert sorted(found["image"][:, 0, 0, 0].tolist()) == good
    assert manifest.splits["train"].class_counts == {of: sum(at % 2 == of for at in good) for of in (0, 1)}
    listed = [json.loads(line) for line in (tmp_path / "packed/about/000000.left_out.jsonl").read_text().splitlines()]
    assert {line["example"].rpartition(" ")[2] for line in listed} == {f"{number}.png" for number in bad}
    assert all("expected a readable" in line["reason"] for line in listed)
    for at in good[:6]:
        place = inspect_dataset(str(tmp_path / "packed"), key=f"{('cat', 'dog')[at % 2]}/photo {at}.png")
        assert found["image"][place["way"]["number_in_split"], 0, 0, 0] == at
    several = PackOptions(splits=(1.0, 0.0, 0.0), on_bad_example="skip", seed=2, tasks=3, memory_bytes=1 << 10)
    pack(tmp_path / "photos", tmp_path / "several", several, spread=AnyOrder(1))
    assert files(tmp_path / "several") == files(tmp_path / "packed")


def test_bad_rows_of_arrays_are_left_out(tmp_path: Path) -> None:
    values = np.arange(300.0).reshape(100, 3)
    values[[7, 50, 51], 1] = np.nan
    np.savez(tmp_path / "a.npz", x=values, label=np.arange(100))
    with pytest.raises(SourceError, match="found 3 that cannot: .*example 7.*example 50.*example 51"):
        pack(tmp_path / "a.npz", tmp_path / "packed", ALL_TRAIN)
    for name, blocks in (("one", False), ("blocks", True)):
        options = PackOptions(splits=(1.0, 0.0, 0.0), on_bad_example="skip", blocks=blocks)
        manifest = pack(tmp_path / "a.npz", tmp_path / name, options)
        found = st.open(tmp_path / name)[:]
        assert sorted(found["label"].tolist()) == [n for n in range(100) if n not in (7, 50, 51)]
        assert np.array_equal(found["x"], values[found["label"]]) and manifest.examples == 97
        assert inspect_dataset(str(tmp_path / name), key="a.npz, example 52")["way"]["source_example"] == 52


def test_an_example_that_was_left_out_is_said_to_be(tmp_path: Path) -> None:
    pack(photos(tmp_path / "photos", BAD), tmp_path / "packed", PackOptions(on_bad_example="skip"))
    with pytest.raises(ManifestError, match="dog/photo 3.png: expected an example, found one that was left out"):
        inspect_dataset(str(tmp_path / "packed"), key="dog/photo 3.png")
