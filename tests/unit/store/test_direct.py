"""Ranges by plain HTTP: what is asked once more, what goes to the store's own client, and which URLs are plain."""

import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from streamtrain.errors import StoreError
from streamtrain.store import RetryPolicy, direct, remote
from streamtrain.store.addresses import Signed, behind_proxy, has_password, http_address, s3_address
from streamtrain.store.remote import Store
from tests.support.ranges import RangeServer, serving

DATA = bytes(range(256)) * 40
QUICK = RetryPolicy(attempts=2, first=0)
OURS, THEIRS = "streamtrain", "Python"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RangeServer]:
    monkeypatch.setattr(remote, "CHUNK", 1000)
    monkeypatch.setenv("HOME", str(tmp_path))  # without a .netrc
    with serving(RangeServer(DATA)) as plan:
        yield plan


def read(server: RangeServer, policy: RetryPolicy = QUICK) -> Store:
    store = Store(server.url, policy)
    assert store.read("x.tar", 100, 9000) == DATA[100:9000]
    return store


def test_ranges_come_in_order_and_straight(server: RangeServer) -> None:
    store = read(server)
    assert sorted(span for _, span in server.asked) == sorted(
        f"bytes={start}-{min(start + 1000, 9000) - 1}" for start in range(100, 9000, 1000)
    )
    assert {who for who, _ in server.asked} == {OURS} and store.retries == 0


def test_an_object_that_ends_before_is_told(server: RangeServer) -> None:
    with pytest.raises(StoreError, match="at byte 10000: expected 1000 bytes, found 240 bytes after 2 attempts"):
        Store(server.url, QUICK).read("x.tar", 0, 11_000)


def test_a_silent_request_is_asked_once_more_beside(server: RangeServer) -> None:
    """Its connection never answers, and would be waited for a day."""
    released = threading.Event()
    server.before = lambda number: number == 1 or released.wait()
    store = Store(server.url, RetryPolicy(attempts=1, stall=86_400, quiet=0.01))
    assert store.read("x.tar", 0, 1500) == DATA[:1500] and store.retries == 1
    released.set()


def test_the_first_may_still_win(server: RangeServer) -> None:
    """It answers once the second has been asked, which never does."""
    released, second = threading.Event(), threading.Event()

    def before(number: int) -> bool:
        if number == 0:
            return second.wait()
        second.set()
        return released.wait()

    server.before = before
    assert Store(server.url, RetryPolicy(attempts=1, stall=86_400, quiet=0.01)).read("x.tar", 0, 1500) == DATA[:1500]
    assert len(server.asked) == 2
    released.set()


def test_a_small_range_is_asked_once_more_too(server: RangeServer) -> None:
    released = threading.Event()
    server.before = lambda number: number >= 1 or released.wait()
    store = Store(server.url, RetryPolicy(attempts=1, stall=86_400, quiet=0.01))
    assert store.read("x.tar", 0, 500) == DATA[:500] and store.retries >= 1
    released.set()


def test_where_both_are_silent_the_time_counts(server: RangeServer) -> None:
    released = threading.Event()
    server.before = lambda _: released.wait()
    with pytest.raises(StoreError, match="expected 1500 bytes, found no answer in time; see"):
        Store(server.url, RetryPolicy(attempts=1, stall=0.1, quiet=0.01)).read("x.tar", 0, 1500)
    assert len(server.asked) == 2
    released.set()


def test_kept_connections_that_were_closed_cost_nothing(server: RangeServer) -> None:
    server.closes = True
    store = Store(server.url, RetryPolicy(attempts=1))
    for start in range(0, 5000, 1000):
        assert store.read("x.tar", start, start + 1000) == DATA[start : start + 1000]
    assert store.retries == 0


def test_a_connection_is_not_kept_for_long(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall on the way may have forgotten it, and then nothing answers."""
    store = Store(server.url, RetryPolicy(attempts=1))
    for start in (0, 500):
        assert store.read("x.tar", start, start + 500) == DATA[start : start + 500]
    assert len(server.peers) == 1
    monkeypatch.setattr(direct, "KEPT", 0)
    assert store.read("x.tar", 1000, 1500) == DATA[1000:1500]
    assert len(server.peers) == 2


def test_a_new_connection_that_breaks_is_a_failure(server: RangeServer) -> None:
    server.before = lambda number: number > 0
    assert read(server).retries == 1


@pytest.mark.parametrize("status", [403, 404, 200, 302])
def test_other_answers_are_the_clients_business(server: RangeServer, status: int) -> None:
    server.status, server.headers = status, {"Location": "/y"} if status == 302 else {}
    expected = {403: "no access", 404: "no such object", 200: "0 bytes", 302: "TooManyRedirects"}[status]
    with pytest.raises(StoreError, match=expected) as stopped:
        Store(server.url, QUICK).read("x.tar", 0, 1000)
    assert "\n" not in str(stopped.value) and {who for who, _ in server.asked} == {OURS, THEIRS}


def test_the_clients_own_answers_may_take_their_time(server: RangeServer) -> None:
    """Whether their bytes move is not told, so they are not asked for once more."""
    server.status, server.before = 403, lambda number: number == 0 or time.sleep(0.3) is None
    with pytest.raises(StoreError, match="no access"):
        Store(server.url, RetryPolicy(attempts=1, quiet=0.05)).read("x.tar", 0, 1500)
    assert [who for who, _ in server.asked] == [OURS, THEIRS]


@pytest.mark.parametrize("stop", [500, 1500])
def test_a_certificate_that_is_not_known_is_the_clients_business(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """That of S3 has a bundle of its own, or the one of AWS_CA_BUNDLE."""

    def connect(*_: object) -> None:
        raise ssl.SSLCertVerificationError(1, "unable to get local issuer certificate")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    assert Store(server.url, QUICK).read("x.tar", 0, stop) == DATA[:stop]
    assert {who for who, _ in server.asked} == {THEIRS}


def test_names_that_have_to_be_quoted_are_the_clients_business(server: RangeServer) -> None:
    assert Store(f"{server.url}/my dätä?sig=secret", QUICK).read("x.tar", 0, 500) == DATA[:500]
    assert {who for who, _ in server.asked} == {THEIRS}


def test_what_passes_is_not_asked_of_two_clients(server: RangeServer) -> None:
    server.status = 503
    with pytest.raises(StoreError, match=r"found StatusError: 503 Service Unavailable after 2 attempts"):
        Store(server.url, QUICK).read("x.tar", 0, 1000)
    assert [who for who, _ in server.asked] == [OURS, OURS]


def test_a_closed_store_ends_what_is_under_way(server: RangeServer) -> None:
    released, asked = threading.Event(), threading.Event()
    server.before = lambda _: (asked.set(), released.wait())[1]
    store = Store(server.url, RetryPolicy(stall=86_400, quiet=86_400))
    found: list[BaseException] = []

    def read_one() -> None:
        try:
            store.read("x.tar", 0, 1000)
        except StoreError as error:
            found.append(error)

    reading = threading.Thread(target=read_one)
    reading.start()
    assert asked.wait(60)
    store.close()
    reading.join(60)
    released.set()
    assert not reading.is_alive() and len(found) == 1


def test_only_what_is_plain_is_asked_for_straight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert http_address("https://host/data", {}) is not None and http_address("s3://bucket", {}) is None
    assert has_password("https://me:secret@host/data") and http_address("https://me:secret@host/data", {}) is None
    (tmp_path / ".netrc").write_text("machine known login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_password("https://known/data") and not has_password("https://host/data")
    (tmp_path / "other").write_text("machine")
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    assert has_password("https://host/data"), "one that cannot be read may name any server"
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "near")
    assert behind_proxy("https://host/data") and not behind_proxy("https://near/data")
    assert http_address("https://host/data", {}) is None and http_address("https://near/data", {}) is not None
    assert http_address("https://near/data", {"headers": {"X-Key": "secret"}}) is None


def test_ranges_of_an_object_that_are_asked_for_at_once_share_one_signature() -> None:
    ready, signed = threading.Barrier(4), []

    def sign(name: str) -> str:
        signed.append(name)
        time.sleep(0)  # lets go of the interpreter, as what really signs does
        return f"http://s3/{name}?signature={len(signed)}"

    address = Signed(sign)

    def ask(name: str) -> str | None:
        ready.wait()
        return address(name)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, ["a", "a", "b", "a"]))
    assert sorted(signed) == ["a", "b"] and len(set(found)) == 2


def test_settings_that_no_signed_url_carries_are_the_clients_business() -> None:
    assert s3_address(None, {"key": "x", "secret": "y"}) is not None
    assert s3_address(None, {"requester_pays": True}) is None
    assert Store("s3://bucket")._direct is not None


@pytest.mark.parametrize("protocol", ["http", "https"])
def test_fsspecs_settings_for_http_are_kept(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Of whichever of its names: fsspec has them for both."""
    monkeypatch.setitem(fsspec.config.conf, protocol, {"headers": {"X-Key": "secret"}})
    read(server)
    assert {who for who, _ in server.asked} == {THEIRS}
