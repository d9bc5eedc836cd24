"""How much held-out data is looked at, and which: as long as it takes, several sets, early stopping on any number."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from streamtrain.run.checkpoints.resuming import fixed_settings
from streamtrain.shards import Field
from streamtrain.shards.manifest import read_manifest
from streamtrain.stream.whole.held_out import _check_means_the_same
from tests.support.datasets import digits, pack_digits
from tests.support.small_job import digest, job_on, model
from tests.support.whole_sets import Auroc

OFF = st.Tracking(enabled=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of it held out; and beside it noisy ones, as another data set."""
    folder = tmp_path_factory.mktemp("digits")
    pack_digits(folder / "digits", st.PackOptions(seed=3, shard_examples=500, splits=(0.3, 0.6, 0.1)))
    images, labels = digits(600)
    noise = np.random.default_rng(0).integers(0, 120, images.shape)
    np.savez(folder / "noisy.npz", image=np.clip(images + noise, 0, 255).astype(np.uint8), label=labels)
    st.pack(str(folder / "noisy.npz"), folder / "noisy", st.PackOptions(splits=(0.5, 0.25, 0.25)))
    np.savez(folder / "odd.npz", image=np.zeros((40, 9, 9), np.uint8), label=np.arange(40) % 10)
    st.pack(str(folder / "odd.npz"), folder / "odd", st.PackOptions(splits=(0.5, 0.25, 0.25)))
    return folder


def job_of(data: Path, runs: Path, **settings: Any) -> st.Job:
    passes = settings.pop("mode", st.Epochs(max_passes=2))
    return dataclasses.replace(job_on(data / "digits", runs, mode=passes, lanes=4, **settings), tracking=OFF)


def seen(result: st.Result) -> list[str]:
    return [repr(each.__dict__) for each in result.evaluations]


def assert_alike(one: st.Result, other: st.Result) -> None:
    """The same examples were looked at; not to the bit, since with `until` slices go through the model one by one."""
    for mine, its in zip(one.evaluations, other.evaluations, strict=True):
        for found, expected in ((mine.empirical, its.empirical), (mine.generalization, its.generalization)):
            for name, moments in expected.quantities.items():
                assert found.quantities[name].count == moments.count
                assert found.quantities[name].mean == pytest.approx(moments.mean)
                assert found.quantities[name].standard_error == pytest.approx(moments.standard_error)


def test_as_many_as_it_takes_and_the_same_on_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(data, tmp_path, evaluate=st.Evaluate(until=0.018))
    alone = st.train(job, inline=True, quiet=True)
    counts = [each.generalization.error.count for each in alone.evaluations]
    there = plan(job).manifest.splits["validation"].examples
    assert all(500 <= count < there for count in counts), counts
    assert all(each.generalization.error.standard_error <= 0.018 for each in alone.evaluations)
    assert [each.empirical.error.count for each in alone.evaluations] == [min(count, 539) for count in counts]
    two = st.train(job, quiet=True)
    assert seen(alone) == seen(two) and digest(alone.parameters) == digest(two.parameters)
    assert alone.by_class is not None
    assert sum(error.count for error in alone.by_class.errors.values()) == alone.chosen.generalization.error.count
    strict = st.train(job_of(data, tmp_path, evaluate=st.Evaluate(until=1e-9)), inline=True, quiet=True)
    everything = st.Evaluate(examples=there)
    whole = st.train(job_of(data, tmp_path, evaluate=everything), inline=True, quiet=True)
    assert_alike(strict, whole)
    part = job_of(data, tmp_path, evaluate=st.Evaluate(until=1e-9, examples=700))
    fixed = job_of(data, tmp_path, evaluate=st.Evaluate(examples=700))
    assert_alike(st.train(part, inline=True, quiet=True), st.train(fixed, inline=True, quiet=True))


def test_several_sets_are_measured_and_any_number_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    noisy = f"{data / 'noisy'}#test"
    job = job_of(
        data,
        tmp_path,
        evaluate=st.Evaluate(splits=("validation", "test", noisy), every=300),
        metrics={"auroc": Auroc()},
        mode=st.Epochs(max_passes=4, patience=2, stop_on="noisy_test/auroc", highest=True),
    )
    alone = st.train(job, inline=True, quiet=True)
    two = st.train(job, quiet=True)
    assert seen(alone) == seen(two) and digest(alone.parameters) == digest(two.parameters)
    measured = [each.others["noisy_test"].metrics["auroc"].mean for each in alone.evaluations]
    assert alone.chosen is alone.evaluations[int(np.argmax(measured))]
    assert alone.test == alone.chosen.others["test"]
    st.pack(str(data / "noisy.npz"), tmp_path / "again", st.PackOptions(splits=(0.5, 0.25, 0.25)))
    reader = plan(dataclasses.replace(job, data=dataclasses.replace(job.data, url=str(tmp_path / "again")))).reader(
        "test"
    )
    arrays = reader.read(0, len(reader))
    network = model()
    network.load_state_dict(alone.parameters)
    with torch.no_grad():
        output = network.eval()(torch.from_numpy(arrays["image"]).float() / 255)
    wrong = (output.argmax(1).numpy() != arrays["label"]).mean()
    assert alone.chosen.others["noisy_test"].error.mean == pytest.approx(wrong)
    assert "noisy_test" in st.table({"run": alone}) and "lowest of" not in st.table({"run": alone})
    kept = json.loads((alone.folder / "result.json").read_text())
    assert (
        kept["other_risks"]["noisy_test"]["error"] == pytest.approx(wrong) and kept["chosen_by"] == "noisy_test/auroc"
    )


def test_a_number_that_is_no_more_improved_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    mode = st.Epochs(max_passes=30, patience=1, stop_on="loss", min_delta=0.2)
    result = st.train(job_of(data, tmp_path, mode=mode), inline=True, quiet=True)
    assert result.stop_reason.startswith("no better loss in 1 passes; best was pass ") and result.passes < 30


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a split that is not there": (
        {"evaluate": st.Evaluate(splits=("validation", "robust"))},
        "evaluate.splits: expected a split of DATA/digits that has examples: train, validation, test, found robust",
    ),
    "several to choose from": (
        {"evaluate": st.Evaluate(splits=("validation", "DATA/noisy"))},
        "evaluate.splits: expected a split of DATA/noisy that has examples: train, validation, test, found DATA/noisy; "
        "name one of them, as DATA/noisy#train",
    ),
    "a split's name": (
        {"evaluate": st.Evaluate(splits=("validation", "DATA/test"))},
        "evaluate.splits: expected none by the name of a split, as test, found DATA/test; give its folder another name",
    ),
    "another form": (
        {"evaluate": st.Evaluate(splits=("validation", "DATA/odd#test"))},
        "evaluate.splits, DATA/odd, field 'image': expected uint8 of shape (8, 8), as in DATA/digits, "
        "found uint8 of shape (9, 9)",
    ),
    "a part larger than a set": (
        {"evaluate": st.Evaluate(splits=("validation", "DATA/noisy#test"), examples=400)},
        "evaluate.examples: expected at most the 150 noisy_test examples of DATA/noisy, found 400",
    ),
    "a number that nobody measures": (
        {"mode": st.Epochs(stop_on="auroc")},
        "mode.stop_on: expected one of loss, error, soft_error, margin, found auroc",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_before_anything_starts(data: Path, tmp_path: Path, name: str) -> None:
    settings, says = REFUSED[name]
    places = tuple(each.replace("DATA", str(data)) for each in settings.get("evaluate", st.Evaluate()).splits)
    evaluate = dataclasses.replace(settings.get("evaluate", st.Evaluate()), splits=places)
    job = job_of(data, tmp_path, **{**settings, "evaluate": evaluate})
    with pytest.raises(ConfigError) as refused:
        preflight(plan(job))
    assert says.replace("DATA", str(data)) in str(refused.value) and "\n" not in str(refused.value)


DECLARED: dict[str, tuple[Any, str]] = {
    "no validation": (lambda: st.Evaluate(splits=("test",)), "evaluate.splits: expected validation among them"),
    "training": (
        lambda: st.Evaluate(splits=("validation", "train")),
        "evaluate.splits: expected held-out examples only",
    ),
    "one name": (lambda: st.Evaluate(splits=("validation", "a/x", "b/x")), "evaluate.splits: expected each by a name"),
    "no error": (lambda: st.Evaluate(until=0.0), "evaluate.until: expected a finite number above 0"),
    "no set": (
        lambda: st.Job(st.Data("d"), model, mode=st.Epochs(stop_on="night/error")),
        "mode.stop_on: expected one of the sets validation, found 'night'; name it in evaluate.splits too",
    ),
    "the highest error": (
        lambda: st.Epochs(highest=True),
        "mode.highest: expected off with error, of which the lowest",
    ),
    "no name": (lambda: st.Epochs(stop_on="a/b/c"), "mode.stop_on: expected a number's name, or SET/NAME"),
    "a mixture": (
        lambda: st.Job(st.Data(st.Mixture({"a": 0.5, "b": 0.5})), model, evaluate=st.Evaluate(until=0.1)),
        "evaluate.until: expected none of a st.Mixture",
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_does_not_go_together_is_refused_where_it_is_declared(name: str) -> None:
    declare, says = DECLARED[name]
    with pytest.raises(ConfigError) as refused:
        declare()
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("b", "a")}, "field 'label': expected the classes ('a', 'b'), as in here, found ('b', 'a'); pack"),
        ({"unit": "km"}, "expected the unit m, as in here, found km"),
    ],
)
def test_another_set_whose_numbers_mean_something_else_is_refused(changed: dict[str, Any], said: str) -> None:
    """Else its errors would be of other classes, and nothing would show it."""
    field = Field("label", "label.cls", "int64", (), classes=("a", "b"), unit="m")
    with pytest.raises(ConfigError, match=re.escape(said)):
        _check_means_the_same(field, dataclasses.replace(field, **changed), "night, field 'label'", "here")


def test_what_early_stopping_goes_by_stays_as_it_was_at_a_resume(data: Path, tmp_path: Path) -> None:
    """Else the best error so far would be another set's."""

    def fixed(of: str, stop_on: str) -> dict[str, str]:
        sets = st.Evaluate(splits=("validation", f"{data}/{of}"))
        mode = st.Epochs(max_passes=2, stop_on=stop_on)
        return fixed_settings(plan(job_of(data, tmp_path, mode=mode, evaluate=sets)))

    digest_of = read_manifest(data / "noisy").digest
    assert fixed("noisy#test", "noisy_test/error")["mode.stop_on, its data set"] == digest_of
    assert "mode.stop_on, its data set" not in fixed("noisy#test", "error")
