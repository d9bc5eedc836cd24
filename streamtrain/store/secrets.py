"""What must not be read by others, struck out of text that goes to terminals, logs, journals and MLflow."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|(ACCESS|ACCOUNT|STORAGE)_KEY|CONNECTION_STRING")
_PLACE = re.compile(r"_(PATH|FILE|DIR|MODE|URL|URI)$")
SHORTEST = 8
"""Characters of a secret: a shorter value is as likely a word of the text."""


def masked(text: str) -> str:
    """The text without secrets: of every URL what stands before ``@`` and the query, and values of the environment.

    Of the environment, those of variables whose name says so, as ``MLFLOW_TRACKING_TOKEN`` does.
    """
    text = re.sub(r"(?<=://)[^/?#\s'\"]*@", "***@", text)
    text = re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]+", r"\1?***", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and _SECRET.search(name.upper()) and not _PLACE.search(name):
            text = text.replace(value, "***")
    return text
