"""Bytes from and to anywhere: files of this machine, whole or not at all, and stores behind a URL, with retries."""

from streamtrain.store.local import (
    PARTIAL,
    local_path,
    new_folder,
    no_folder,
    own_temporary_folder,
    remove_partials,
    sha256_of,
    user_cache,
    write_whole,
)
from streamtrain.store.retry import RetryPolicy
from streamtrain.store.secrets import masked

__all__ = [
    "PARTIAL",
    "RetryPolicy",
    "local_path",
    "masked",
    "new_folder",
    "no_folder",
    "own_temporary_folder",
    "remove_partials",
    "sha256_of",
    "user_cache",
    "write_whole",
]
