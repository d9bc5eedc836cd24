"""A store behind a URL: a folder of this machine, s3, gs, az, http(s), hf, memory, and whatever else fsspec opens.

Objects are named relative to the URL and read in ranges of `CHUNK` bytes, those of less than two in one, a
few of them on their way at once, so that a connection that breaks costs one range and a fetch of any size needs
`WINDOW` times `CHUNK` bytes of memory. All retries are ours (`retry`): those of the clients below
are switched off where they can be. Credentials are found where each store's own tools find them
(environment, configuration files, the machine's role; ``.netrc`` for HTTP); none is ever asked for,
kept or shown here. Not done: listing costs as many requests as the store wants, and writing is
whole objects only.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, StoreError, complaint, one_line
from streamtrain.store.addresses import http_address, s3_address
from streamtrain.store.direct import Bytes, Direct, Request
from streamtrain.store.local import local_path, write_whole
from streamtrain.store.retry import Retrier, RetryPolicy, WrongLengthError
from streamtrain.store.secrets import masked

CHUNK = 8 << 20
"""Bytes of one request; objects of less than two have one."""
WINDOW = 3
"""Requests of one fetch that are on their way at once."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "hf": "hf"}
VARIABLES = {"s3": ("AWS_",), "gs": ("GOOGLE_",), "az": ("AZURE_",), "hf": ("HF_",)}
"""How the names of environment variables begin in which a store's own tools look for credentials, by its extra."""


class Store:
    """See the module. Nothing is connected before the first request; may be used from any number of threads.

    Args:
        url: of a folder, bucket or prefix, or a path of this machine; a query (a signed URL's) is kept
            for every object.
        policy: how patient to be.
    """

    def __init__(self, url: str, policy: RetryPolicy | None = None) -> None:
        self._folder = local_path(url)
        self._base = url if self._folder is None else str(self._folder)
        self._query = ""
        if url.startswith(("http://", "https://")):
            self._base, _, self._query = url.partition("?")
        self._retrier = Retrier(policy or RetryPolicy())
        self._under_way: set[Future[Any]] = set()
        self.place = masked(url)

    @property
    def retries(self) -> int:
        """Requests that were tried again."""
        return self._retrier.retries

    def named(self, name: str) -> str:
        """An object's full name, as messages give it."""
        return masked(self._path(name))

    def size(self, name: str) -> int:
        """Bytes of an object.

        Raises:
            StoreError: it is not there, or the store does not say.
        """
        size = self._retrier.call(
            self.named(name), "an object", lambda: self._answer("info", self._inner(name))["size"]
        )
        if not isinstance(size, int):
            do = "use a server that gives Content-Length"
            raise StoreError(complaint(self.named(name), expected="its size", found="no answer", do=do))
        return size

    def read(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``[start, stop)`` of an object.

        Raises:
            StoreError: they are not there, or could not be had.
        """
        if self._direct is not None and stop - start <= CHUNK:
            return self._arrived(name, start, stop, None, ends=False)
        return b"".join(self.chunks(name, start, stop))

    def read_whole(self, name: str) -> bytes:
        """All of a small object, in one request.

        Raises:
            StoreError: it is not there, or could not be had.
        """
        return self._retrier.call(
            self.named(name), "an object", lambda: bytes(self._answer("cat_file", self._inner(name)))
        )

    def read_if_there(self, name: str) -> bytes | None:
        """The same; ``None`` where there is no such object, or it is kept from us, which a store may say instead.

        Raises:
            StoreError: the store could not be asked.
        """

        def attempt() -> bytes | None:
            try:
                return bytes(self._answer("cat_file", self._inner(name)))
            except (FileNotFoundError, PermissionError):
                return None

        return self._retrier.call(self.named(name), "an object", attempt)

    def names(self, prefix: str = "") -> list[str]:
        """Names of all objects that begin with ``prefix``, sorted.

        Raises:
            StoreError: the store could not be asked.
        """
        root = str(self._system._strip_protocol(self._base)).rstrip("/") + "/"
        folder = root + prefix.rpartition("/")[0]
        found = self._retrier.call(masked(folder), "a list of objects", lambda: self._answer("find", folder))
        names = (str(path).removeprefix(root) for path in found)
        return sorted(name for name in names if name.startswith(prefix))

    def fetch(self, name: str, file: Path, size: int) -> str:
        """Copies an object of ``size`` bytes into an existing file; the SHA-256 of what came.

        Raises:
            StoreError: it is not there, has another size, or could not be had. OSError: of the file.
        """
        digest = hashlib.sha256()
        with file.open("r+b") as opened:
            for data in self.chunks(name, 0, size, ends=True):
                digest.update(data)
                opened.write(data)
        return digest.hexdigest()

    def write(self, name: str, data: bytes) -> None:
        """Writes an object so that it is either there with all of ``data`` or as it was before.

        Raises:
            StoreError: the store does not take it.
        """
        if self._folder is not None:
            file = self._folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, data)
            return
        self._retrier.call(
            self.named(name), "to write an object", lambda: self._answer("pipe_file", self._inner(name), data)
        )

    def remove(self, name: str) -> None:
        """Removes an object.

        Raises:
            StoreError: the store refuses.
        """
        self._retrier.call(self.named(name), "to remove an object", lambda: self._answer("rm_file", self._inner(name)))

    def close(self) -> None:
        """Ends what is under way: whoever waits for it gets a `StoreError`."""
        self._retrier.stop()
        for future in list(self._under_way):
            future.cancel()
        if "_direct" in self.__dict__ and self._direct is not None:
            self._direct.close()

    def chunks(self, name: str, start: int, stop: int, *, ends: bool = False) -> Iterator[Bytes]:
        """Bytes ``[start, stop)`` of an object, in order and in chunks; with ``ends`` it must end at ``stop``.

        The last request then asks for one byte more than there should be: so a longer object shows
        without a request of its own.
        """
        begun: deque[tuple[int, int, Future[Any]]] = deque()
        # a second request for the rest of a small object costs more than it hastens
        size = CHUNK if stop - start > 2 * CHUNK else max(stop - start, 1)
        starts = iter(range(start, stop, size))
        try:
            while True:
                for first in starts:
                    last = min(first + size, stop)
                    begun.append((first, last, self._begin(name, first, last + (ends and last == stop))))
                    if len(begun) == WINDOW:
                        break
                if not begun:
                    return
                yield self._arrived(name, *begun.popleft(), ends=ends and not begun)
        finally:
            for _, _, future in begun:
                future.cancel()

    def _arrived(self, name: str, start: int, stop: int, begun: Future[Any] | None, *, ends: bool) -> Bytes:
        """One range, from a request that is under way or, where that fails or there is none, from another."""
        under_way = [begun] if begun else []

        def again() -> Request:
            self._retrier.count()
            return self._begin(name, start, stop + ends)  # type: ignore[return-value]  # as the first was

        def attempt() -> Bytes:
            if begun is None and self._direct is not None:
                request = Request()
                self._noted(request)
                data = self._direct.at_once(request, self._inner(name), (start, stop), again)
            else:
                data = self._came(under_way.pop() if under_way else self._begin(name, start, stop + ends), again)
            if len(data) < stop - start:
                raise WrongLengthError(f"{len(data)} bytes")
            return data

        expected = f"{stop - start} bytes"
        data = self._retrier.call(f"{self.named(name)}, at byte {start}", expected, attempt)
        if len(data) > stop - start:
            longer = ends and start + len(data) == stop + 1
            found = "a longer object" if longer else f"{len(data)}: the server does not answer byte ranges"
            do = "restore it or pack again" if longer else "serve it with one that does, e.g. nginx"
            raise StoreError(complaint(f"{self.named(name)}, at byte {start}", expected=expected, found=found, do=do))
        return data

    def _begin(self, name: str, start: int, stop: int) -> Future[Any]:
        """Asks for a range."""
        if self._direct is None:
            return self._asked("cat_file", self._inner(name), start=start, end=stop)
        return self._noted(self._direct.begin(self._inner(name), start, stop))

    def _came(self, begun: Future[Any], again: Callable[[], Request]) -> Bytes:
        """What was asked for, in time."""
        if self._direct is not None and isinstance(begun, Request):
            return self._direct.result(begun, again)
        data: bytes = self._wait(begun)
        return data

    def _by_client(self, inner: str, start: int, stop: int) -> bytes:
        """A range by fsspec's client."""
        data: bytes = self._wait(self._asked("cat_file", inner, start=start, end=stop))
        return data

    def _answer(self, method: str, *words: Any) -> Any:
        """What one of fsspec's methods returns, in time."""
        return self._wait(self._asked(method, *words))

    def _wait(self, asked: Future[Any]) -> Any:
        try:
            return asked.result(self._retrier.policy.stall)
        finally:
            asked.cancel()  # does nothing to one that is done

    def _asked(self, method: str, *words: Any, **named: Any) -> Future[Any]:
        """Calls one of fsspec's methods; systems that are not asynchronous answer at once, in their own time."""
        system = self._system
        asked: Future[Any]
        if system.async_impl:
            import asyncio

            asked = asyncio.run_coroutine_threadsafe(getattr(system, f"_{method}")(*words, **named), system.loop)
            return self._noted(asked)
        asked = Future()
        try:
            asked.set_result(getattr(system, method)(*words, **named))
        except Exception as error:
            asked.set_exception(error)
        return asked

    def _noted(self, asked: Future[Any]) -> Future[Any]:
        """Something under way, which `close` ends."""
        self._under_way.add(asked)
        asked.add_done_callback(self._under_way.discard)
        return asked

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}" + (f"?{self._query}" if self._query else "")

    def _inner(self, name: str) -> str:
        """An object's name as its file system wants it."""
        return str(self._system._strip_protocol(self._path(name)))

    @functools.cached_property
    def _system(self) -> Any:
        """The file system, connected to nothing yet."""
        return _file_system(self._base, self.place)

    @functools.cached_property
    def _direct(self) -> Direct | None:
        """The short way to bytes, where there is one."""
        if self._base.startswith(("s3://", "s3a://")):
            address = s3_address(self._system, _settings("s3", "s3a"))
        else:
            address = http_address(self._base, _settings("http", "https"))
        return None if address is None else Direct(address, self._by_client, self._retrier.policy)


def _file_system(url: str, place: str) -> Any:
    import fsspec

    protocol = url.partition("://")[0]
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "http": _http_options,
        "https": _http_options,
        "s3": _s3_options,
    }
    try:
        # one that is kept for all would keep the credentials and the endpoint of the first time
        system, _ = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options.get(protocol, dict)())
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        do = f"pip install 'streamtrain[{extra}]'" if extra else "install what it needs"
        raise ConfigError(complaint(place, expected=f"a client for {protocol}", found=one_line(error), do=do)) from None
    except ValueError as error:
        found, do = masked(one_line(error)), "use a folder or a URL that fsspec opens, e.g. s3://bucket/folder"
        raise ConfigError(complaint(place, expected="a data set's place", found=found, do=do)) from None
    if hasattr(system, "retries"):
        system.retries = 1
    return system


def _settings(*protocols: str) -> dict[str, Any]:
    """A user's for fsspec, of a file system that has these names."""
    import fsspec

    return {name: value for each in protocols for name, value in fsspec.config.conf.get(each, {}).items()}


def _http_options() -> dict[str, Any]:
    import fsspec

    settings = fsspec.config.conf.get("http", {})
    return {
        # what a server compresses nevertheless is not unpacked, to whatever size: it is told by its checksum
        "client_kwargs": {"trust_env": True, "auto_decompress": False, **settings.get("client_kwargs", {})},
        "headers": {**settings.get("headers", {}), "Accept-Encoding": "identity"},
    }


def _s3_options() -> dict[str, Any]:
    import fsspec

    settings = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"total_max_attempts": 1}, "max_pool_connections": 32, **settings}}
