"""Ray itself: started on this machine for one process alone, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator

import ray

from streamtrain.prepare.surroundings import room_for_ray
from streamtrain.run.fleet.cluster.ray_private import callers_paths, for_one_process, read_token_again

VARIABLE = "RAY_AUTH_TOKEN"
FILE_VARIABLE = "RAY_AUTH_TOKEN_PATH"
"""Of the environment: where Ray finds its token, or the file that has it."""
OWN: tuple[dict[str, str], ...] = (
    # workers yield to everything else (nice 15): some that wait for each other would each wait for all
    {"RAY_worker_niceness": "0"},
    # a node that tries to reach its object store before that is there sleeps a second; it tries 10 s in all, as before
    {"RAY_raylet_client_connect_timeout_milliseconds": "20", "RAY_raylet_client_num_connect_attempts": "500"},
)
"""Settings of a Ray that is started here, those together that belong together; the environment's own go first."""


def start_ray(say: Callable[[str], None] = lambda _: None) -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine; nothing where it runs already.

    What is started here listens on localhost only, and wants a token: the one that RAY_AUTH_TOKEN or
    RAY_AUTH_TOKEN_PATH has, or else a new one, which no file holds and only this process and its children know.
    ``RAY_AUTH_MODE=disabled`` turns the token off.

    Args:
        say: takes a line about how long it took, where it was started.
    """
    if ray.is_initialized():
        return
    # this variable asks for Ray's coming behaviour, and with it a warning less at every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if will_start_ray():
        for settings in OWN:
            if os.environ.keys().isdisjoint(settings):
                os.environ.update(settings)
        began = time.monotonic()
        room = room_for_ray()
        if room.note:
            say(room.note)
        with _for_us_alone():
            ray.init(
                "local",  # not the cluster that somebody has started here, which would be joined without a word
                logging_level=logging.ERROR,
                include_dashboard=False,
                job_config=callers_paths(),
                num_cpus=room.cpus,
                object_store_memory=room.objects,
                _plasma_directory=None if room.objects_in is None else str(room.objects_in),
                _temp_dir=str(room.folder),
            )
        say(f"Ray started in {time.monotonic() - began:.1f} s")
    else:
        if os.environ.get(VARIABLE) == _token():  # of a Ray that this process had before
            _set_token(None)
        ray.init(logging_level=logging.ERROR, job_config=callers_paths())


@contextlib.contextmanager
def _for_us_alone() -> Iterator[None]:
    """Ray that is started in the block can be reached from this machine only, by who has its token.

    Its processes are in groups of their own.
    """
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and not os.environ.get(VARIABLE) and not os.environ.get(FILE_VARIABLE):
        _set_token(_token())
    with for_one_process():
        yield


@functools.cache
def _token() -> str:
    """Of what this process starts; Ray's own would be in a file that others of the machine may read."""
    return secrets.token_hex(32)


def _set_token(token: str | None) -> None:
    if token is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = token
    read_token_again()


def will_start_ray() -> bool:
    """Whether `start_ray` will start Ray on this machine."""
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
