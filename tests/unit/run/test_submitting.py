"""What `submit` takes from the shell to the cluster."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from streamtrain.errors import ConfigError
from streamtrain.run.fleet.cluster.submitting import Cluster, shipped_variables
from streamtrain.store import remote

OF_A_STORE = {
    "s3": {"AWS_ACCESS_KEY_ID": "a", "AWS_ENDPOINT_URL": "http://localhost"},
    "gs": {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json", "GOOGLE_CLOUD_PROJECT": "p"},
    "az": {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_CONNECTION_STRING": "b", "AZURE_CLIENT_SECRET": "c"},
    "hf": {"HF_TOKEN": "t"},
}


@pytest.mark.parametrize("store", sorted({*OF_A_STORE, *remote.VARIABLES, *remote._EXTRAS.values()}))
def test_every_stores_credentials_go_with_a_job(store: str) -> None:
    assert shipped_variables({**OF_A_STORE[store], "HOME": "/h", "PATH": "/bin"}) == OF_A_STORE[store]


def test_mlflows_variables_go_and_nothing_else_does() -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://m", "HOME": "/h", "RAY_AUTH_TOKEN": "x", "MY_AWS_KEY": "k"}
    assert shipped_variables(environment) == {"MLFLOW_TRACKING_URI": "http://m"}


class Losing:
    """A cluster's job API that loses its answers: before or after it has taken the job, some times."""

    def __init__(self, losses: list[str]) -> None:
        self.losses = losses
        self.taken: list[str] = []

    def submit_job(self, submission_id: str, **_: object) -> str:
        lost = self.losses.pop(0) if self.losses else None
        if lost != "before":
            assert submission_id not in self.taken, "taken twice"
            self.taken.append(submission_id)
        if lost is not None:
            raise requests.ConnectionError("closed without response")
        return submission_id

    def get_job_info(self, submission_id: str) -> object:
        if submission_id not in self.taken:
            raise RuntimeError("status code 404")
        return SimpleNamespace(submission_id=submission_id)


@pytest.mark.parametrize("losses", [[], ["before"], ["after"], ["before", "before", "after"]])
def test_a_job_whose_answer_is_lost_is_taken_once(
    losses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Losing(losses)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda _: client)
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "job.py").touch()
    assert client.taken == [Cluster("http://head:8265").submit(tmp_path / "job.py", [])]


def test_a_cluster_that_never_answers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Losing(["before"] * 5)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda _: client)
    monkeypatch.setattr("streamtrain.run.fleet.cluster.submitting.STARTING_SECONDS", -1.0)
    (tmp_path / "job.py").touch()
    with pytest.raises(ConfigError, match=r"^--address http://head:8265: expected a Ray cluster.s job API, found no "):
        Cluster("http://head:8265").submit(tmp_path / "job.py", [])
