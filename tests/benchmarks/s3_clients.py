"""Other clients that fetch whole shards from an S3 server: each in its own usual way, with SHA-256, into a file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from streamtrain.stream.fetch.fetched import AHEAD_THREADS

STEP = 1 << 20
Opened = Callable[[str], Iterable[Any]]
Client = Callable[[Mapping[str, int], Path], int]


def boto3_client(endpoint: str, bucket: str) -> Opened:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    return lambda name: client.get_object(Bucket=bucket, Key=name)["Body"].iter_chunks(STEP)


def obstore_client(endpoint: str, bucket: str) -> Opened:
    import obstore
    from obstore.store import S3Store

    options = {"allow_http": True}
    store = S3Store(bucket, endpoint=endpoint, client_options=options, virtual_hosted_style_request=False)
    return lambda name: [obstore.get(store, name).bytes()]


def s3torchconnector_client(endpoint: str, bucket: str) -> Opened:
    from s3torchconnector._s3client import S3Client, S3ClientConfig

    client = S3Client(region="us-east-1", endpoint=endpoint, s3client_config=S3ClientConfig(force_path_style=True))
    return lambda name: [client.get_object(bucket, name).read()]


def fetched(opened: Opened, at_once: int, sizes: Mapping[str, int], work: Path) -> int:
    """Bytes of all objects, each fetched whole, so many at once."""

    def fetch(name: str) -> int:
        digest, file = hashlib.sha256(), work / name.replace("/", "-")
        with file.open("wb") as written:
            for data in opened(name):
                digest.update(data)
                written.write(data)
        size = file.stat().st_size
        file.unlink()
        assert size == sizes[name] and len(digest.hexdigest()) == 64
        return size

    with ThreadPoolExecutor(at_once) as threads:
        return sum(threads.map(fetch, sizes))


def clients(endpoint: str, bucket: str) -> dict[str, Client]:
    """Ways to fetch all shards, by name."""
    known = {"boto3": boto3_client, "obstore": obstore_client, "s3torchconnector": s3torchconnector_client}
    return {
        f"{name}_{at_once}_at_once": functools.partial(fetched, opened, at_once)
        for name, opened in ((name, client(endpoint, bucket)) for name, client in known.items())
        for at_once in (1, AHEAD_THREADS)
    }
