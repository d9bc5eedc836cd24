"""What the READMEs say is short, its commands are the ones that CI runs, and what they name exists."""

import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.support.command import streamtrain_forked

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SUBCOMMANDS_OF_A_JOB = ("train", "submit")


def commands(page: Path) -> list[str]:
    """The commands of a page's ``sh`` blocks, and those of ours in its blocks without a language."""
    blocks = re.findall(r"^ *```(sh)?\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [(kind, line.partition(" #")[0].strip()) for kind, block in blocks for line in block.splitlines()]
    return [line for kind, line in lines if line and (kind or line.startswith(("streamtrain ", "make ")))]


def paragraphs(text: str) -> list[str]:
    """Paragraphs, items of lists and headings: no code, no tables."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-|#*]|\d+\.) ?)", prose)
    return [part for part in parts if not part.lstrip().startswith("|")]


def long_sentences(text: str) -> list[str]:
    sentences = [s for part in paragraphs(text) for s in re.split(r"(?<=[.!?:])\s+", part)]
    return [sentence for sentence in sentences if len(sentence.split()) > 35]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@cache
def help_of(name: str, *job: str) -> str:
    done = streamtrain_forked(name, *job, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_are_the_makefiles_and_cis() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make demo", "make test"]
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\nmake test")


def test_the_front_page_is_short() -> None:
    """A stranger reads it to its end: its first screen has 40 lines, the rest is a few minutes."""
    first, _, _ = README.partition("\n## ")
    assert len(first.splitlines()) <= 40
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 1600
    assert len(long_sentences(README)) <= 2, long_sentences(README)
    assert [p for p in paragraphs(README) if len(p.split()) > 80] == []


@each_page
def test_no_paragraph_of_a_page_has_more_than_120_words(page: Path) -> None:
    assert [p for p in paragraphs(page.read_text()) if len(p.split()) > 120] == []


def test_what_is_counted_is_prose() -> None:
    text = "# One\n\nTwo three.\n- four\n- five: six\n\n| not | this |\n\n```\nnor this\n```\n1. seven\n"
    assert [p.split() for p in paragraphs(text) if p.split()] == [
        *(["#", "One"], ["Two", "three."], ["-", "four"], ["-", "five:", "six"], ["1.", "seven"])
    ]
    long = " ".join(["word"] * 36)
    assert long_sentences(f"Short. {long}. {long}: end") == [f"{long}.", f"{long}:"]


@each_page
def test_every_command_of_a_page_is_one_that_works(page: Path) -> None:
    """Flags are in the command's help, targets in the Makefile, extras in pyproject.toml, modules and files there.

    `make demo` runs as written in tests/journey/test_two_commands.py, `pip wheel` in tests/journey/test_wheel.py.
    """
    for command in commands(page):
        program, *words = shlex.split(command)
        assert program in CHECKS, f"{command}: no test knows {program}"
        CHECKS[program](words)


def check_streamtrain(words: list[str]) -> None:
    name, *rest = words
    job = [str(ROOT / rest[0])] if name in SUBCOMMANDS_OF_A_JOB and rest[0] != "JOB.py" else []
    for word in job:
        assert Path(word).exists(), word
    shown = help_of(name, *(job if name == "train" else []))
    if name == "submit":
        shown += help_of("train", *job)
    for word in rest:
        assert not word.startswith("--") or word.partition("=")[0] in shown, (name, word)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wheel = f"dist/{project['name']}-{project['version']}-py3-none-any.whl"
    command, *rest = words
    assert command in ("wheel", "install")
    for word in rest if command == "install" else []:
        named = re.fullmatch(r"([^\[]*)(?:\[(.*)\])?", word)
        assert named and named[1] == wheel
        assert set(filter(None, (named[2] or "").split(","))) <= set(project["optional-dependencies"])


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        assert (ROOT / words[0]).exists(), words[0]
    elif words[1].startswith("tests."):
        assert (ROOT / (words[1].replace(".", "/") + ".py")).exists(), words[1]
    else:
        assert words[1] == "pytest", words
        assert [word for word in words[2:] if "/" in word and not (ROOT / word).exists()] == []


def check_git(words: list[str]) -> None:
    assert subprocess.run(["git", words[0], "-h"], capture_output=True, text=True).returncode == 129, words


CHECKS = {
    "streamtrain": check_streamtrain,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "git": check_git,
}


@each_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = page.parent / name if name else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_the_places_that_the_ten_changes_name_exist() -> None:
    """Files and functions of the developer's page: whoever moves one, moves it there too."""
    page = ROOT / "tests" / "README.md"
    _, _, section = page.read_text().partition("\n## Ten changes")
    rows = re.findall(r"^\| (?!change|---)([^|]+) \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) == 10
    for change, where in rows:
        links = re.findall(r"\[[^\]]+\]\(([^)]+)\)", where)
        assert links, change
        assert [link for link in links if not (page.parent / link).is_file()] == [], change
        text = "".join((page.parent / link).read_text() for link in links)
        assert [name for name in re.findall(r"`(\w+)`", where) if not re.search(rf"\b{name}\b", text)] == [], change


def test_no_path_of_a_machine_and_no_registry_in_the_project() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.suffix in (".py", ".md", ".toml", ".lock", "") and file != Path(__file__):
            text = file.read_text()
            assert not re.search(r"/(root|work|home)/\w|registry\.npmjs|pypi\.org", text), name
