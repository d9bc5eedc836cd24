"""MLflow's own pages on the store that runs write to."""

from __future__ import annotations

import subprocess
import sys


def serve(port: int) -> int:
    """Runs `mlflow ui` on localhost until it is stopped; its exit code."""
    from streamtrain.track.mlflow import default_uri

    uri = default_uri()
    print(f"MLflow on {uri}: open http://localhost:{port} and stop with Ctrl-C", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    return subprocess.call([*command, "--port", str(port)])
