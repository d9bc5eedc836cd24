"""What a member of a tar decodes to, as its header tells."""

from __future__ import annotations

from streamtrain.images.checking import form_of_image
from streamtrain.images.kinds import is_image
from streamtrain.shards.codec.npy import npy_form

Form = tuple[str | None, tuple[int, ...] | None]
"""Dtype and shape of a decoded example."""


def form_of(extension: str, data: bytes) -> Form:
    """Dtype and shape of what a member decodes to; ``None`` for text, JSON and bytes.

    Looks at headers only, but for images with alpha: one whose pixels are damaged is not always noticed.

    Raises:
        OSError, ValueError: it is not what its extension says.
    """
    kind = extension.rpartition(".")[2]
    if kind == "cls":
        return "int64", ()
    if kind == "npy":
        dtype, shape, _, _ = npy_form(data)
        return dtype.name, shape
    return form_of_image(data) if is_image(extension) else (None, None)


def shown(form: Form) -> str:
    """For messages."""
    return f"{form[0]} of {'any shape' if form[1] is None else f'shape {form[1]}'}"
