"""The README's commands are the ones that CI runs, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_the_two_commands_are_the_makefiles_and_cis() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\nmake test")


def test_every_streamtrain_command_of_the_readme_has_its_flags() -> None:
    """`make demo` itself runs as written in tests/journey/test_two_commands.py."""
    used = [command.split()[1:] for command in COMMANDS if command.startswith("streamtrain")]
    assert len(used) >= 5
    for name, *words in used:
        job = [str(ROOT / words[0])] if name == "train" else []
        help_of = [sys.executable, "-m", "streamtrain", name, *job, "--help"]
        shown = subprocess.run(help_of, capture_output=True, text=True, check=True).stdout
        for word in words:
            assert not word.startswith("--") or word in shown, (name, word)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^## (.*)", README, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors, anchor


def test_the_first_screen_is_short() -> None:
    """Name, sentence, figure, commands, output, picture, way and doors, before the first section."""
    first, _, _ = README.partition("\n## ")
    assert len(first.splitlines()) <= 50


def test_no_path_of_a_machine_and_no_registry_in_the_project() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.suffix in (".py", ".md", ".toml", ".lock", "") and file != Path(__file__):
            text = file.read_text()
            assert not re.search(r"/(root|work|home)/\w|registry\.npmjs|pypi\.org", text), name
