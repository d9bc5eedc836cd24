"""A job on a Ray cluster, through the cluster's job API: `streamtrain submit`, `status`, `logs` and `stop`.

What is shipped is the job file, the Python files beside it, and this package; the cluster has the libraries.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, TrainingError, complaint, one_line
from streamtrain.store.remote import VARIABLES

PACKAGE = Path(__file__).parents[3]
"""The folder of this package."""
SHIPPED_VARIABLES = ("MLFLOW_", *(prefix for prefixes in VARIABLES.values() for prefix in prefixes))
"""How the names of environment variables begin that go with a job: where MLflow is, and who reads the stores."""
HOW_TO_PROVE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
STARTING = "No available agent"
"""What a cluster says that has started a moment ago."""
STARTING_SECONDS = 60.0


@dataclass(frozen=True)
class Submitted:
    """A job as the cluster knows it.

    Attributes:
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: the cluster's, of how it stands; the reason, where it failed.
        exit_code: of `streamtrain train`, once it has ended by itself.
        progress: the last line in which a running one said how far it is.
    """

    submission: str
    state: str
    message: str
    entrypoint: str
    exit_code: int | None
    progress: str = ""

    @property
    def ended(self) -> bool:
        """Whether it does not run any more, nor will."""
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")

    def __str__(self) -> str:
        said = "".join(f"\n  {line}" for line in (self.message, self.progress) if line)
        return f"{self.submission}  {self.state:<10}{self.entrypoint}{said}"

    def summary(self) -> dict[str, Any]:
        """As JSON's types."""
        return asdict(self)


class Cluster:
    """A Ray cluster.

    Args:
        address: of its job API, ``http://HEAD:8265``.

    Raises:
        ConfigError: nobody answers there, or not without the cluster's token.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of its uploads on standard output
        self._address = address
        with self._refusals():
            self._client: Any = JobSubmissionClient(address)

    def submit(self, job: Path, flags: Sequence[str], *, ship_package: bool = True) -> str:
        """Ships a job file and starts ``streamtrain train`` on it, once; its id in the cluster.

        Args:
            flags: for ``streamtrain train``.
            ship_package: send this package along; else the cluster's own is used.
        """
        with tempfile.TemporaryDirectory() as folder:
            copy_code(job, Path(folder))
            environment: dict[str, Any] = {"working_dir": folder, "env_vars": shipped_variables(os.environ)}
            if ship_package:
                environment["py_modules"] = [str(PACKAGE)]
            command = shlex.join(["python", "-m", "streamtrain", "train", job.name, *flags])
            with self._refusals():
                return self._submit_once(entrypoint=command, runtime_env=environment)

    def status(self, submission: str) -> Submitted:
        """How a job stands."""
        with self._refusals(submission):
            return self._submitted(self._client.get_job_info(submission))

    def jobs(self) -> list[Submitted]:
        """All that were submitted, the first one first."""
        with self._refusals():
            found = [each for each in self._client.list_jobs() if each.submission_id is not None]
            return [self._submitted(each) for each in sorted(found, key=lambda each: each.start_time or 0)]

    def logs(self, submission: str) -> str:
        """All that a job has printed."""
        with self._refusals(submission):
            return str(self._client.get_job_logs(submission))

    def follow(self, submission: str, write: Callable[[str], object]) -> Submitted:
        """Gives what a job prints to ``write`` until it ends, and how it ended."""
        import asyncio

        async def copy(lines: AsyncIterator[str]) -> None:
            async for line in lines:
                write(line)

        with self._refusals(submission):
            asyncio.run(copy(self._client.tail_job_logs(submission)))
        return self.status(submission)

    def stop(self, submission: str) -> bool:
        """Sends a job SIGTERM, upon which it writes a checkpoint; false where it had ended."""
        with self._refusals(submission):
            return bool(self._client.stop_job(submission))

    def _submitted(self, found: Any) -> Submitted:
        state = found.status.value
        submission = found.submission_id
        lines = self._client.get_job_logs(submission).splitlines() if state == "RUNNING" else []
        progress = next((line for line in reversed(lines) if line.startswith("pass ")), "")
        message = reason_in(found.message or "")
        return Submitted(submission, state, message, found.entrypoint, found.driver_exit_code, progress)

    def _submit_once(self, **job: Any) -> str:
        """Asks again where the cluster is only just starting, or its answer is lost; the job is taken once.

        Its id is made here: so it can be asked for where nobody knows whether it was taken.
        """
        from requests import RequestException

        submission = f"raysubmit_{secrets.token_hex(8)}"
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                return str(self._client.submit_job(submission_id=submission, **job))
            except RequestException:
                if time.monotonic() > deadline:
                    raise
                with contextlib.suppress(RequestException, RuntimeError):
                    return str(self._client.get_job_info(submission).submission_id)
            except RuntimeError as error:
                if STARTING not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    @contextlib.contextmanager
    def _refusals(self, submission: str = "") -> Iterator[None]:
        """What the cluster refuses, in one line."""
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        try:
            yield
        except (ConnectionError, RequestException):
            do = "check it; on the head: pip install 'ray[default]', and ray start --head"
            raise self._complaint("a Ray cluster's job API", "no answer", do) from None
        except AuthenticationError as error:
            missing = "required" in error.message or "no authentication token" in error.message
            raise self._complaint("the cluster's token", "none" if missing else "another one", HOW_TO_PROVE) from None
        except RuntimeError as error:
            said = str(error)
            if submission and "status code 404" in said:
                known = f"a job of the cluster at {self._address}"
                do = "`streamtrain status` lists them"
                raise ConfigError(complaint(submission, expected=known, found="no such job", do=do)) from None
            raise TrainingError(f"{self._address}: {one_line(error)}") from None

    def _complaint(self, expected: str, found: str, do: str) -> ConfigError:
        return ConfigError(complaint(f"--address {self._address}", expected=expected, found=found, do=do))


def copy_code(job: Path, to: Path) -> None:
    """Copies a job file and what it can import from its own folder: modules, and packages with ``__init__.py``.

    Raises:
        ConfigError: no such file.
    """
    if not job.is_file():
        raise ConfigError(complaint(str(job), expected="a job file", found="no such file", do="check the path"))
    shutil.copy(job, to)
    for module in job.parent.glob("*.py"):
        shutil.copy(module, to)
    for package in job.parent.glob("*/__init__.py"):
        name = package.parent.name
        shutil.copytree(package.parent, to / name, ignore=shutil.ignore_patterns("__pycache__"))


def shipped_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that go with a job; whoever may read the cluster's jobs may read them."""
    return {name: value for name, value in environment.items() if name.startswith(SHIPPED_VARIABLES)}


def reason_in(message: str) -> str:
    """What the cluster says of a job, in one line: where it quotes the job's output, of that the last line."""
    said, quotes, output = message.partition(", last available logs")
    last = output.strip().splitlines()[-1:] if quotes else []
    return " ".join(": ".join([said, *last]).split())
