"""The job on spoken letters as a user starts it: a package unpacked, pack, training; small, in one process."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from tests.support.command import streamtrain as run_command

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "classification" / "letters.py"
LANGUAGES, EACH = 4, 16


def tone(language: int, number: int) -> tuple[np.ndarray, int]:
    """A hum whose height tells the language, of half a second to one and a half; its rate tells nothing."""
    rate = (22_050, 44_100)[number % 2]
    time = np.arange(int(rate * (0.5 + number / EACH))) / rate
    sound = np.sin(2 * np.pi * 220 * 2**language * time) * np.exp(-3 * (time - time.mean()) ** 2)
    return (np.stack([sound, sound], 1) if number % 3 else sound), rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the data script makes of a package, which an apt-get of ours hands it instead of Debian's."""
    folder = tmp_path_factory.mktemp("letters")
    inside = folder / "package" / "usr" / "share" / "klettres"
    for language in range(LANGUAGES):
        for number in range(EACH):
            place = inside / f"l{language}" / ("alpha" if number % 2 else "syllab") / f"{number}.ogg"
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, *tone(language, number))
    (inside / "l0" / "about.txt").write_text("no sound")
    about = (
        "Package: klettres-data\nVersion: 1\nArchitecture: all\nMaintainer: none <none@localhost>\nDescription: test\n"
    )
    (folder / "package" / "DEBIAN").mkdir()
    (folder / "package" / "DEBIAN" / "control").write_text(about)
    build = ["dpkg-deb", "--build", "-z1", str(folder / "package"), str(folder / "klettres-data_1_all.deb")]
    subprocess.run(build, check=True, capture_output=True)
    (folder / "bin").mkdir()
    apt = folder / "bin" / "apt-get"
    apt.write_text(f'#!/bin/sh\n[ "$*" = "download -qq klettres-data" ] && cp "{folder}"/*.deb .\n')
    apt.chmod(0o755)
    words = [sys.executable, str(JOB.with_name("letters_data.py")), str(folder)]
    subprocess.run(words, check=True, env={"PATH": f"{apt.parent}:/usr/bin:/bin"})
    done = run_command("pack", str(folder / "sounds"), str(folder / "packed"))
    assert done.returncode == 0, done.stderr
    return folder


def test_every_sound_is_in_the_folder_of_its_language(folder: Path) -> None:
    found = {file.relative_to(folder / "sounds").parts for file in (folder / "sounds").rglob("*.*")}
    kinds = ("syllab", "alpha")
    assert found == {
        (f"l{language}", f"{kinds[number % 2]}_{number}.ogg") for language in range(LANGUAGES) for number in range(EACH)
    }


def test_a_tone_is_loudest_in_its_band_whatever_the_rate_length_and_channels(folder: Path) -> None:
    job = st.load_job(JOB)
    assert job.data.map is not None
    loudest: dict[int, set[int]] = {}
    for number in range(EACH):
        for language in range(LANGUAGES):
            (file,) = (folder / "sounds" / f"l{language}").glob(f"*_{number}.ogg")
            made = job.data.map({"audio": file.read_bytes(), "label": language})
            sound = np.asarray(made["sound"])
            assert sound.shape == (1, 64, 98) and sound.dtype == np.float32 and made["label"] == language
            assert abs(float(sound.mean())) < 1e-3 and abs(float(sound.std()) - 1) < 1e-3
            loudest.setdefault(language, set()).add(int(sound[0, :, 49].argmax()))
    assert all(max(bands) - min(bands) <= 1 for bands in loudest.values()), loudest
    heights = [min(loudest[language]) for language in range(LANGUAGES)]
    assert heights == sorted(heights) and len(set(heights)) == LANGUAGES


def test_it_trains(folder: Path, tmp_path: Path) -> None:
    job = st.load_job(JOB)
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(folder / "packed")),
        mode=st.Epochs(max_passes=3),
        evaluate=st.Evaluate(),
        schedule=st.Schedule(warmup_steps=2),
        batch_size=4,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    result = st.train(small, name="letters", inline=True)
    assert result.chosen.empirical.error.mean < 0.5, "by chance 3 of 4"
