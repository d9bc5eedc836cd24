"""The emoji job as a user starts it: packages laid out, pack, training; small, in one process."""

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import streamtrain as st
from tests.support.command import streamtrain as run_command

ROOT = Path(__file__).parents[2]
CATEGORIES = ("Activities", "Animals & Nature", "Component", "Flags", "Food & Drink", "Objects", "People & Body")
CATEGORIES += ("Smileys & Emotion", "Symbols", "Travel & Places")
EACH = 24


def drawing(category: int, number: int) -> bytes:
    """A PNG as the packages have them, 64×64 and transparent where nothing is drawn: bars, their number by category."""
    image = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(image)
    for bar in range(category + 1):
        pen.rectangle((6 * bar + 2, 4 + number % 8, 6 * bar + 5, 59), fill=(25 * category, 8 * number, 90, 255))
    data = io.BytesIO()
    image.save(data, "png")
    return data.getvalue()


def package(vendor: str, file: Path) -> None:
    """A tarball in the form of the npm packages; the second vendor has not drawn number 3 of each category."""
    numbers = [(category, number) for category in range(len(CATEGORIES)) for number in range(EACH)]
    about = [
        {
            "image": f"{1000 * category + number:x}.png",
            "category": CATEGORIES[category],
            f"has_img_{vendor}": vendor == "google" or number != 3,
        }
        for category, number in numbers
    ]
    contents = {"package/emoji.json": json.dumps(about).encode()}
    for (category, number), each in zip(numbers, about, strict=True):
        if each[f"has_img_{vendor}"]:
            contents[f"package/img/{vendor}/64/{each['image']}"] = drawing(category, number)
    contents["package/img/google/sheets/64.png"] = b"left out"
    with tarfile.open(file, "w:gz") as tarball:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tarball.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the data script makes of two packages, which an npm of ours hands it instead of the registry's."""
    folder = tmp_path_factory.mktemp("emoji")
    for vendor in ("google", "twitter"):
        package(vendor, folder / f"emoji-datasource-{vendor}-16.0.0.tgz")
    (folder / "bin").mkdir()
    npm = folder / "bin" / "npm"
    npm.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "pack --silent" ] || exit 1\nname=$(echo "$3" | tr @ -).tgz\n'
        f'cp "{folder}/$name" . && echo "$name"\n'
    )
    npm.chmod(0o755)
    words = [sys.executable, str(ROOT / "jobs" / "classification" / "emoji_data.py"), str(folder)]
    subprocess.run(words, check=True, env={"PATH": f"{npm.parent}:/usr/bin:/bin"})
    done = run_command("pack", str(folder / "pictures"), str(folder / "packed"))
    assert done.returncode == 0, done.stderr
    return folder


def test_both_drawings_of_an_emoji_are_in_one_split_and_no_tone_is_taken(folder: Path) -> None:
    found = [file.relative_to(folder / "pictures").parts for file in (folder / "pictures").rglob("*.png")]
    assert len(found) == 9 * (2 * EACH - 1)
    places = {(category, name.partition("_")[0], split) for split, category, name in found}
    assert len(places) == 9 * EACH, "one split for each"
    assert {category for category, _, _ in places} == {name.partition(" ")[0].lower() for name in CATEGORIES} - {
        "component"
    }
    counts = Counter(split for split, _, _ in found)
    assert counts["train"] > 6 * counts["validation"] > 0 and counts["test"] > 0


def test_pictures_are_moved_within_their_margin_and_mirrored(folder: Path) -> None:
    job = st.load_job(ROOT / "jobs" / "classification" / "emoji.py")
    image = np.full((32, 32, 3), 255, np.uint8)
    image[10, 12] = 0
    seen = set()
    for seed in range(400):
        assert job.data.augment is not None
        moved = np.asarray(job.data.augment({"image": image}, np.random.default_rng(seed))["image"])
        assert moved.shape == image.shape
        ((row, column),) = np.argwhere((moved == 0).all(-1)).tolist()
        seen.add((row, column))
    assert {row for row, _ in seen} == set(range(6, 15))
    assert {column for _, column in seen} == {*range(8, 17), *range(15, 24)}, "12 and, mirrored, 19; 4 each way"


def test_a_square_is_erased() -> None:
    job = st.load_job(ROOT / "jobs" / "classification" / "emoji.py")
    images = torch.ones(200, 3, 32, 32)
    assert job.data.augment_batch is not None
    erased = job.data.augment_batch({"image": images}, torch.Generator().manual_seed(1))["image"] == 0
    assert torch.equal(erased[:, 0], erased[:, 2]) and int(erased[:, 0].sum((1, 2)).min()) > 0
    heights = erased[:, 0].any(2).sum(1)
    assert int(heights.max()) == 16 and torch.equal(erased[:, 0].sum((1, 2)), heights * erased[:, 0].any(1).sum(1)), (
        "no holes"
    )


def test_it_trains(folder: Path, tmp_path: Path) -> None:
    job = st.load_job(ROOT / "jobs" / "classification" / "emoji.py")
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(folder / "packed")),
        mode=st.Epochs(max_passes=4),
        evaluate=st.Evaluate(),
        schedule=st.Schedule(warmup_steps=5),
        batch_size=32,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    result = st.train(small, name="emoji", inline=True)
    assert result.chosen.generalization.error.mean < 0.6, "by chance 8 of 9"
    assert result.examples_used == 4 * len(st.open(folder / "packed", "train"))
