"""Shards of S3 by plain requests, with the client's credentials; permuted examples, out of small parts of shards."""

from pathlib import Path

import boto3
import fsspec
import pytest
import torch

import streamtrain as st
from streamtrain.packing import PackOptions
from streamtrain.store.remote import Store
from tests.journey.test_remote_stores import QUICK, folder, linear, s3, scaled
from tests.support.datasets import pack_digits
from tests.support.fleet import run
from tests.support.pieces import small_pieces
from tests.support.servers import needs_nginx, nginx

__all__ = ["folder", "s3"]


@pytest.mark.parametrize("way", ["variables", "profile", "settings", "anonymous"])
def test_shards_come_from_s3_straight_with_the_clients_credentials(
    way: str, s3: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they stand; and the client is asked for no shard."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    for variable in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY") if way != "variables" else ():
        monkeypatch.delenv(f"AWS_{variable}")
    if way == "profile":
        written = (
            f"[profile own]\naws_access_key_id=other\naws_secret_access_key=x\nendpoint_url={s3}\nregion=eu-west-1\n"
        )
        (tmp_path / "config").write_text(written)
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "own")
    if way in ("settings", "anonymous"):
        chosen = {"key": "other", "secret": "x"} if way == "settings" else {"anon": True}
        monkeypatch.setitem(fsspec.config.conf, "s3", {**chosen, "endpoint_url": s3})
    if way == "anonymous":
        owner = boto3.client("s3", endpoint_url=s3, aws_access_key_id="key", aws_secret_access_key="secret")
        owner.put_object_acl(Bucket="digits", Key="train/000000.tar", ACL="public-read")
    store = Store("s3://digits", QUICK)
    signed = store._direct._address("digits/train/000000.tar")
    key = {"variables": "key", "profile": "other", "settings": "other", "anonymous": None}[way]
    assert (f"={key}" in signed) if key else ("?" not in signed)
    monkeypatch.setattr(store, "_by_client", None)
    whole = (folder / "train" / "000000.tar").read_bytes()
    assert store.read("train/000000.tar", 0, len(whole)) == whole and store.retries == 0


@needs_nginx
def test_promise_2_permuted_examples_are_the_same_from_a_url_in_a_small_cache(tmp_path: Path) -> None:
    """Out of small parts of shards, whatever room they have."""
    with small_pieces():
        pack_digits(tmp_path / "digits", PackOptions(seed=3, blocks=False, shard_examples=200), wide=True)
        shards = [file.stat().st_size for file in (tmp_path / "digits" / "train").glob("*.tar")]
        results = []
        with nginx(tmp_path / "digits", tmp_path / "nginx") as url:
            for place, room in ((str(tmp_path / "digits"), 99), (url, 7), (url, 99)):
                cache = tmp_path / f"cache{room}"
                data = st.Data(place, transform=scaled, cache=str(cache), cache_bytes=room * max(shards))
                mode = st.Epochs(max_passes=3, reshuffle="examples")
                job = st.Job(data, linear, mode=mode, batch_size=30, lanes=2, tracking=st.Tracking(enabled=False))
                results.append(run(job, tmp_path))
        for name, values in results[0][0].parameters.items():
            assert all(torch.equal(values, result.parameters[name]) for result, _ in results[1:])
        fetched = [fleet.worker._supply.reader("train", lanes=True).loading.bytes_fetched for _, fleet in results]
        assert fetched[0] == 0 and fetched[1] > fetched[2] > sum(shards)
