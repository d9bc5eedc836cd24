"""What a run makes of bad examples, orders of later passes, and the user's decoding; without Ray."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.order import select_lanes
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from streamtrain.run.folder import RunFolder
from streamtrain.run.watching.loader_health import LoaderHealth
from streamtrain.values import Loading, Skip
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run
from tests.unit.run.test_controller import model, scaled


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits", st.PackOptions(seed=3, shard_examples=100))
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    return st.Job(data, model, optimizer=st.SGD(lr=0.5), batch_size=50, seed=1, mode=st.Epochs(max_passes=2))


class Kept(Notebook):
    """Keeps artifacts' names too."""

    def artifact(self, file: Path, place: str) -> None:
        self.artifacts = [*getattr(self, "artifacts", []), (place, file)]


def no_nines(example: dict[str, Any]) -> dict[str, Any]:
    if example["label"] == 9:
        raise ValueError("a nine")
    return example


def skipping(job: st.Job, **settings: Any) -> st.Job:
    return dataclasses.replace(job, data=dataclasses.replace(job.data, map=no_nines, on_bad_example="skip", **settings))


def test_bad_examples_are_passed_over_counted_and_listed(job: st.Job, tmp_path: Path) -> None:
    notebook = Kept()
    result, fleet = run(skipping(job, max_bad_examples=300), tmp_path, notebook)
    labels = fleet.worker._plan.reader("train").read(0, 1438)["label"]
    good = len(labels)
    assert good < 1438 and sum(update.loss.count for update in fleet.updates) == 2 * good
    assert result.examples_used == 2 * good
    bad = (1438 - good) + len([skip for (split, _), skip in fleet.skipped().items() if split == "validation"])
    assert notebook.named("loader/skipped")[-1][1] <= bad
    place, file = notebook.artifacts[-1]
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert place == "skipped" and "a nine" in listed[0]["reason"] and "example '" in listed[0]["example"]
    assert 0 < notebook.named("loader/waiting_share")[0][1] < 1
    assert notebook.named("loader/bytes_per_second")[0][1] > 0


class Lossy:
    """Readers of which a worker was lost: a new one counts from nothing."""

    workers = 2

    def __init__(self) -> None:
        self.found = Loading(1.0, 1000, 3), [1, 2, 3]

    def loading(self) -> Loading:
        return self.found[0]

    def skipped(self) -> dict[tuple[str, int], Skip]:
        return {("train", number): Skip(f"example {number}", "bad") for number in self.found[1]}


@pytest.mark.parametrize("after", [Loading(0.5, 500, 2), Loading(0.5, 1500, 2)])
def test_bad_examples_that_a_new_worker_meets_are_listed(job: st.Job, tmp_path: Path, after: Loading) -> None:
    notebook, readers = Kept(), Lossy()
    health = LoaderHealth(plan(job), notebook, RunFolder(tmp_path))
    assert health.look(readers) == (Loading(1.0, 1000, 3), Loading(1.0, 1000, 3))
    health.keep_list()
    assert len(health.skipped) == 3
    readers.found = after, [4, 5]
    assert health.look(readers) == (after, after), "a new worker counts from nothing"
    health.keep_list()
    assert len(health.skipped) == 5 and [file.name for _, file in notebook.artifacts] == [
        "skipped_3.jsonl",
        "skipped_5.jsonl",
    ]
    assert len((tmp_path / "skipped_5.jsonl").read_text().splitlines()) == 5


def test_promise_4_a_short_minibatch_is_the_mean_over_what_it_has(job: st.Job, tmp_path: Path) -> None:
    """Skipping is the same as not having had the examples."""
    one_step = dataclasses.replace(job, mode=st.Online(max_examples=50, evaluate_every=50))
    result, fleet = run(skipping(one_step, max_bad_examples=300), tmp_path)
    arrays = fleet.worker._plan.reader("train").read(0, 50)
    torch.manual_seed(job.seed)
    from streamtrain.model.gradient import build_model

    twin = build_model(job)
    inputs = torch.from_numpy(arrays["image"]).float() / 255
    loss = torch.nn.functional.cross_entropy(twin(inputs), torch.from_numpy(arrays["label"]))
    loss.backward()
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(result.parameters[name], parameter - 0.5 * parameter.grad, atol=1e-6), name


def test_too_many_bad_examples_stop_the_run_by_name(job: st.Job, tmp_path: Path) -> None:
    with pytest.raises(
        st.ShardError, match=r"example '\d+' \(.*\): expected at most 3 bad examples, found \d+ so far;"
    ):
        run(skipping(job, max_bad_examples=3), tmp_path)


def test_a_minibatch_of_bad_examples_only_changes_nothing(job: st.Job, tmp_path: Path) -> None:
    tiny = dataclasses.replace(job, batch_size=1, mode=st.Online(max_examples=60, evaluate_every=60))
    result, fleet = run(skipping(tiny), tmp_path)
    skipped = [update for update in fleet.updates if update.skipped]
    assert skipped and all(update.loss.count == 0 for update in skipped)
    assert result.examples_used == 60 - len(skipped)


@pytest.mark.parametrize("reshuffle", ["shards", "examples"])
def test_promise_3_reshuffled_passes_use_each_example_once(job: st.Job, tmp_path: Path, reshuffle: str) -> None:
    mode = st.Epochs(max_passes=3, reshuffle=reshuffle)  # type: ignore[arg-type]
    reshuffled = dataclasses.replace(job, mode=mode, lanes=2)
    _, fleet = run(reshuffled, tmp_path)
    plan = fleet.worker._plan
    order, reader = plan.order, plan.reader("train")
    chosen = select_lanes(order, plan.pass_orders, range(2), 0, plan.total_steps)
    parts = [reader.select(selection)["image"] for selection in chosen]
    per_pass = len(parts) // 3
    whole = sorted(map(bytes, reader.read(0, 1438)["image"].reshape(1438, -1)))
    orders = []
    for index in range(3):
        images = [bytes(image) for part in parts[index * per_pass : (index + 1) * per_pass] for image in part]
        assert sorted(images) == whole
        orders.append(images)
    assert orders[0] != orders[1] != orders[2]
    assert sum(update.loss.count for update in fleet.updates) == 3 * 1438


def test_text_trains_through_the_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.py").write_text(
        "def examples():\n    for i in range(300):\n        yield {'text': 'ab' * (1 + i % 5), 'label': i % 5}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    st.pack("words:examples", tmp_path / "words")

    def counted(example: dict[str, Any]) -> dict[str, Any]:
        return {"text": torch.eye(5)[len(example["text"]) // 2 - 1].numpy(), "label": example["label"]}

    data = st.Data(str(tmp_path / "words"), inputs=("text",))
    mode = st.Epochs(max_passes=4)
    job = st.Job(data, lambda: torch.nn.Linear(5, 5), mode=mode, optimizer=st.SGD(lr=20.0), batch_size=10)
    with pytest.raises(
        st.ConfigError, match="field 'text': expected arrays of one shape, found text, JSON or bytes; set"
    ):
        preflight(plan(job))
    job = dataclasses.replace(job, data=dataclasses.replace(data, map=counted))
    preflight(plan(job))
    result, _ = run(job, tmp_path)
    assert result.chosen.generalization.error.mean == 0.0
