"""What `submit` takes from the shell to the cluster."""

import pytest

from streamtrain.run.fleet.cluster.submitting import shipped_variables
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
