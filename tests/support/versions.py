"""A chosen part of the tests with the lowest and the newest of what the project says it works with: `make versions`.

python -m tests.support.versions [lowest] [newest] [python3.12] …

An environment each, made afresh under build/versions out of what pyproject.toml allows: some GB, since a torch of an
index is one for GPUs. A Python that this machine has not comes out of Debian (as root, with debootstrap); where there
is none, a line says so, and the others are run.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.debian import Debian
from tests.support.wheel import clean_copy

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "versions"
RELEASES = {"3.13": "trixie", "3.14": "forky"}
"""Of Debian, by the Python that they have."""
TOOLS = ("pytest", "hypothesis", "pytest-timeout", "pytest-xdist", "setuptools", "ray[default]")
CHOSEN = (
    "tests/unit/aggregate/test_exchange.py",
    "tests/unit/aggregate/test_optimizers.py",
    "tests/unit/aggregate/test_pieces.py",
    "tests/unit/aggregate/test_device.py",
    "tests/unit/model/test_gradient.py",
    "tests/unit/packing/test_sources.py",
    "tests/unit/stream/test_reader.py",
    "tests/unit/test_memory_order.py",
    "tests/unit/track/test_mlflow.py",
    "tests/unit/track/test_tracking.py",
    "tests/property/test_arrow_types.py",
    "tests/property/test_pack_and_read.py",
    "tests/journey/test_inline.py",
    "tests/journey/test_equals_textbook_sgd.py",
    "tests/journey/test_same_bits.py::test_promise_5_workers_with_devices_have_the_same_bits_for_any_number",
    "tests/journey/test_same_bits.py::test_promise_5_hosts_of_several_workers_have_the_same_bits",
    "tests/journey/test_gpu_script.py",
    "tests/journey/test_real_runs.py",
)
NAMED = ("torch", "ray", "mlflow", "numpy", "pyarrow", "pillow")
"""Of the table: what an environment has of these."""
Run = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Environment:
    """One row: a Python, and which versions of what stands in pyproject.toml, as uv calls it."""

    python: str
    resolution: str = "highest"


ENVIRONMENTS = {
    "lowest": Environment("3.11", "lowest-direct"),
    "newest": Environment("3.11"),
    "python3.12": Environment("3.12"),
    "python3.13": Environment("3.13"),
    "python3.14": Environment("3.14"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ENVIRONMENTS), metavar="NAME", help=" ".join(ENVIRONMENTS))
    names = parser.parse_args().names
    uv = uv_in(FOLDER)
    rows = []
    for name in names:
        row = {"environment": name, "python": ENVIRONMENTS[name].python} | _tried(uv, name, ENVIRONMENTS[name])
        rows.append(row)
        print(json.dumps(row), flush=True)
    ran = [row for row in rows if "not run" not in row]
    return int(not ran or any(row["failed"] for row in ran))


def _tried(uv: Path, name: str, environment: Environment) -> dict[str, object]:
    try:
        run = _runner(environment.python)
    except RuntimeError as error:
        return {"not run": str(error)}
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    settings = {
        "HOME": str(FOLDER), "PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "VIRTUAL_ENV": str(folder),
        "UV_CACHE_DIR": str(FOLDER / "cache"), "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp",
        "UV_COMPILE_BYTECODE": "1",  # else every process that a test starts compiles torch, Ray and MLflow again
    }  # fmt: skip

    shutil.rmtree(FOLDER / "copy", ignore_errors=True)
    copy = clean_copy(FOLDER / "copy")  # of the checkout setuptools would walk through Debian's /proc too
    for words in (
        [uv, "venv", "--quiet", "--python", f"/usr/bin/python{environment.python}", folder],
        [uv, "pip", "install", "--quiet", "--resolution", environment.resolution, copy],
        [uv, "pip", "install", "--quiet", *TOOLS],
    ):
        if run(words, settings).returncode:
            return {"passed": 0, "failed": 1, "not installed by": " ".join(map(str, words[1:]))}
    listed = run([folder / "bin" / "python", "-c", LISTED, *NAMED], settings, stdout=subprocess.PIPE).stdout
    words = [folder / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", 2]
    tests = run([*words, "--dist", "loadfile", *CHOSEN], settings, stdout=subprocess.PIPE)
    (FOLDER / f"{name}.log").write_text(tests.stdout)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error|skipped)", tests.stdout[-300:])}
    failed = counts.get("failed", 0) + counts.get("error", 0) or int(tests.returncode != 0)
    found = json.loads(listed) | {"passed": counts.get("passed", 0), "failed": failed}
    return found | ({"log": f"build/versions/{name}.log"} if failed else {})


LISTED = """
import importlib.metadata, json, platform, sys
print(json.dumps({"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in sys.argv[1:]}))
"""


def _runner(python: str) -> Run:
    """Runs commands where this Python is: here, or in a Debian that has it.

    Raises:
        RuntimeError: it is to be had nowhere.
    """
    here = python_here(python)
    if here is not None:

        def run(words: list[object], environment: dict[str, str], **how: Any) -> subprocess.CompletedProcess[str]:
            spelled = [here if word == f"/usr/bin/python{python}" else str(word) for word in words]
            return subprocess.run(spelled, env=os.environ | environment, cwd=ROOT, text=True, check=False, **how)

        return run
    if python not in RELEASES:
        raise RuntimeError(f"no python{python} on this machine, and no release of Debian that has it")
    return Debian(FOLDER / f"debian-{RELEASES[python]}", RELEASES[python], ROOT).run


def python_here(version: str) -> str | None:
    """This machine's Python of a version, where there is one that starts."""
    here = shutil.which(f"python{version}")
    starts = here and subprocess.run([here, "--version"], capture_output=True, check=False).returncode == 0
    return here if starts else None


def uv_in(folder: Path) -> Path:
    """uv, in an environment of its own: it resolves to the lowest, and for other machines, which pip cannot."""
    if not (folder / "uv" / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "uv"], check=True)
        subprocess.run([folder / "uv" / "bin" / "pip", "install", "--quiet", "uv"], check=True)
    return folder / "uv" / "bin" / "uv"


if __name__ == "__main__":
    sys.exit(main())
