"""The code of a logged model: it is copied beside the program, and runs where the model is used, without us.

Inputs are columns by the names of fields: a dict of arrays whose first axis is the example, or a table. They go through
the job's `map`, where it is part of the model, one by one, and through the program together.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import torch


class Predictor(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]  # MLflow types it not
    """What MLflow calls."""

    def load_context(self, context: Any) -> None:
        """Reads the program; nothing of it is a pickle."""
        files = {name: Path(file) for name, file in context.artifacts.items()}
        self._card = json.loads(files["card"].read_text())
        for package in self._card["packages"]:
            importlib.import_module(package)  # whose operators are in the program
        self._program = torch.export.load(files["program"]).module()
        self._map = self._card["map"]
        if self._map is not None:
            spec = importlib.util.spec_from_file_location("functions_of_the_job", files["functions"])
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(module)  # type: ignore[union-attr]
            self._function = getattr(module, self._map["function"])

    # a dict of arrays or a table; MLflow takes annotations for signatures, and warns of all but the simplest
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """One array for each output, whose first axis is the example; the array itself where there is one output."""
        names = self._card["fields"] if self._map is None else self._map["fields"]
        columns = {name: _column(model_input[name]) for name in names}
        if self._map is not None:
            columns = self._mapped(columns)
        tensors = [torch.as_tensor(np.ascontiguousarray(columns[name])) for name in self._card["fields"]]
        with torch.no_grad():
            found = [tensor.numpy() for tensor in self._program(*tensors)]
        return dict(zip(self._card["outputs"], found, strict=True)) if self._card["outputs"] else found[0]

    def _mapped(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns that the job's `map` makes of these."""
        rows = []
        for number in range(len(next(iter(columns.values())))):
            row = {name: _value(columns[name][number], kind) for name, kind in self._map["fields"].items()}
            for name, form in self._map["zeros"].items():
                row[name] = np.zeros(form["shape"], form["dtype"])[()]
            rows.append(self._function(row))
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in self._card["fields"]}


def _column(values: Any) -> Any:
    """A column as an array; one of a table whose cells are arrays as an array of all."""
    array = np.asarray(values)
    return np.stack([np.asarray(each) for each in array]) if _holds_arrays(array) else array


def _holds_arrays(array: Any) -> bool:
    return array.dtype == object and len(array) > 0 and isinstance(array[0], np.ndarray | list)


def _value(value: Any, kind: str) -> Any:
    """One example's field, in the type that the data set has."""
    return value if kind in ("bytes", "text") else np.asarray(value, kind)[()]


mlflow.models.set_model(Predictor())
