"""What a run tells of itself while it trains: where its time goes, how far it is, what a step looks like inside."""

import dataclasses
import importlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError
from streamtrain.measure.cost import StepParts
from streamtrain.run.fleet.cluster.submitting import reason_in
from streamtrain.run.fleet.processes.clock import Clock
from streamtrain.run.folder import RunFolder
from streamtrain.run.watching.status import LiveStatus, running, status_of
from streamtrain.run.watching.trace import TRACED_STEPS, WARM_STEPS, merged, traced
from streamtrain.values import Reading, StepTimes
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 16}


def job(folder: Path) -> st.Job:
    pack_digits(folder / "digits")
    data = st.Data(str(folder / "digits"), transform=scaled)
    return st.Job(data, lambda: torch.nn.Linear(64, 10), mode=st.Epochs(max_passes=2), batch_size=50)


@pytest.mark.parametrize("aggregation", [st.Synchronous(), st.Stale(bound=0)], ids=["shared", "pool"])
def test_the_parts_of_a_step_are_all_of_its_time(tmp_path: Path, aggregation: st.Synchronous | st.Stale) -> None:
    notebook = Notebook()
    _, fleet = run(dataclasses.replace(job(tmp_path), aggregation=aggregation), tmp_path, notebook)
    times, clock = fleet.times(), fleet.worker._clock
    assert times.steps == len(fleet.updates) == clock.steps
    parts = (times.waiting, times.computing, times.exchanging, times.updating)
    assert min(parts) > 0 and sum(parts) == pytest.approx(clock.training)
    for part in ("waiting", "computing", "exchanging", "updating"):
        assert all(seconds >= 0 for _, seconds in notebook.named(f"step_time/{part}"))
    assert notebook.named("loader/batches_ahead")


def test_points_are_means_since_the_last_ones_and_survive_a_lost_worker() -> None:
    parts = StepParts()

    first = parts.since(StepTimes(10, 1.0, 2.0, 3.0, 4.0, 6))
    assert first["updating"] == 0.4 and parts.waiting_share == 0.1
    assert parts.since(StepTimes(20, 1.0, 12.0, 3.0, 4.0, 6))["computing"] == 1.0 and parts.waiting_share == 0.0
    assert parts.since(StepTimes(5, 1.0, 1.0, 1.0, 1.0, 0))["waiting"] == 0.2  # new workers count from 0


def test_the_clock_takes_the_exchanges_time_also_where_it_fails() -> None:
    clock = Clock()

    def fails() -> None:
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        clock.time_meeting(fails)
    assert clock.meeting > 0


def test_a_profile_is_a_trace_of_a_few_steps_and_changes_no_bit(tmp_path: Path) -> None:
    plain = job(tmp_path)
    result, fleet = run(dataclasses.replace(plain, profile=True), tmp_path)
    expected = run(plain, tmp_path)[0].parameters
    for name, tensor in expected.items():
        assert torch.equal(tensor, result.parameters[name])
    found = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = [event for event in found if event.get("name") == "step" and event.get("cat") == "user_annotation"]
    assert len(steps) == TRACED_STEPS and any(event.get("name") == "aten::linear" for event in found)
    assert next(e["args"]["name"].partition(",")[0] for e in found if e.get("name") == "process_name") == "worker 0"
    assert len(fleet.updates) > WARM_STEPS + TRACED_STEPS


def test_a_run_that_is_too_short_for_a_profile_is_traced_as_far_as_it_goes() -> None:
    kept: list[str] = []

    def updates() -> Iterator[int]:
        yield from range(WARM_STEPS + 2)

    assert list(traced(updates(), kept.append)) == list(range(WARM_STEPS + 2))  # type: ignore[arg-type, comparison-overlap]
    assert len(kept) == 1


def test_traces_of_workers_are_put_on_one_clock_and_told_apart() -> None:
    def trace(base: int, ts: float) -> str:
        events = [{"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "python"}}]
        return json.dumps({"baseTimeNanoseconds": base, "traceEvents": [*events, {"ph": "X", "pid": 7, "ts": ts}]})

    found = json.loads(merged([trace(5_000_000, 1.0), trace(2_000_000, 1.0)]))
    spans = {event["pid"]: event["ts"] for event in found["traceEvents"] if event["ph"] == "X"}
    names = {event["pid"]: event["args"]["name"] for event in found["traceEvents"] if event["ph"] == "M"}
    assert found["baseTimeNanoseconds"] == 2_000_000
    assert {names[pid]: ts for pid, ts in spans.items()} == {"worker 0, 7": 3001.0, "worker 1, 7": 1.0}


def test_a_runs_folder_says_how_far_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits-epochs-1"
    folder.mkdir(parents=True)
    with RunFolder(folder).alone():
        assert str(status_of(folder)).splitlines()[1] == "  before its first steps"
        run(job(tmp_path), folder)
        found = status_of(folder)
        assert running(tmp_path / "runs") == [found]
    assert found.status is not None and found.status.pass_number == found.status.passes == 2
    assert found.status.step == found.status.steps and 0 <= found.status.waiting_share < 1
    first, facts, ago = str(found).splitlines()
    assert first == f"{folder}  running" and ago.endswith("s ago")
    assert facts.startswith(f"  pass 2/2 · step {found.status.steps}/{found.status.steps} · ")
    assert " examples/s · loss " in facts and " · gap " in facts and " ± " in facts and " · 1 worker(s) · " in facts
    assert status_of(folder).state == "stopped" and running(tmp_path / "runs") == []
    (folder / "result.json").write_text("{}")
    assert status_of(folder).state == "finished"
    with pytest.raises(ConfigError, match=r"expected a run's folder, found another folder"):
        status_of(tmp_path)


def test_the_live_line_says_the_gap_once_it_is_known() -> None:
    status = LiveStatus(1, 3, 10, 875, 12663.4, 2, 0.1, 0.5, None, None, 61.0, 0.0)
    assert (
        " · ".join(status.facts) == "pass 1/3 · step 10/875 · 12,663 examples/s · loss 0.5000 · 1 min 01 s left at most"
    )
    assert "gap -0.0100" in dataclasses.replace(status, gap=-0.01, gap_standard_error=0.02).facts


def test_a_clusters_reason_is_the_last_line_that_it_quotes() -> None:
    failed = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nRay\n"
    assert reason_in(failed + "streamtrain train: workers: expected 2\n") == (
        "Job entrypoint command failed with exit code 2: streamtrain train: workers: expected 2"
    )
    assert reason_in("Job is currently\nrunning.") == "Job is currently running."
    assert reason_in("") == ""


def test_points_go_to_all_trackers_and_the_rest_to_the_first(tmp_path: Path) -> None:
    from streamtrain.track.tracker import NoTracker, Trackers

    class Tagged(NoTracker):
        run_id: str | None = "7"
        tags: tuple[str, ...] = ()

        def tag(self, name: str, value: str) -> None:
            self.tags += (name,)

    first, second = Tagged(), Notebook()
    both = Trackers(first, second)
    both.log([Reading("Gap/loss", 0.5, 3, 0.0)])
    both.tag("verdict", "fitting")
    assert both.run_id == "7" and first.tags == ("verdict",) and second.named("Gap/loss") == [(3, 0.5)]


def test_only_the_first_run_of_a_process_counts_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("streamtrain.run.train")
    monkeypatch.setattr(module, "YOUNG_SECONDS", 1e9)
    monkeypatch.setattr(module, "RUNS", itertools.count())
    assert module._began() == pytest.approx(psutil.Process().create_time())
    asked = time.time()
    assert module._began() >= asked
