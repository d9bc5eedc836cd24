"""Data sets behind real servers on loopback, as they are and through a proxy that spoils answers."""

import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.errors import DataError, Interrupted, StoreError
from streamtrain.inspect.card import inspect_dataset
from streamtrain.inspect.findings import linted
from streamtrain.packing import PackOptions
from streamtrain.packing.packing import append
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.watching import following, loader_health
from streamtrain.shards import fetch_manifest
from streamtrain.store import RetryPolicy, remote
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.track.terminal import Terminal
from streamtrain.values import Update
from tests.support.caches import bytes_in, leftovers
from tests.support.datasets import pack_digits, save_digits
from tests.support.faults import KINDS, Faults, proxy
from tests.support.fleet import Notebook, PlainFleet, run
from tests.support.pieces import small_pieces
from tests.support.servers import needs_nginx, nginx, s3_server, upload

QUICK = RetryPolicy(first=0.01, stall=0.3)
FIELDS = ("image", "label")
HEALTH = (
    *("waiting_share", "bytes_per_second", "fetched_bytes_per_second"),
    *("cache_hits", "cache_misses", "retries", "skipped"),
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack_digits(folder, PackOptions(seed=3, shard_examples=100), wide=True)
    return folder


@pytest.fixture(scope="module")
def http(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(folder, tmp_path_factory.mktemp("nginx")) as url:
        yield url


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        with s3_server() as endpoint:
            upload(folder, endpoint, "digits")
            yield endpoint


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CHUNK", 50_000)


def assert_all_arrive(url: str, folder: Path, cache: Path, *, keep: bool) -> FetchedFiles:
    """Reads four lanes in turn, in a cache of six shards, and compares every example with the packed one."""
    manifest = fetch_manifest(Store(url, QUICK))
    largest = max(shard.bytes for shard in manifest.splits["train"].shards)
    limit = 6 * largest
    files = FetchedFiles(
        Store(url, QUICK), Cache(cache, limit), keep=keep, most_held=4, ahead_bytes=limit - 4 * largest
    )
    reader = Reader(files, manifest, "train", FIELDS)
    expected = Reader(LocalFiles(folder), manifest, "train", FIELDS).read(0, len(reader))
    starts = np.linspace(0, len(reader), 5, dtype=int)
    pieces: list[list[dict[str, np.ndarray]]] = [[], [], [], []]
    for offset in range(0, int(np.diff(starts).max()), 30):
        for lane in range(4):
            first, last = starts[lane] + offset, min(starts[lane] + offset + 30, starts[lane + 1])
            if first < last:
                pieces[lane].append(reader.read(int(first), int(last)))
        assert bytes_in(cache) <= limit
    for field in FIELDS:
        assert np.array_equal(np.concatenate([p[field] for lane in pieces for p in lane]), expected[field])
    return files


@needs_nginx
@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("keep", [True, False])
def test_every_example_arrives_once_over_http(http: str, folder: Path, tmp_path: Path, keep: bool) -> None:
    files = assert_all_arrive(http, folder, tmp_path / "cache", keep=keep)
    health = files.health()
    shards = [file.stat().st_size for file in folder.glob("train/*.tar")]
    # every lane holds each of its shards, and two lanes meet in a shard at most three times
    assert health.retries == 0 and len(shards) <= health.cache_hits + health.cache_misses <= len(shards) + 3
    assert sum(shards) <= health.bytes_fetched <= sum(shards) + 8 * max(shards)
    files.close()
    kept = [file for file in (tmp_path / "cache").iterdir() if len(file.name) == 64]
    assert leftovers(tmp_path / "cache") == ["counting"] and bool(kept) == keep


@needs_nginx
@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("seed", range(3))
def test_every_example_arrives_once_over_http_under_faults(http: str, folder: Path, tmp_path: Path, seed: int) -> None:
    faults = Faults(seed=seed)
    with proxy(http, faults) as url:
        files = assert_all_arrive(url, folder, tmp_path / "cache", keep=bool(seed % 2))
        files.close()
    assert set(faults.sent) == set(KINDS)
    assert files.health().retries > len(KINDS)


@pytest.mark.usefixtures("small_requests")
def test_every_example_arrives_once_from_s3(
    s3: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    files = assert_all_arrive("s3://digits", folder, tmp_path / "cache", keep=False)
    assert files.health().bytes_fetched > 0
    assert Store("s3://digits", QUICK).names("train/00000")[:2] == ["train/000000.tar", "train/000001.tar"]


@pytest.mark.usefixtures("small_requests")
def test_every_example_arrives_once_from_s3_under_faults(
    s3: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(seed=1, rate=0.2)
    with proxy(s3, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        files = assert_all_arrive("s3://digits", folder, tmp_path / "cache", keep=True)
    assert set(faults.sent) == set(KINDS) and files.health().retries > 0


CAUSES = {
    "reset": r"at byte 50000: expected 50000 bytes, found Client\w+Error: .* after 3 attempts",
    "unavailable": r"at byte 50000: expected 50000 bytes, found ClientResponseError: 503.* after 3 attempts",
    "stall": r"at byte 50000: expected 50000 bytes, found no answer in time after 3 attempts",
    "short": r"at byte 50000: expected 50000 bytes, found 25000 bytes after 3 attempts",
    "flip": r"bytes 0 to \d+: expected SHA-256 \w{64}, found \w{64}, in two copies",
}


@needs_nginx
@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_pass_stops_with_shard_offset_and_cause(
    kind: str, http: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(kinds=[kind], always=True, only="train/000003.tar")
    if kind != "flip":
        usual = faults.next
        monkeypatch.setattr(faults, "next", lambda path, span: usual(path, span) if "=50000-" in span else None)
    with proxy(http, faults) as url:
        private = url.replace("://", "://user:secret@") + "/?token=secret"
        store = Store(private, RetryPolicy(attempts=3, first=0.01, stall=0.3))
        manifest = fetch_manifest(store)
        files = FetchedFiles(store, Cache(tmp_path, 1 << 30))
        with pytest.raises(StoreError, match=CAUSES[kind]) as stopped:
            Reader(files, manifest, "train", FIELDS).read(0, 1000)
    line = str(stopped.value)
    assert f"{url.replace('://', '://***@')}/train/000003.tar?***" in line
    assert "\n" not in line and "secret" not in line
    assert leftovers(tmp_path) == ["counting"] and len(list(tmp_path.iterdir())) == 1 + 3


def test_a_refused_request_is_not_tried_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    store = Store("s3://digits")
    with pytest.raises(StoreError, match=r"^s3://digits/nowhere: expected an object, found no such object; check"):
        store.read_whole("nowhere")
    assert store.retries == 0


def linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))


def linear8() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


@needs_nginx
def test_a_run_is_the_same_from_a_url(http: str, folder: Path, tmp_path: Path) -> None:
    results = []
    for place in (str(folder), folder.as_uri(), http):
        data = st.Data(place, transform=scaled, cache=str(tmp_path / "cache"))
        mode = st.Epochs(max_passes=2)
        results.append(run(st.Job(data, linear, mode=mode, tracking=st.Tracking(enabled=False)), tmp_path)[0])
    for name, values in results[0].parameters.items():
        assert all(torch.equal(values, result.parameters[name]) for result in results[1:])
    assert len(list((tmp_path / "cache").iterdir())) > 10


def test_a_run_goes_on_when_the_store_comes_back(
    s3: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections die after the first stint, and no new one is any good for a while."""
    monkeypatch.setattr(loader_health, "WORTH_SAYING_SECONDS", 0.01)
    faults, said, largest = Faults(rate=0.0), io.StringIO(), max(file.stat().st_size for file in folder.glob("*/*.tar"))

    class Cut(PlainFleet):
        def advance(self, step: int) -> list[Update]:
            faults.away = 4 if self.updates and not faults.sent else faults.away
            return super().advance(step)

    with proxy(s3, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        data = st.Data("s3://digits", transform=scaled, cache=str(tmp_path / "cache"), cache_bytes=6 * largest)
        mode, tracking = st.Online(), st.Tracking(enabled=False)
        plans = plan(st.Job(data, linear, mode=mode, batch_size=30, lanes=2, tracking=tracking))
        fleet, notebook = Cut(plans), Notebook()
        keeper = Keeper(plans.job, {})
        found = Controller(plans, fleet, notebook, Terminal(said), tmp_path, keeper).run()
    at_once, _ = run(dataclasses.replace(plans.job, data=st.Data(str(folder), transform=scaled)), tmp_path)
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in at_once.parameters.items())
    assert faults.away == 0 and notebook.named("loader/retries")[-1][1] >= 1
    told = [line for line in said.getvalue().splitlines() if "tried again" in line]
    assert told and re.fullmatch(r"waited \d+\.\d s for s3://digits: \d requests failed and were tried again", told[0])


@needs_nginx
@pytest.mark.parametrize("blocks", [True, False])
def test_lanes_fetch_their_part_of_a_large_shard_only(tmp_path: Path, blocks: bool) -> None:
    results = []
    with small_pieces():
        pack_digits(tmp_path / "digits", PackOptions(seed=3, blocks=blocks), wide=True)
        with nginx(tmp_path / "digits", tmp_path / "nginx") as url:
            for place in (str(tmp_path / "digits"), url):
                data = st.Data(place, transform=scaled, cache=str(tmp_path / "cache"))
                mode = st.Online(max_examples=300, evaluate_every=300)
                job = st.Job(data, linear, mode=mode, batch_size=30, lanes=3, tracking=st.Tracking(enabled=False))
                results.append(run(job, tmp_path, notebook := Notebook()))
    for name, values in results[0][0].parameters.items():
        assert torch.equal(values, results[1][0].parameters[name])
    worker = results[1][1].worker
    size = (tmp_path / "digits" / "train" / "000000.tar").stat().st_size
    used = worker._supply.reader("train", lanes=True).loading.bytes_fetched
    assert 300 / 1438 * size < used < 0.9 * size, "a fifth, and the blocks or pieces around its three borders"
    health = {name: [value for _, value in notebook.named(f"loader/{name}")] for name in HEALTH}
    assert all(health.values()) and max(health["fetched_bytes_per_second"]) > 0 and health["cache_misses"][-1] >= 3
    assert 0 < health["waiting_share"][0] <= 1 and health["retries"][-1] == health["skipped"][-1] == 0


def test_promise_7_a_run_follows_what_comes_into_a_bucket_and_goes_on_after_a_stop(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    here, cache = tmp_path / "digits", str(tmp_path / "cache")
    pack_digits(here, PackOptions(seed=3, shard_examples=100), examples=400)
    upload(here, s3, "growing")
    checkpoints = CheckpointFiles(str(tmp_path / "kept"), 2, lambda _: None)
    arrivals, wait = iter([500, 300]), following.wait_for_growth

    def job(place: str) -> st.Job:
        mode, keep = st.Online(follow=True, idle_timeout=0.0, window=100), st.Checkpoints(seconds=0.0)
        data, tracking = st.Data(place, transform=scaled, cache=cache), st.Tracking(enabled=False)
        return st.Job(data, linear8, mode=mode, batch_size=30, lanes=2, checkpoints=keep, tracking=tracking)

    def one_more(*arguments: object) -> object:
        for examples in arrivals:
            append(str(save_digits(tmp_path / "more.npz", examples)), here)
            upload(here, s3, "growing")
            break
        else:
            keeper.ask_to_stop("stopped by a test")
        return wait(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("streamtrain.run.controller.wait_for_growth", one_more)
    keeper = Keeper(job("s3://growing"), {}, checkpoints)
    with pytest.raises(Interrupted, match="stopped by a test after step"):
        run(job("s3://growing"), tmp_path, keeper=keeper)
    arrivals = iter([200])
    keeper = Keeper(job("s3://growing"), {}, checkpoints, checkpoints.newest())
    assert keeper.start is not None and keeper.start[1] == 11 + 14 + 8
    monkeypatch.setattr(keeper, "ask_to_stop", lambda _: None)
    resumed, fleet = run(job("s3://growing"), tmp_path, keeper=keeper)
    assert resumed.examples_used == 320 + 400 + 240 + 160
    assert sum(update.loss.count for update in fleet.updates) == 160, "no example twice"
    monkeypatch.undo()
    at_once, _ = run(job(str(here)), tmp_path)
    assert all(torch.equal(resumed.parameters[name], tensor) for name, tensor in at_once.parameters.items())


@needs_nginx
def test_a_url_is_inspected_as_its_folder_is(
    http: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here, there = (inspect_dataset(place, verify_all=True, audited=1000) for place in (str(folder), http))
    assert (here.pop("folder"), there.pop("folder")) == (str(folder), http)
    assert here == there and here["audit"]["passed"]
    with pytest.raises(st.ConfigError, match="inspect --lint: expected a folder, found http"):
        linted(http)


@needs_nginx
def test_a_cache_too_small_and_a_wrong_url_are_refused_before_anything_starts(http: str) -> None:
    job = st.Job(st.Data(http, transform=scaled, cache_bytes=1_000_000), linear)
    with pytest.raises(st.ConfigError, match=r"data\.cache_bytes: expected at least [\d,]+, for the 5 shards"):
        plan(job).reader("train")
    with pytest.raises(DataError, match=r"/nowhere/manifest\.json: expected an object, found no such object"):
        plan(st.Job(st.Data(f"{http}/nowhere"), linear))
    with pytest.raises(st.ConfigError, match=r"nothing://x: expected a data set's place, found .*Protocol not known"):
        plan(st.Job(st.Data("nothing://x"), linear))


@needs_nginx
def test_no_secret_of_a_url_gets_into_the_runs_card(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private = http.replace("://", "://user:secret@") + "/?token=secret"
    monkeypatch.setattr(sys, "argv", ["streamtrain", "train", "job.py", "--data.url", private])
    plans = plan(st.Job(st.Data(private, transform=scaled), linear))
    assert "token" in plans.job.data.url and "secret" not in plans.place
    card = repr(card_of(plans, "run"))
    assert "secret" not in card and http.replace("://", "://***@") in card


TAKE_ONE = """
import sys
from pathlib import Path
from streamtrain.shards import fetch_manifest
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.reader import Reader
manifest = fetch_manifest(Store(sys.argv[1]))
files = FetchedFiles(Store(sys.argv[1]), Cache(Path(sys.argv[2]), 1 << 30), ahead_bytes=1 << 29)
Reader(files, manifest, "train", ("label",)).read(0, 1)
print("taken", flush=True)
"""


@needs_nginx
def test_taking_one_example_and_leaving_ends_within_5_seconds(http: str, folder: Path, tmp_path: Path) -> None:
    """While the next shard, asked for ahead, does not come."""
    faults = Faults(kinds=["stall"], always=True, only="000001.tar")
    with proxy(http, faults) as url:
        command = [sys.executable, "-c", TAKE_ONE, url, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **streams) as process:  # type: ignore[call-overload]
            assert process.stdout.readline() == "taken\n"
            assert process.wait(timeout=5) == 0 and process.stderr.read() == ""
        # and the next run is not stopped by what this one left
        assert_all_arrive(http, folder, tmp_path, keep=True).close()
    assert leftovers(tmp_path) == ["counting"]
