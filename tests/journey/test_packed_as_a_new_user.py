"""Four kinds of data as people have them: one command each, a report that says everything, and a run over Ray."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.command import streamtrain

pytestmark = pytest.mark.usefixtures("local_ray")

datasets.disable_progress_bars()


def packed(folder: Path, source: str, *flags: str) -> dict[str, Any]:
    """What `pack` reports; every column and file by its name."""
    said = streamtrain("pack", str(folder / source), str(folder / "packed"), "--json", *flags)
    assert said.returncode == 0, said.stderr
    report: dict[str, Any] = json.loads(said.stdout)["report"]
    assert not said.stderr.count("Warning")
    return report | {"columns": {column["name"]: column for column in report["columns"]}}


def train_a_pass(folder: Path, data: st.Data, width: int, classes: int, *, inline: bool = True) -> None:
    """The trial, then one pass, over Ray by two workers: every training example once, and a finite risk."""
    job = st.Job(
        data,
        lambda: torch.nn.Linear(width, classes),
        batch_size=8,
        mode=st.Epochs(max_passes=1),
        workers=2,
        tracking=st.Tracking(uri=f"sqlite:///{folder / 'mlflow.db'}", folder=str(folder / "runs")),
    )
    trial = preflight(plan(job))
    assert trial.output is not None and np.isfinite(trial.output).all()
    done = st.train(job, inline=inline, quiet=True)
    assert done.chosen.step == -(-len(st.open(data.url, "train")) // 8)
    assert np.isfinite(done.chosen.generalization.loss.mean) and np.isfinite(done.chosen.empirical.loss.mean)
    assert (done.folder / "risk_loss.png").exists()


def flat(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


def test_a_folder_of_mixed_pictures(tmp_path: Path) -> None:
    kinds = [("RGB", "jpg"), ("RGBA", "png"), ("P", "png"), ("L", "png"), ("1", "bmp"), ("P", "gif"), ("RGB", "tif")]
    for number in range(70):
        mode, suffix = kinds[number % len(kinds)]
        place = tmp_path / "icons" / ("actions", "places")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (8 + number % 5, 8), number % 2).save(place / f"{number}.{suffix}")
    (tmp_path / "icons/index.theme").write_text("[Icon Theme]")
    report = packed(tmp_path, "icons")
    columns = report["columns"]
    assert {name: columns[name]["kind"] for name in (".jpg", ".png", ".bmp", ".gif", ".tif")} == {
        ".jpg": "10 files",
        ".png": "30 files",
        ".bmp": "10 files",
        ".gif": "10 files",
        ".tif": "10 files",
    }
    assert columns[".theme"]["became"].startswith("left out")
    assert columns["folders of icons"]["became"] == "2 classes" and "8×8 to 8×12" in columns["image"]["became"]
    data = st.Data(str(tmp_path / "packed"), inputs=("image",), image_size=(8, 8), image_mode="rgb", transform=flat)
    train_a_pass(tmp_path, data, 8 * 8 * 3, 2, inline=False)


def test_a_table_with_missing_values_texts_and_times(tmp_path: Path) -> None:
    lines = ["delay,carrier,tail,time_hour,label"]
    for row in range(400):
        delay = "" if row % 40 == 7 else f"{row / 4}"
        lines.append(
            f"{delay},{'UAB'[row % 3]}A,N{row},2013-01-{1 + row % 28:02d}T{row % 24:02d}:00:00Z,{'xy'[row % 2]}"
        )
    (tmp_path / "flights.csv").write_text("\n".join(lines) + "\n")
    report = packed(tmp_path, "flights.csv", "--missing", "nan", "--by", "time_hour")
    columns = report["columns"]
    assert (columns["delay"]["missing"], columns["delay"]["field"]) == (10, "features")
    assert columns["carrier"]["became"] == "3 categories" and columns["tail"]["became"] == "text"
    assert columns["label"]["became"] == "2 classes" and "time_hour" in columns
    assert report["examples"] == {"train": 320, "validation": 40, "test": 40} and "latest" in report["split_by"]

    def filled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**batch, "features": torch.nan_to_num(batch["features"]).float()}

    data = st.Data(str(tmp_path / "packed"), inputs=("features",), transform=filled)
    train_a_pass(tmp_path, data, len(st.open(tmp_path / "packed").columns["features"]), 2)


def test_a_hugging_face_data_set_with_splits_and_class_columns(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "x": datasets.List(datasets.Value("float32"), length=4),
            "fine_label": datasets.ClassLabel(names=["a", "b", "c", "d"]),
            "coarse_label": datasets.ClassLabel(names=["u", "v"]),
        }
    )
    parts = {
        name: datasets.Dataset.from_dict(
            {
                "x": [[float(n)] * 4 for n in range(count)],
                "fine_label": [n % 4 for n in range(count)],
                "coarse_label": [n % 2 for n in range(count)],
            },
            features,
        )
        for name, count in {"train": 64, "validation": 16, "test": 20}.items()
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    report = packed(tmp_path, "saved", "--label", "fine_label")
    assert report["examples"] == {"train": 64, "validation": 16, "test": 20}
    assert report["split_by"] == "as the source has them"
    assert report["columns"]["fine_label"]["became"] == "4 classes"
    assert report["columns"]["coarse_label"]["became"] == "2 categories"
    opened = st.open(tmp_path / "packed")
    assert opened.classes == ("a", "b", "c", "d")
    train_a_pass(tmp_path, st.Data(str(tmp_path / "packed"), inputs=("x",), target="fine_label"), 4, 4)


def sound(seconds: float, frequency: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8000)
        tone = np.sin(np.arange(int(8000 * seconds)) * frequency / 8000 * 2 * np.pi)
        written.writeframes((tone * 20_000).astype("<i2").tobytes())
    return stream.getvalue()


def heard(example: dict[str, Any]) -> dict[str, Any]:
    """The first 64 samples of a sound."""
    with wave.open(io.BytesIO(example["audio"]), "rb") as opened:
        samples = np.frombuffer(opened.readframes(64), "<i2").astype(np.float32) / 32768
    return {"audio": samples, "label": example["label"]}


def test_sounds_by_class(tmp_path: Path) -> None:
    for number in range(40):
        place = tmp_path / "sounds" / ("high", "low")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.wav").write_bytes(sound(0.05 + number / 1000, 880 // (1 + number % 2)))
    (tmp_path / "sounds/high/notes.txt").write_text("recorded at home")
    report = packed(tmp_path, "sounds")
    assert report["columns"][".wav"] | {"became": ""} == {
        "name": ".wav",
        "kind": "40 files",
        "field": "audio",
        "became": "",
        "low": None,
        "high": None,
        "missing": 0,
        "note": "",
    }
    assert report["columns"][".txt"]["became"] == "left out: not sounds"
    train_a_pass(tmp_path, st.Data(str(tmp_path / "packed"), inputs=("audio",), map=heard), 64, 2)
