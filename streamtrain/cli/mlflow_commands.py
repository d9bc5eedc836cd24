"""`streamtrain sync` and `ui`: what MLflow has, and its pages."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from streamtrain.cli.flags import parse


@dataclass(frozen=True)
class SyncArguments:
    """Delivers to MLflow what it had not taken when runs ended: in order, nothing twice. The journals stay."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs' folders; all below runs/ by default."""
    uri: str | None = None
    """MLflow's tracking URI, where it is not the one that the run was told."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class UiArguments:
    """MLflow's own pages on this folder's runs, or on those of MLFLOW_TRACKING_URI; for this machine only."""

    port: int = 5000
    """Port on localhost."""


def run_sync(words: Sequence[str]) -> None:
    """``streamtrain sync``."""
    from streamtrain.track.mlflow.sync import folders_with_journals, raise_for, sync

    given = parse(SyncArguments, words, "streamtrain sync", "streamtrain sync\nstreamtrain sync runs/mnist-online-*")
    done = []
    for folder in folders_with_journals(given.folders):
        done.append(sync(folder, given.uri))
        if not given.json:
            print(done[-1].line, flush=True)
    if given.json:
        print(json.dumps([synced.summary() for synced in done]))
    elif not done:
        print("no journal below runs/: nothing to deliver")
    raise_for(done)


def run_ui(words: Sequence[str]) -> None:
    """``streamtrain ui``."""
    from streamtrain.track.ui import serve

    given = parse(UiArguments, words, "streamtrain ui", "streamtrain ui --port 5000")
    sys.exit(serve(given.port))
