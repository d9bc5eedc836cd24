"""Which errors are tried again, how long is waited, and that no secret gets into a message."""

import errno
import http.client
import random
import ssl

import aiohttp
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as some
from yarl import URL

from streamtrain.errors import ConfigError, StoreError
from streamtrain.store import RetryPolicy, masked
from streamtrain.store.retry import Retrier, WrongLengthError, temporary


def of_status(status: int) -> aiohttp.ClientResponseError:
    request = aiohttp.RequestInfo(URL("http://h/x?key=secret"), "GET", {}, URL("http://h/x?key=secret"))  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(request, (), status=status, message="told so")


def of_s3(status: int) -> ClientError:
    return ClientError({"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


TEMPORARY = [
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(),
    WrongLengthError("3 bytes"),
    OSError(errno.EBUSY, "SlowDown"),
    EOFError(),
    ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac"),
    aiohttp.ClientPayloadError("not all of it"),
    aiohttp.ServerDisconnectedError(),
    http.client.IncompleteRead(b""),
    EndpointConnectionError(endpoint_url="http://h"),
    *map(of_status, (408, 429, 500, 502, 503, 504)),
    *map(of_s3, (500, 503)),
]
LASTING = [
    FileNotFoundError("x"),
    PermissionError("x"),
    OSError(errno.ENOSPC, "full"),
    OSError(errno.EINVAL, "InvalidRange"),
    NoCredentialsError(),
    ValueError("x"),
    KeyError("x"),
    *map(of_status, (400, 401, 403, 404, 416)),
    *map(of_s3, (400, 403)),
]


@pytest.mark.parametrize("error", TEMPORARY, ids=repr)
def test_what_passes_by_itself_is_tried_again(error: Exception) -> None:
    assert temporary(error)
    failures = [error, error]
    retrier = Retrier(RetryPolicy(attempts=3, first=0))

    def attempt() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert retrier.call("x", "y", attempt) == "done" and retrier.retries == 2


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_does_not_pass_is_not(error: Exception) -> None:
    assert not temporary(error)
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise error

    with pytest.raises(StoreError, match=r"^x, at byte 3: expected 4 bytes, found (?!.* after).*; \w"):
        Retrier(RetryPolicy()).call("x, at byte 3", "4 bytes", attempt)
    assert len(calls) == 1


def test_attempts_are_bounded_and_waits_are_drawn_below_a_growing_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    retrier = Retrier(RetryPolicy(attempts=7, first=0.5, longest=5))
    monkeypatch.setattr(random.Random, "uniform", lambda _, low, high: bounds.append(high) or low)

    def attempt() -> None:
        raise of_status(503)

    with pytest.raises(StoreError, match="found ClientResponseError: 503.* after 7 attempts; see whether"):
        retrier.call("x", "y", attempt)
    assert bounds == [0.5, 1, 2, 4, 5, 5] and retrier.retries == 6


def test_our_own_errors_pass_through_and_a_stopped_one_begins_nothing() -> None:
    retrier = Retrier(RetryPolicy())

    def attempt() -> None:
        raise ConfigError("mine")

    with pytest.raises(ConfigError, match="^mine$"):
        retrier.call("x", "y", attempt)
    retrier.stop()
    with pytest.raises(StoreError, match="found the store closed"):
        retrier.call("x", "y", lambda: 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("https://me:pw@host:1/a b", "https://***@host:1/a b"),
        ("https://host/a?sig=x&y=z, at byte 3", "https://host/a?***"),
        ("see 'https://u@h/a?sig=x' and http://h/b?c", "see 'https://***@h/a?***' and http://h/b?***"),
        ("what? no", "what? no"),
    ],
)
def test_masked(text: str, shown: str) -> None:
    assert masked(text).startswith(shown)


@given(some.text("abcXYZ012-._~%:", min_size=6), some.text("abcXYZ012-._~%=&", min_size=6))
def test_no_secret_of_a_url_is_shown(userinfo: str, query: str) -> None:
    shown = masked(f"ClientError: url='https://{userinfo}@host.example/a/b?{query}' (status 500)")
    assert shown == "ClientError: url='https://***@host.example/a/b?***' (status 500)"


def test_no_secret_of_the_environment_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    azures = ("ACCOUNT_KEY", "KEY", "SAS_TOKEN", "CONNECTION_STRING")
    others = ("MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "my_api_key")
    for name in (*others, "AZURE_CLIENT_SECRET", *(f"AZURE_STORAGE_{name}" for name in azures)):
        monkeypatch.setenv(name, f"value of {name}")
        assert masked(f"Authorization: Bearer value of {name}!") == "Authorization: Bearer ***!"
    for name, value in (("RAY_AUTH_TOKEN_PATH", "/a/long/path"), ("HF_TOKEN", "short"), ("HOME", "/a/long/home")):
        monkeypatch.setenv(name, value)
        assert masked(f"see {value}") == f"see {value}"


def test_the_message_of_a_failed_request_holds_no_secret() -> None:
    def attempt() -> None:
        raise of_status(403)

    with pytest.raises(StoreError, match="no access") as refused:
        Retrier(RetryPolicy()).call("x", "y", attempt)
    assert "secret" not in str(refused.value)
