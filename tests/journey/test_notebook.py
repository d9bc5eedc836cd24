"""jobs/first_run.ipynb, executed as a user's notebook: by a kernel, with its bar, its table and its figure."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamtrain.packing import PackOptions
from tests.support.datasets import pack_digits

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "first_run.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All cells' outputs, after a run in a folder with small data in place of MNIST."""
    folder = tmp_path_factory.mktemp("notebook")
    pack_digits(folder / "data" / "mnist", PackOptions(seed=3, splits=(0.6, 0.2, 0.2)), wide=True)
    (folder / NOTEBOOK.name).write_text(NOTEBOOK.read_text())
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", NOTEBOOK.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [output for cell in json.loads(done.stdout)["cells"] for output in cell.get("outputs", [])]


def of_kind(outputs: list[dict[str, Any]], kind: str) -> list[str]:
    return ["".join(output["data"][kind]) for output in outputs if kind in output.get("data", {})]


def test_progress_is_a_bar_at_its_end(outputs: list[dict[str, Any]]) -> None:
    bars = [shown for shown in of_kind(outputs, "text/html") if "<progress" in shown]
    assert len(bars) == 1, "one that moves, not one after another"
    assert re.search(r'<progress value="1\.0000"></progress> pass 5/5 · .*examples/s', bars[0])


def test_a_result_shows_its_table_and_its_figure(outputs: list[dict[str, Any]]) -> None:
    tables = [shown for shown in of_kind(outputs, "text/html") if "<table>" in shown]
    assert any("<th>" in shown and "data:image/png;base64," in shown for shown in tables)


def test_repr_is_short(outputs: list[dict[str, Any]]) -> None:
    texts = of_kind(outputs, "text/plain")
    assert texts and all(len(text) < 400 for text in texts)
    assert any(text.startswith("Evaluation(pass ") for text in texts)


def test_no_cell_failed(outputs: list[dict[str, Any]]) -> None:
    assert not [output for output in outputs if output["output_type"] == "error"]
