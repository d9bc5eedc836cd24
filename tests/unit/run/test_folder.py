"""A run's folder: which one is meant, which is the newest, and who may write there."""

import os
from pathlib import Path

import pytest

import streamtrain as st
from streamtrain.run.folder import OptionalFiles, RunFolder, folder_to_resume, running_below


def job(folder: Path) -> st.Job:
    return st.Job(st.Data("nowhere"), model=lambda: None, tracking=st.Tracking(folder=str(folder)))  # type: ignore[arg-type, return-value]


def test_the_newest_run_of_a_name_goes_on(tmp_path: Path) -> None:
    made = [RunFolder.new(str(tmp_path), "digits") for _ in range(3)]
    RunFolder.new(str(tmp_path), "others")
    assert sorted(made, key=lambda each: each.name) == made
    assert folder_to_resume(job(tmp_path), "digits", None) == made[-1]
    assert folder_to_resume(job(tmp_path), "digits", made[0].name) == made[0]
    assert folder_to_resume(job(tmp_path), "nobody", None) is None


def test_promise_10_a_finished_run_does_not_go_on(tmp_path: Path) -> None:
    made = RunFolder.new(str(tmp_path), "digits")
    made.result.write_text("{}")
    with pytest.raises(st.ConfigError, match=r"expected a run that has not ended, found result\.json; start a new"):
        folder_to_resume(job(tmp_path), "digits", None)


@pytest.mark.parametrize("place", ["", "best.safetensors", "checkpoints/000000000007.safetensors"])
def test_a_file_in_it_means_the_folder(tmp_path: Path, place: str) -> None:
    assert RunFolder.of(tmp_path / place).path == tmp_path


def test_a_name_that_is_not_there_is_told_with_the_newest_that_is(tmp_path: Path) -> None:
    with pytest.raises(st.ConfigError, match=r"digits-1: expected a run's folder, found no such folder; give its path"):
        RunFolder.existing(tmp_path / "digits-1")
    for name in ("digits-1a", "digits-1b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    os.utime(tmp_path / "digits-1a", (0, 0))
    with pytest.raises(st.ConfigError, match=r"found no such folder; name one that is there, as \S+/digits-1b$"):
        RunFolder.existing(tmp_path / "digits-1")


def test_one_process_writes_and_what_a_killed_one_left_is_gone(tmp_path: Path) -> None:
    made = RunFolder.new(str(tmp_path), "digits")
    left = [made.path / f".{name}.0123.partial" for name in ("best.safetensors", "result.json", "skipped_3.jsonl")]
    for file in left:
        file.touch()
    with made.alone():
        assert not any(file.exists() for file in left)
        assert made.state() == "running" and running_below(tmp_path) == [made]
        with (
            pytest.raises(st.ConfigError, match=r"expected a run that is not running, found one that is"),
            made.alone(),
        ):
            pass
    assert made.state() == "stopped" and running_below(tmp_path) == []


def test_a_line_says_once_that_a_file_is_missing_until_it_is_there(tmp_path: Path) -> None:
    said: list[str] = []
    optional = OptionalFiles(said.append)
    for works in (False, False, True, False):
        with optional.writing(tmp_path / "a"):
            if not works:
                raise OSError("full")
    assert len(said) == 2 and all("could not be written: " in line for line in said)
