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
from dataclasses import dataclass
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


@dataclass
class Service:
    """A server in a group of processes of its own, which can be killed and started again.

    Attributes:
        command: that starts it.
        url: where it is.
        answers: what is asked below the URL until it answers.
    """

    command: list[str]
    url: str
    answers: str = "/"
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self, *, wait: bool = True) -> None:
        """Returns when it answers, or at once."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self.command, stdout=quiet, stderr=quiet, start_new_session=True)
        if wait:
            _wait_for(self._process, self.url + self.answers)

    def kill(self) -> None:
        """SIGKILL to all of its group."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def nginx_service(folder: Path, work: Path) -> Service:
    """Nginx over ``folder``; its own files go to ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""  # else its workers belong to nobody, who may not see the files
    written = CONFIGURATION.format(user=user, work=work, folder=folder, port=port)
    (work / "nginx.conf").write_text(written)
    command = ["nginx", "-e", str(work / "error.log"), "-p", str(work), "-c", str(work / "nginx.conf")]
    return Service(command, f"http://127.0.0.1:{port}")


def file_service(folder: Path) -> Service:
    """`file_server` over ``folder``: it needs nothing that Python has not."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("file_server.py")), str(folder), str(port)]
    return Service(command, f"http://127.0.0.1:{port}")


def mlflow_service(folder: Path) -> Service:
    """MLflow's own server; its database, ``server.db``, and what it is given are in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    artifacts = ["--artifacts-destination", str(folder / "served")]
    return Service([*command, *store, *artifacts], f"http://127.0.0.1:{port}", "/health")


@contextlib.contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """The URL under which nginx serves ``folder``; its own files go to ``work``."""
    service = nginx_service(folder, work)
    with _running(service):
        yield service.url


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server that is empty."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    service = Service(command, f"http://127.0.0.1:{port}", "/moto-api/")
    with _running(service):
        yield service.url


def upload(folder: Path, endpoint: str, bucket: str) -> None:
    """Puts a folder's files into a bucket, new or not; the manifest last."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    for file in sorted(folder.rglob("*"), key=lambda file: (file.suffix == ".json", file)):
        if file.is_file():
            client.put_object(Bucket=bucket, Key=str(file.relative_to(folder)), Body=file.read_bytes())


@contextlib.contextmanager
def _running(service: Service) -> Iterator[None]:
    try:
        service.start()
        yield
    finally:
        service.kill()


def _wait_for(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + 180
    while True:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
