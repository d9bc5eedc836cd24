"""Flags out of typed declarations: what each command takes, and how a wrong flag is told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import tyro

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Balanced, BatchSize, Epochs, Group, Job, Mixture, Online, Schedule
from streamtrain.job.objective import OfMeans
from streamtrain.job.objective.metric import is_whole

if TYPE_CHECKING:
    from streamtrain.run.checkpoints.beginning import Beginning

Parsed = TypeVar("Parsed")
INLINE = "--inline"
WITH_VALUE = {"--more-passes": "a number from 1 on", "--from": "a run's folder or a .safetensors file"}
"""Flags that say where a run begins and have a value, and what it is."""
SPELLED = tyro.constructors.ConstructorRegistry()
"""Settings that are one flag, in words of their own."""


@SPELLED.primitive_rule
def _spell_batch_size(
    of: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[int | BatchSize] | None:
    if of.type != int | BatchSize:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|USED:INT,…",
        instance_from_str=lambda words: BatchSize.spelled(words[0]),
        is_instance=lambda value: isinstance(value, int | BatchSize),
        str_from_instance=lambda value: [str(value)],
    )


@SPELLED.primitive_rule
def _spell_balance(
    of: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Balanced | None] | None:
    if of.type != Balanced | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|FIELD|weights=FIELD",
        instance_from_str=lambda words: None if words[0] == "None" else Balanced.spelled(words[0]),
        is_instance=lambda value: value is None or isinstance(value, Balanced),
        str_from_instance=lambda value: [str(value)],
    )


@SPELLED.primitive_rule
def _spell_place(
    of: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[str | Mixture] | None:
    """One data set; a mixture stays as the job says."""
    if of.type != str | Mixture:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str | os.PathLike | Mixture),
        str_from_instance=lambda value: [str(value)],
    )


@SPELLED.struct_rule
def _leave_as_declared(of: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """No flags for what is made by a call, of functions or of any settings: it stays as the job says."""
    if not (isinstance(of.default, OfMeans | Group) or is_whole(of.default)):
        return None
    return tyro.constructors.StructConstructorSpec(instantiate=lambda: of.default, fields=())


def parse(
    declaration: type[Parsed], words: Sequence[str], program: str, examples: str, default: Parsed | None = None
) -> Parsed:
    """The declaration filled from flags.

    Raises:
        ConfigError: a wrong flag or value, in one line.
    """
    said = io.StringIO()
    examples = textwrap.indent(examples, "    ")  # else tyro makes one paragraph of them
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                declaration,
                args=list(words),
                default=default,
                prog=program,
                description=f"{declaration.__doc__}\n\nExamples:\n{examples}",
                config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
                registry=SPELLED,
            )
    except SystemExit as stopped:
        if stopped.code in (0, None):
            raise
        raise ConfigError(_unboxed(said.getvalue())) from None
    assert parsed is not None
    return parsed


def own_flags(words: Sequence[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words parted into those of these flags (``--name``; with a value where they end in ``=``), and all others."""
    ours: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        name = word.partition("=")[0]
        if name in own or name + "=" in own:
            ours.append(word)
            if name + "=" in own and "=" not in word:
                ours += [value for value in (next(left, None),) if value is not None]
        else:
            others.append(word)
    return ours, others


def beginning_of(flags: Sequence[str]) -> tuple[Beginning, list[str]]:
    """Where a run shall begin, and the flags that are settings of the job; --json and --inline are neither.

    Raises:
        ConfigError: a flag without what belongs to it.
    """
    from streamtrain.run.checkpoints.beginning import Beginning

    found: dict[str, str] = {}
    others = []
    left = list(flags)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name in ("--resume", *WITH_VALUE):
            if not equals and left and not left[0].startswith("-"):
                value = left.pop(0)
            found[name] = value
        elif name == "--branch" and not equals:
            found[name] = ""
        elif name not in ("--json", INLINE):
            others.append(name + equals + value)
    for name in WITH_VALUE:
        if found.get(name) == "":
            raise ConfigError(
                complaint(name, expected=WITH_VALUE[name], found="nothing", do="write it behind the flag")
            )
    more = found.get("--more-passes", "0")
    if not more.isdecimal() or (more == "0" and "--more-passes" in found):
        raise ConfigError(complaint("--more-passes", expected="a number from 1 on", found=more, do="see --help"))
    resume = found["--resume"] or True if "--resume" in found else False
    return Beginning(resume, "--branch" in found, int(more), found.get("--from")), others


def with_mode(job: Job, flags: list[str]) -> tuple[Job, list[str]]:
    """Takes ``--mode online|epochs`` out of the flags: the other mode, with its defaults."""
    if "--mode" not in flags:
        return job, flags
    at = flags.index("--mode")
    name = flags[at + 1] if at + 1 < len(flags) else "nothing"
    if name not in ("online", "epochs"):
        raise ConfigError(f"--mode: expected online or epochs, found {name}; choose one of them")
    mode = Online() if name == "online" else Epochs()
    rest = flags[:at] + flags[at + 2 :]
    return (job if type(job.mode) is type(mode) else dataclasses.replace(job, mode=mode)), rest


def with_optimizer_named(job: Job, flags: list[str]) -> tuple[Job, list[str]]:
    """Takes ``--optimizer NAME`` out of the flags: another optimizer, with its defaults.

    Where a flag sets the schedule, it is a shape in place of the job's function.
    """
    from streamtrain.aggregate.descent.rules import with_optimizer  # brings PyTorch, which most commands do not need
    from streamtrain.aggregate.optimizers import known_optimizers

    for flag in flags:
        if flag.startswith("--sgd."):
            expected = "--optimizer.lr, --clip.norm, --schedule.kind, --average.decay, --nonfinite and so on"
            raise ConfigError(complaint(flag, expected=expected, found="an old name", do="see --help"))
    job = with_optimizer(job)
    if not isinstance(job.schedule, Schedule) and any(flag.startswith("--schedule.") for flag in flags):
        job = dataclasses.replace(job, schedule=Schedule())
    if "--optimizer" not in flags:
        return job, flags
    at = flags.index("--optimizer")
    name = flags[at + 1] if at + 1 < len(flags) else "nothing"
    known = known_optimizers()
    if name not in known:
        expected = f"one of {', '.join(sorted(known))}"
        raise ConfigError(complaint("--optimizer", expected=expected, found=name, do="choose one of them"))
    rest = flags[:at] + flags[at + 2 :]
    return (job if type(job.optimizer) is known[name] else dataclasses.replace(job, optimizer=known[name]())), rest


def _unboxed(box: str) -> str:
    """The text of tyro's framed message, on one line."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if line.startswith("│")]
    text = " ".join(line for line in lines if line and not line.startswith("─"))
    for rest in (" For full helptext", " Got errors", " Argument helptext:"):
        text, _, _ = text.partition(rest)
    text = re.sub(r"^Error parsing (Job: )?", "", text)
    # the likeliest flag by its names; tyro sets its whole help behind it, and further ones
    text = re.sub(r"(Perhaps you meant: --[\w.-]+(?:, --[\w.-]+)*).*", r"\1", text)
    return text.replace(" Perhaps you meant:", "; perhaps you meant") + "; see --help"
