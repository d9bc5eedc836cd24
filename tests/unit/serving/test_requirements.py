"""What a logged model asks pip for."""

from pathlib import Path

import pytest
import torch

import streamtrain as st
from streamtrain.serving.requirements import of_model, pinned

FILE = """
import os

import numpy
import torch
import yaml

import streamtrain as st


class Ours(torch.nn.Module):
    def forward(self, x):
        import scipy.special

        return x + len(os.sep) + scipy.special.erf(0.0)


def helper():
    return yaml.safe_load("1")


def model():
    return torch.nn.Sequential(Ours(), torch.nn.ReLU())


job = st.Job(st.Data("nowhere", inputs=("x",)), model)
"""


def test_packages_are_pinned_by_the_name_that_pip_knows_and_the_version_that_is_there() -> None:
    import PIL

    (pillow,) = pinned(["PIL"])
    assert pillow == f"pillow=={PIL.__version__}"
    assert pinned(["torch", "no_such_module", "json"]) == (f"torch=={torch.__version__.partition('+')[0]}",)


def test_a_pickled_model_needs_what_its_parts_import(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(FILE)
    model = st.load_job(tmp_path / "parts.py").model()
    assert of_model(model) == {"torch", "scipy"}, "neither what the helper imports, nor streamtrain"


def test_a_star_import_hides_what_is_needed_so_all_is(tmp_path: Path) -> None:
    (tmp_path / "stars.py").write_text(FILE.replace("import os\n", "from os import *\nimport os\n"))
    assert of_model(st.load_job(tmp_path / "stars.py").model()) == {"torch", "scipy", "numpy", "yaml", "streamtrain"}


def test_a_model_of_packages_only_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Theirs", (torch.nn.Module,), {"__module__": "transformers.models.gpt2"})
    assert of_model(torch.nn.Sequential(kind())) == {"torch", "transformers"}
