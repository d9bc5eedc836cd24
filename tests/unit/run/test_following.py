"""Online over data that grows while the run lasts: each example once, the same bits as if all had been there."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import streamtrain as st
from streamtrain.errors import Interrupted
from streamtrain.prepare.plan import grown, plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.watching import following
from streamtrain.shards import Manifest, Split, read_manifest
from streamtrain.shards.manifest import write_manifest
from streamtrain.shards.shard_list import ShardList, shard_name
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet, run
from tests.unit.run.test_controller import model, scaled


def grow(folder: Path, examples: int, seed: int) -> Manifest:
    """Adds a segment as `pack --append` does; keys stay those of the digits."""
    old = read_manifest(folder)
    more = pack_digits(folder.parent / f"more{seed}", st.PackOptions(seed=seed, shard_examples=90), examples=examples)
    splits = {}
    for name, split in old.splits.items():
        shards = ShardList(split.shards)
        for shard in more.splits[name].shards:
            file = shard_name(name, len(shards))
            shutil.copy(folder.parent / f"more{seed}" / shard.file, folder / file)
            shards.append(dataclasses.replace(shard, file=file))
        splits[name] = Split(shards, split.class_counts)
    manifest = dataclasses.replace(old, splits=splits, segments=(*old.segments, *more.segments))
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits", st.PackOptions(seed=3, shard_examples=100), examples=400)
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    mode = st.Online(follow=True, idle_timeout=0.0, window=100)
    return st.Job(data, model, optimizer=st.SGD(lr=0.1, momentum=0.9), batch_size=30, lanes=3, seed=1, mode=mode)


def test_promise_7_segments_are_used_once_as_they_come(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = iter([(300, 11), (201, 12)])
    wait = following.wait_for_growth

    def arrive_then_wait(*arguments: object) -> object:
        for examples, seed in arrivals:
            grow(tmp_path / "digits", examples, seed)
            break
        return wait(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("streamtrain.run.controller.wait_for_growth", arrive_then_wait)
    result, fleet = run(job, tmp_path)
    assert result.stop_reason == "no new segment in 0 s" and result.examples_used == 320 + 240 + 161
    assert [update.loss.count for update in fleet.updates] == [30] * 10 + [20] + [30] * 8 + [30] * 5 + [11]
    assert [e.generalization.loss.count for e in result.evaluations][-1] == 40 + 30 + 20, "on all that is held out"
    monkeypatch.undo()
    at_once, _ = run(job, tmp_path)
    assert at_once.examples_used == result.examples_used
    for name, parameter in result.parameters.items():
        assert torch.equal(parameter, at_once.parameters[name]), "the same bits as if all had been there"


def test_another_data_set_in_its_place_is_refused(job: st.Job, tmp_path: Path) -> None:
    began = plan(job)
    assert grown(began) is None
    shutil.rmtree(tmp_path / "digits")
    pack_digits(tmp_path / "digits", st.PackOptions(seed=4), examples=500)
    with pytest.raises(st.ManifestError, match="expected the data set that the run began with, and more segments"):
        grown(began)


def test_the_wait_ends_after_the_timeout(job: st.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(following.time, "monotonic", lambda: float(next(clock)))
    slept: list[float] = []
    monkeypatch.setattr(following.time, "sleep", slept.append)
    assert following.wait_for_growth(plan(job), 5.0, Terminal(quiet=True), lambda: None) is None
    assert slept == [0.5] * 4


def test_a_run_that_waits_can_be_stopped(job: st.Job, tmp_path: Path) -> None:
    files = CheckpointFiles(str(tmp_path / "kept"), 1, lambda _: None)
    keeper = Keeper(job, {}, files)

    waiting = following.wait_for_growth

    def ask_then_wait(*arguments: object) -> object:
        keeper.ask_to_stop("stopped by a test")
        return waiting(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrain.run.controller.wait_for_growth", ask_then_wait)
        with pytest.raises(Interrupted, match="stopped by a test after step"):
            run(job, tmp_path, keeper=keeper)
    newest = files.newest()
    assert newest is not None and newest.step == 11, "all that was there is used"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda job: dataclasses.replace(job.mode, max_examples=10),
            "mode.max_examples: expected none with mode.follow",
        ),
        (lambda job: dataclasses.replace(job.mode, idle_timeout=-1.0), "mode.idle_timeout: expected a finite number"),
        (
            lambda job: dataclasses.replace(job, schedule=st.Schedule("cosine")),
            "schedule.kind: expected one without an end, found 'cosine'; use a schedule that needs no last step",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(job: st.Job, change: object, message: str) -> None:
    with pytest.raises(st.ConfigError, match=message):
        change(job)  # type: ignore[operator]


def test_foreign_shards_do_not_grow(job: st.Job, tmp_path: Path) -> None:
    (tmp_path / "digits" / "manifest.json").unlink()
    with pytest.raises(st.ConfigError, match="mode.follow: expected a data set that pack made, found foreign shards"):
        plan(job)


def test_the_measured_part_is_the_same_however_large_later_segments_are(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrain.prepare.plan.LEAST_MEASURED", 1)
    before = plan(job)
    assert 1 < before.held_out() < before.held_out(whole=True)
    for examples, seed in ((900, 11), (20, 12)):
        grow(tmp_path / "digits", examples, seed)
        assert plan(job).held_out() == before.held_out()


def test_a_streamed_run_follows_too(job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streamer starts anew from the present step."""
    from streamtrain.run.fleet.processes.lane_streamer import WorkersStreamer

    class Streamed(PlainFleet):
        def extend(self, grown_plan: object, step: int) -> None:
            self.streamer = WorkersStreamer(grown_plan)  # type: ignore[arg-type]
            self.worker.extend(grown_plan, [self.streamer.stream(range(3), step)])  # type: ignore[arg-type]

    grow_once = iter([(300, 11)])
    wait = following.wait_for_growth

    def arrive_then_wait(*arguments: object) -> object:
        for examples, seed in grow_once:
            grow(tmp_path / "digits", examples, seed)
        return wait(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("streamtrain.run.controller.wait_for_growth", arrive_then_wait)
    began = plan(job)
    fleet = Streamed(began)
    result = Controller(began, fleet, NoTracker(), Terminal(quiet=True), tmp_path, Keeper(job, {})).run()
    fleet.streamer.stop()
    expected, _ = run(job, tmp_path)
    assert all(torch.equal(result.parameters[name], tensor) for name, tensor in expected.parameters.items())
