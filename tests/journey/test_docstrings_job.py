"""The docstrings job as a user starts it: data script, pack, training; small, in one process."""

import ast
import dataclasses
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import streamtrain as st
from tests.support.command import streamtrain as run_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docstrings")
    script = str(ROOT / "jobs" / "text" / "docstrings_data.py")
    subprocess.run([sys.executable, script, str(folder)], check=True)
    done = run_command("pack", str(folder / "pairs.parquet"), str(folder / "packed"), "--split-column", "split")
    assert done.returncode == 0, done.stderr
    return folder


def test_each_function_with_a_docstring_is_a_row_and_those_of_a_file_are_in_one_split(data: Path) -> None:
    rows = pq.read_table(data / "pairs.parquet").to_pylist()
    source = (Path(sysconfig.get_path("stdlib")) / "heapq.py").read_text()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = [len(re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", ast.get_docstring(node) or "")) for node in functions]
    expected = [min(length, 24) for length in lengths if length]
    found = [sum(number > 0 for number in row["says"]) for row in rows]
    starts = [start for start in range(len(found)) if found[start : start + len(expected)] == expected]
    assert len(expected) > 5 and starts, "the functions of heapq, one after the other"
    assert len({row["split"] for row in rows[starts[0] : starts[0] + len(expected)]}) == 1
    assert all(row["says"][0] and row["does"][0] for row in rows)
    shares = {name: sum(row["split"] == name for row in rows) / len(rows) for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.01)


def test_the_loss_is_lowest_where_each_is_nearest_to_its_own() -> None:
    job = st.load_job(ROOT / "jobs" / "text" / "docstrings.py")
    assert callable(job.loss) and callable(job.error)
    right = torch.eye(5)
    unused = torch.zeros(5)
    own, turned = {"left": 9 * right, "right": right}, {"left": 9 * right.roll(1, 0), "right": right}
    assert job.loss(own, unused).max() < 0.01 and job.error(own, unused).sum() == 0
    assert job.loss(turned, unused).min() > 8 and job.error(turned, unused).sum() == 5


def test_no_word_is_counted_where_there_is_none() -> None:
    job = st.load_job(ROOT / "jobs" / "text" / "docstrings.py")
    model = job.model().eval()
    short, long = torch.tensor([[5, 7, 0, 0]]), torch.tensor([[5, 7, 0, 0, 0, 0]])
    with torch.no_grad():
        assert torch.allclose(model(short, short)["left"], model(long, short)["left"])
        assert not torch.allclose(model(short, short)["left"], model(torch.tensor([[5, 7, 1]]), short)["left"])


def test_it_trains(data: Path, tmp_path: Path) -> None:
    job = st.load_job(ROOT / "jobs" / "text" / "docstrings.py")
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(data / "packed")),
        mode=st.Epochs(max_passes=1),
        evaluate=st.Evaluate(examples=256),
        schedule=st.Schedule(warmup_steps=5),
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    results = [st.train(dataclasses.replace(small, lanes=lanes), name="pairs", inline=True) for lanes in (2, 2)]
    chosen = results[0].chosen.generalization
    assert chosen.error.mean < 0.9, "by chance 127 of 128"
    for name, value in results[0].parameters.items():
        assert torch.equal(value, results[1].parameters[name])
