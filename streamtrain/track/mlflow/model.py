"""A trained model in MLflow's format, on disk."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrain.track.tracker import ModelCard

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def save_model(card: ModelCard, folder: Path) -> None:
    """Saves the model with signature and input example; what it needs is said, not guessed by running it.

    A model whose output is not one tensor of real numbers has neither: MLflow's signatures cannot say its form. An
    input example is written as JSON, which has no complex numbers.
    """
    import mlflow.pytorch

    quieten()
    one = len(card.inputs) == 1
    example = card.inputs[0] if one else {f"input_{i}": array for i, array in enumerate(card.inputs)}
    has_example = one and card.output is not None and card.inputs[0].dtype.kind != "c"
    needs = [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in ("torch", "numpy", "cloudpickle")
    ]
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


def quieten() -> None:
    """Leaves the terminal to the run: MLflow's word on tables it makes, on pickle, which its users know, and on a
    database's errors, which it raises too."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
