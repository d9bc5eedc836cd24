"""Addresses of MLflow's pages of runs.

MLflow 3.17 opens its pages in the layout for language models (traces, judges, prompts) whatever an experiment's kind
says: the address decides, or the browser, which remembers what was chosen there at the top left.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse

KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""An experiment's tag, and its value where models are trained."""
PAUSE_SECONDS = 0.3


def runs_page(server: str, experiment_id: str) -> str:
    """An experiment's table of runs in the layout for model training, the lowest held-out error first."""
    order = {"orderByKey": "metrics.`chosen/error`", "orderByAsc": "true"}
    query = urllib.parse.urlencode({"workflowType": "machine_learning", **order})
    return f"{server}/#/experiments/{experiment_id}/runs?{query}"


def newest_runs_page(port: int, seconds: float) -> str | None:
    """That of the experiment which training last wrote to; waits for this machine's server on ``port`` to answer.

    ``None`` where there is no such experiment, or no answer in so many seconds.
    """
    wanted = {"filter": f"tags.`{KIND_TAG}` = '{KIND}'", "order_by": ["last_update_time DESC"], "max_results": 1}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/2.0/mlflow/experiments/search", json.dumps(wanted), headers)
            found = json.load(connection.getresponse()).get("experiments", [])
            return runs_page(f"http://localhost:{port}", found[0]["experiment_id"]) if found else None
        except (OSError, http.client.HTTPException, ValueError):  # not up yet
            time.sleep(PAUSE_SECONDS)
        finally:
            connection.close()
    return None
