"""Under which URL any HTTP client gets an object as it is: the object's own, or one that is signed for a while.

Only where that is plain: what a proxy, a password, quoting or settings of fsspec's change is left to the store's own
client.
"""

from __future__ import annotations

import netrc
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

Address = Callable[[str], str | None]
"""An object's URL by its full name; ``None`` where it has none such."""
SIGNED = 3600
"""Seconds that a signed URL is good for; half of them we use it."""
MOST_SIGNED = 1024
"""URLs that are kept."""
S3_SETTINGS = frozenset({"anon", "key", "secret", "token", "endpoint_url", "profile"})
"""Settings of fsspec's for s3 that a signed URL carries; with others it is the client's own business."""
_SENDABLE = re.compile("[!-~]+")
"""URLs that can be sent as they are, without quoting."""


def http_address(base: str, settings: Mapping[str, Any]) -> Address | None:
    """What makes a URL of an object's full name, where ``base`` is plain, without ``settings`` of fsspec's for it."""
    plain = base.startswith(("http://", "https://")) and not settings
    if not plain or has_password(base) or behind_proxy(base):
        return None
    return lambda url: url if _SENDABLE.fullmatch(url) else None


def s3_address(system: Any, settings: Mapping[str, Any]) -> Address | None:
    """The same by s3fs, whose credentials, profile and endpoint sign."""
    if set(settings) - S3_SETTINGS:
        return None

    def signed(name: str) -> str | None:
        url = str(system.url(name, expires=SIGNED))
        return None if behind_proxy(url) else url

    return Signed(signed)


def behind_proxy(url: str) -> bool:
    """Whether the environment names a proxy for a URL's server."""
    found = urlsplit(url)
    return found.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(found.netloc)


def has_password(url: str) -> bool:
    """Whether a user name stands in a URL, or in ``.netrc`` for its server."""
    found = urlsplit(url)
    if "@" in found.netloc:
        return True
    try:
        chosen = os.environ.get("NETRC")
        return netrc.netrc(chosen).authenticators(found.hostname or "") is not None
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError, netrc.NetrcParseError):  # whatever it is, aiohttp has its own reading of it
        return True


class Signed:
    """Signed URLs by the object's name, each made once in half its time. Calls from any thread."""

    def __init__(self, sign: Address) -> None:
        self._sign = sign
        self._known: dict[str, tuple[float, str | None]] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str | None:
        """An object's."""
        with self._lock:  # also while it is signed: the ranges of an object are asked for at once, and need one URL
            until, url = self._known.get(name, (0.0, None))
            if time.monotonic() < until:
                return url
            until, url = time.monotonic() + SIGNED / 2, self._sign(name)
            if len(self._known) >= MOST_SIGNED:
                self._known.clear()
            self._known[name] = until, url
            return url
