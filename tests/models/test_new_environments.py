"""The model of every job of `jobs/`, loaded in a new environment out of its own requirements, gives the same numbers.

Environments lie in build/models, one for each text of requirements, made anew each time; data sets beside them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

import streamtrain as st
from streamtrain.run.afterwards.kept_model import KeptModel
from streamtrain.serving.evaluated import Evaluated, named_tensors, tensors_of
from tests.support.command import streamtrain as run_command

pytestmark = [pytest.mark.models, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "models"
EXAMPLES = 50
PACKED: dict[str, tuple[str, ...]] = {
    "mnist": ("mnist.npz", "--splits", "0.8", "0.1", "0.1", "--seed", "1"),
    "classification/emoji": ("pictures",),
    "text/language": ("texts", "--tokens", "256", "--tokenizer", "tokenizer.json"),
    "classification/packages": ("words.parquet", "--split-column", "split"),
    "text/docstrings": ("pairs.parquet", "--split-column", "split"),
    "classification/flights": (
        "flights.csv", "--label", "arrived", "--group", "date", "--missing", "mean", "--mask"
    ),
    "classification/letters": ("sounds",),
}  # fmt: skip
"""What `pack` gets of what a job's data script made."""
JOBS = (*PACKED, "text/hugging_face")
ENVIRONMENTS: dict[str, Path] = {}


def packed(name: str) -> Path:
    """The job's data set, made at the first time."""
    folder = BUILD / "data" / Path(name).name
    script = ROOT / "jobs" / f"{name}_data.py"
    raw, *flags = PACKED[name]
    if not (folder / "packed" / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / raw if name == "mnist" else folder
        subprocess.run([sys.executable, str(script), str(made)], check=True)
        words = [str(folder / word) if word == "tokenizer.json" else word for word in flags]
        done = run_command("pack", str(folder / raw), str(folder / "packed"), *words)
        assert done.returncode == 0, done.stderr
    return folder / "packed"


def environment(requirements: Path) -> Path:
    """The interpreter of an environment that has what the file says, and nothing else."""
    text = requirements.read_text()
    if text not in ENVIRONMENTS:
        folder = BUILD / f"environment{len(ENVIRONMENTS)}"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([str(python), "-m", "pip", "install", *quiet, "-r", str(requirements)], check=True)
        ENVIRONMENTS[text] = python
    return ENVIRONMENTS[text]


def trained(name: str, data: Path, folder: Path) -> tuple[Path, Path]:
    """A short run's folder, and that of its model in MLflow."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    flags = ("--inline", "--max-steps", "20", "--data.url", str(data), "--tracking.uri", uri)
    done = run_command("train", str(ROOT / "jobs" / f"{name}.py"), *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'streamtrain'")
    (model,) = client.search_logged_models([experiment.experiment_id])
    return run, Path(model.artifact_location.removeprefix("file://"))


@pytest.mark.parametrize("name", JOBS)
def test_the_logged_model_gives_the_same_numbers_in_a_new_environment(name: str, tmp_path: Path) -> None:
    data = packed("text/language" if name == "text/hugging_face" else name)
    run, model = trained(name, data, tmp_path)
    job = st.load_job(ROOT / "jobs" / f"{name}.py")
    inputs = {spec.name for spec in mlflow.models.get_model_info(str(model)).signature.inputs}
    with KeptModel(job, run, str(data)) as kept:
        reader = kept.reader("validation")
        arrays = reader.read(0, EXAMPLES)
        evaluated = Evaluated(kept._gradient, list(arrays))
        output = evaluated.output(evaluated.batch(tensors_of(arrays, arrays)))
        expected = {name: tensor.detach().numpy() for name, tensor in named_tensors(output)[0].items()}
        given = {**arrays, **reader.unmapped().read(0, EXAMPLES)}
    columns = {}
    for field in inputs:
        if given[field].dtype == object:
            columns |= {f"{field}/{i:05d}": np.frombuffer(value, np.uint8) for i, value in enumerate(given[field])}
        else:
            columns[field] = given[field]
    np.savez(tmp_path / "inputs.npz", **columns)
    python = environment(model / "requirements.txt")
    script = Path(__file__).with_name("predicting.py")
    words = [str(python), str(script), str(model), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(words, check=True, cwd=tmp_path, env=outside)
    found = dict(np.load(tmp_path / "outputs.npz"))
    assert {key.partition("/")[2] for key in found} == expected.keys()
    for output_name, array in expected.items():
        largest = np.abs(array).max()
        worst = float(np.abs(found[f"many/{output_name}"] - array).max() / largest)
        alone = float(np.abs(found[f"one/{output_name}"] - array[:1]).max() / largest)
        print(f"{name} {output_name or 'output'}: {sorted(inputs)} -> {array.shape}: {worst:.2g}, alone {alone:.2g}")
        assert worst <= 1e-6 and alone <= 1e-5  # one example goes through other kernels than many
