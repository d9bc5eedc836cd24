"""A trained model as others use it: a program of fields to outputs, and what it needs to run without us."""

from streamtrain.serving.evaluated import NotExported
from streamtrain.serving.examples import Examples, read_examples
from streamtrain.serving.program import Program, export
from streamtrain.serving.requirements import OF_PICKLE, of_model, pinned
from streamtrain.serving.served import Prospect, Served, prospect, serve

__all__ = [
    "OF_PICKLE",
    "Examples",
    "NotExported",
    "Program",
    "Prospect",
    "Served",
    "export",
    "of_model",
    "pinned",
    "prospect",
    "read_examples",
    "serve",
]
