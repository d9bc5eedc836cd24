"""Runs where a logged model is used, without streamtrain: MODEL INPUTS.npz OUTPUTS.npz.

Numbers are columns by their names; bytes are an array of each example, NAME/NUMBER.
"""

import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np


def columns(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, array in np.load(file).items():
        name, _, number = key.partition("/")
        if number:
            found.setdefault(name, []).append(array.tobytes())
        else:
            found[name] = array
    return found


def main(place: str, inputs: str, outputs: str) -> None:
    model = mlflow.pyfunc.load_model(place)
    given = columns(Path(inputs))
    if any(isinstance(column, list) for column in given.values()):
        import pandas as pd

        many: Any = pd.DataFrame({name: list(column) for name, column in given.items()})
        one: Any = many[:1]
    else:
        many, one = given, {name: column[:1] for name, column in given.items()}
    found = {}
    for how, asked in (("many", many), ("one", one)):
        answer = model.predict(asked)
        named = answer if isinstance(answer, dict) else {"": answer}
        found |= {f"{how}/{name}": array for name, array in named.items()}
    assert "streamtrain" not in sys.modules and "ray" not in sys.modules
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
