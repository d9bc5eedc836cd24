"""What users find who install the wheel in an environment of their own: types, names, signatures."""

import inspect
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import streamtrain
from tests.support.command import ROOT
from tests.support.wheel import build_wheel, install_in_new_environment

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
WRONG = """
job.seed + "text"
job.no_such_setting
st.Epochs(patience="three")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_in_new_environment(wheel, tmp_path_factory.mktemp("environment"))


def run(python: Path, folder: Path, *words: str) -> str:
    done = subprocess.run([python, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_wheel_holds_the_whole_library_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "streamtrain"], cwd=ROOT, capture_output=True, text=True
    )
    own = {name for name in listed.stdout.splitlines() if name.endswith((".py", "py.typed")) and (ROOT / name).exists()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == own and "streamtrain/py.typed" in packed


def test_mypy_finds_the_types_in_a_users_job_file(python: Path, tmp_path: Path) -> None:
    """Strictly, and without a line about missing stubs; what is wrong in the file it finds."""
    job = (ROOT / "jobs" / "mnist.py").read_text()
    (tmp_path / "right.py").write_text(job)
    (tmp_path / "wrong.py").write_text(job + WRONG)
    shown = run(
        python, tmp_path, "-m", "mypy", "--strict", "--no-incremental", "--hide-error-context", "right.py", "wrong.py"
    )
    found = [line.partition("error: ")[2].rpartition("[")[2] for line in shown.splitlines() if ": error: " in line]
    assert found == ["operator]", "attr-defined]", "arg-type]"] and "right.py" not in shown, shown


def test_names_version_and_signatures(python: Path, tmp_path: Path) -> None:
    """Whatever was imported before: each public name is itself, not a module of the same name."""
    ask = """
import importlib, inspect, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import streamtrain
print(json.dumps({
    "file": streamtrain.__file__, "names": dir(streamtrain), "version": streamtrain.__version__,
    "pack": str(inspect.signature(streamtrain.pack)), "doc": inspect.getdoc(streamtrain.pack),
    "modules": [name for name in streamtrain.__all__ if inspect.ismodule(getattr(streamtrain, name))],
}))
"""
    befores = [(), ("streamtrain.packing", "streamtrain.shards", "streamtrain.run.train", "streamtrain.inspect")]
    for before in befores:
        found = json.loads(run(python, tmp_path, "-c", ask, *before))
        assert Path(found["file"]).is_relative_to(python.parents[1]), "the wheel's, not the checkout's"
        assert found["names"] == sorted([*streamtrain.__all__, "__version__"])
        assert f'version = "{found["version"]}"' in (ROOT / "pyproject.toml").read_text()
        assert found["pack"] == str(inspect.signature(streamtrain.pack)) and found["pack"].startswith("(source: ")
        assert found["doc"] == inspect.getdoc(streamtrain.pack) and found["modules"] == []
