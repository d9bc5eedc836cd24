"""A trained model in MLflow's format, on disk."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamtrain.track.tracker import ModelCard, ProgramCard

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

PREDICTOR = Path(__file__).with_name("predictor.py")


def save_model(card: ModelCard, folder: Path) -> None:
    """Saves the model; what it needs is said, not guessed by running it."""
    needs = list(card.needs) or [_pinned(name) for name in ("torch", "numpy", "cloudpickle")]
    if card.program is not None:
        _save_program(card.program, needs, folder)
    else:
        _save_pickle(card, needs, folder)


def _save_program(program: ProgramCard, needs: list[str], folder: Path) -> None:
    """As a program and the code that calls it, with inputs by their fields' names, and an example of them."""
    import mlflow.models
    import mlflow.pyfunc

    quieten()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of copies on this disk
    notes = {"inputs": [f"{name}: {_form(array)}" for name, array in program.inputs.items()], "notes": program.notes}
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        files = program.save(Path(made))
        # MLflow copies artifacts twice, once to where temporary files lie: what may be large is moved in afterwards
        large = files["program"].rename(Path(made) / "moved_in")
        files["program"].touch()
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(PREDICTOR),
            artifacts={name: str(file) for name, file in files.items()},
            signature=_named_signature(program),
            input_example=_example(program.inputs),
            pip_requirements=needs,
            metadata=notes,
        )
        large.replace(folder / "artifacts" / files["program"].name)
    described = mlflow.models.Model.load(str(folder))
    described.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    described.save(str(folder / "MLmodel"))


def _save_pickle(card: ModelCard, needs: list[str], folder: Path) -> None:
    """By pickle, with signature and input example.

    A model whose output is not one tensor of real numbers has neither: MLflow's signatures cannot say its form. An
    input example is written as JSON, which has no complex numbers.
    """
    import mlflow.pytorch

    quieten()
    one = len(card.inputs) == 1
    example = card.inputs[0] if one else {f"input_{i}": array for i, array in enumerate(card.inputs)}
    has_example = one and card.output is not None and card.inputs[0].dtype.kind != "c"
    mlflow.pytorch.save_model(
        card.model,
        str(folder),
        signature=_signature(card, example),
        input_example=example if has_example else None,
        pip_requirements=needs,
        serialization_format="pickle",
    )


def _signature(card: ModelCard, example: Any) -> ModelSignature | None:
    """Of one output; its sizes and the inputs' only where they are always the same."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema, TensorSpec

    if card.output is None:
        return None
    found = infer_signature(example, card.output)
    if not card.any_size:
        return found
    inputs, outputs = (
        Schema([TensorSpec(each.type, (-1,) * len(each.shape), each.name) for each in schema.inputs])
        for schema in (found.inputs, found.outputs)
    )
    return ModelSignature(inputs, outputs)


def _named_signature(program: ProgramCard) -> ModelSignature:
    """Tensors by name; where an input is bytes or text, columns of a table."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Schema:
        return Schema(
            [TensorSpec(a.dtype, _shape(a, name in program.any_size), name or None) for name, a in arrays.items()]
        )

    has_objects = any(array.dtype == object for array in program.inputs.values())
    inputs = _columns(program.inputs) if has_objects else tensors(program.inputs)
    return ModelSignature(inputs, tensors(program.outputs))


def _shape(array: np.ndarray[Any, Any], any_size: bool) -> tuple[int, ...]:
    """Of one example's array, for any number of them."""
    return (-1,) * array.ndim if any_size else (-1, *array.shape[1:]) if array.ndim else ()


def _columns(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType

    def kind_of(array: np.ndarray[Any, Any]) -> Any:
        if array.dtype == object:
            return DataType.binary if isinstance(array[0], bytes) else DataType.string
        kind: Any = {"b": DataType.boolean, "f": DataType.double}.get(array.dtype.kind, DataType.long)
        for _ in range(array.ndim - 1):
            kind = Array(kind)
        return kind

    return Schema([ColSpec(kind_of(array), name) for name, array in inputs.items()])


def _example(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """As `predict` takes it; none where JSON cannot have it."""
    import pandas as pd

    if any(array.dtype.kind == "c" for array in inputs.values()):
        return None
    if any(array.dtype == object for array in inputs.values()):
        return pd.DataFrame({name: list(array) for name, array in inputs.items()})
    return dict(inputs)


def _form(array: np.ndarray[Any, Any]) -> str:
    """Of one example's field, in words."""
    if array.dtype == object:
        return "bytes" if isinstance(array[0], bytes) else "text"
    return f"{array.dtype} {array.shape[1:]}" if array.ndim > 1 else str(array.dtype)


def _pinned(name: str) -> str:
    return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"


def quieten() -> None:
    """Leaves the terminal to the run: MLflow's word on tables it makes, on pickle, which its users know, and on a
    database's errors, which it raises too."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
