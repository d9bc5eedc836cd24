#!/usr/bin/env bash
# mlflow 3.17.2 with torch 2.13.0: a model that is in training mode when mlflow.pytorch keeps it as a program
# (serialization_format="pt2") predicts as in training for ever: its dropout drops, other numbers at every call.
#
# Kept by pickle the same model predicts as in evaluation, since mlflow.pyfunc calls eval() on it; a program has no eval().
# So who changes the format, and logs right after training as before, has other predictions, and no message. Seen on
# Python 3.11, Linux x86-64, the same eight rows twice. This fails when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 torch==2.13.0
cd "$folder"
"$folder/environment/bin/python" - <<'CODE'
import copy
import warnings

warnings.filterwarnings("ignore")
import logging

logging.disable(logging.WARNING)
import mlflow
import numpy as np
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))
rows = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
with torch.no_grad():
    expected = copy.deepcopy(model).eval()(torch.from_numpy(rows)).numpy()
assert model.training
found = {}
for form in ("pickle", "pt2"):
    mlflow.pytorch.save_model(model, form, serialization_format=form, input_example=rows)
    loaded = mlflow.pyfunc.load_model(form)
    found[form] = [float(np.abs(np.asarray(loaded.predict(rows)) - expected).max()) for _ in range(2)]
    print(f"mlflow {mlflow.__version__}, {form}: twice, off by", " and ".join(f"{each:.3f}" for each in found[form]))
assert found["pickle"] == [0.0, 0.0], "the behaviour has changed"
assert min(found["pt2"]) > 0.01 and found["pt2"][0] != found["pt2"][1], "the behaviour has changed"
CODE
