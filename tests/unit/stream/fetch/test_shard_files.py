"""Shards as local files, where they lie."""

from pathlib import Path

import pytest

from streamtrain.errors import ShardError
from streamtrain.stream.fetch.shard_files import LocalFiles, ShardRows
from streamtrain.values import Loading
from tests.support.datasets import pack_digits


def test_local_files_lie_where_they_are_and_come_whole(tmp_path: Path) -> None:
    shard = pack_digits(tmp_path / "a", examples=50).splits["train"].shards[0]
    files = LocalFiles(tmp_path / "a")
    rows = files.covering(ShardRows(shard, 3, 7))
    assert rows == ShardRows.all_of(shard) and rows.whole and rows.as_shard == shard
    assert files.hold(rows) == tmp_path / "a" / shard.file
    files.ahead([rows])
    files.release(rows)
    files.close()
    assert files.health() == Loading() and (tmp_path / "a" / shard.file).exists()


def test_an_altered_local_shard_is_refused_and_kept(tmp_path: Path) -> None:
    shard = pack_digits(tmp_path / "a", examples=50).splits["train"].shards[0]
    file, rows = tmp_path / "a" / shard.file, ShardRows.all_of(shard)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match="expected SHA-256"):
        LocalFiles(tmp_path / "a").hold(rows)
    assert LocalFiles(tmp_path / "a", verify=False).hold(rows) == file and file.exists()
