"""Real servers on loopback: nginx over a folder, and moto's S3 server, each a process of its own."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log;
events {{ }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; autoindex on; }}
}}
"""


PORTS = range(20_000, 32_768)
"""Above those of Ray's workers, and below those that the kernel gives to whoever connects or asks for any."""


def free_port() -> int:
    """One that nobody else is given before it is bound, as may happen to what ``bind`` to 0 draws."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # hypothesis seeds the other
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """The URL under which nginx serves ``folder``; its own files go to ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""  # else its workers belong to nobody, who may not see the files
    written = CONFIGURATION.format(user=user, work=work, folder=folder, port=port)
    (work / "nginx.conf").write_text(written)
    command = ["nginx", "-e", str(work / "error.log"), "-p", str(work), "-c", str(work / "nginx.conf")]
    with _running(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server that is empty."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, f"http://127.0.0.1:{port}/moto-api/"):
        yield f"http://127.0.0.1:{port}"


def upload(folder: Path, endpoint: str, bucket: str) -> None:
    """Puts a folder's files into a bucket, new or not; the manifest last."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    for file in sorted(folder.rglob("*"), key=lambda file: (file.suffix == ".json", file)):
        if file.is_file():
            client.put_object(Bucket=bucket, Key=str(file.relative_to(folder)), Body=file.read_bytes())


@contextlib.contextmanager
def _running(command: list[str], answers: str) -> Iterator[None]:
    # a group of its own, so that its children end with it
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            _wait_for(process, answers)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
