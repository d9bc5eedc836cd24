"""The packages job as a user starts it: data script, pack, training; small, in one process."""

import dataclasses
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import streamtrain as st
from tests.support.command import streamtrain as run_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    script = ROOT / "jobs" / "classification" / "packages_data.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    done = run_command("pack", str(folder / "words.parquet"), str(folder / "packed"), "--split-column", "split")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_text_is_kept_and_each_split_has_its_share_of_every_package(data: Path) -> None:
    table = pq.read_table(data / "words.parquet").to_pylist()
    given = Counter((row["split"], row["label"], tuple(row["words"])) for row in table)
    found: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    for split in ("train", "validation", "test"):
        packed = st.open(data / "packed", split=split)
        assert packed.classes is not None
        for batch in packed.batches(500):
            labels = [packed.classes[label] for label in batch["label"].tolist()]
            found.update((split, label, tuple(row)) for label, row in zip(labels, batch["words"].tolist(), strict=True))
    assert found == given and len(table) > 10_000
    counts = Counter((row["label"], row["split"]) for row in table)
    for label in {row["label"] for row in table}:
        assert counts[label, "train"] > 2 * counts[label, "validation"] > 0
        assert counts[label, "test"] > 0


def test_it_trains(data: Path, tmp_path: Path) -> None:
    job = st.load_job(ROOT / "jobs" / "classification" / "packages.py")
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(data / "packed")),
        mode=st.Online(max_examples=960),
        schedule=st.Schedule(warmup_steps=5),
        evaluate=st.Evaluate(every=960, examples=200),
        batch_size=32,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    result = st.train(small, name="packages", inline=True)
    assert result.chosen.empirical.loss.mean < 0.9 * math.log(8), "no better than knowing nothing"
    assert 0 < result.chosen.generalization.error.mean < 1
