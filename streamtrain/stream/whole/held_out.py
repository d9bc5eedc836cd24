"""Which held-out sets a job measures by: splits of the run's data set, and others; how many examples they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.job.objective.evaluate import is_place
from streamtrain.shards import Field, Manifest
from streamtrain.store import masked
from streamtrain.stream.opening import open_dataset
from streamtrain.stream.whole.mixed import Source, form_of, parts_of


@dataclass(frozen=True)
class HeldOut:
    """A set that is measured beside the validation split: a split of the run's data set, or of the one at ``place``."""

    split: str
    manifest: Manifest
    place: str | None = None


def held_out_examples(job: Job, held_out: HeldOut, sources: Sequence[Source]) -> int:
    """Examples of a held-out set, of a mixture as many as there are at its shares."""
    mixture = job.data.mixture
    if mixture is not None and held_out.place is None:
        return parts_of(mixture, sources, held_out.split).once
    return held_out.manifest.splits[held_out.split].examples


def check_part(job: Job, sets: Mapping[str, HeldOut], place: str, sources: Sequence[Source]) -> None:
    """Refuses a part of held-out sets that is more than there is.

    Raises:
        ConfigError: of one of them.
    """
    wanted = job.evaluate.examples
    for name, each in sets.items() if wanted is not None else ():
        there = held_out_examples(job, each, sources)
        if wanted is not None and wanted > there:
            expected = f"at most the {there:,} {name} examples of {masked(each.place or place)}"
            do = "lower it or leave it out"
            raise ConfigError(complaint("evaluate.examples", expected=expected, found=f"{wanted:,}", do=do))


def open_held_out(job: Job, manifest: Manifest, place: str, name: str) -> HeldOut:
    """A set that is measured beside the validation split, under this name.

    Raises:
        ConfigError, DataError: there is none, or it has not the fields that the run's data set has.
    """
    wanted = job.evaluate.others[name]
    url, _, split = wanted.partition("#") if is_place(wanted) else ("", "", wanted)
    if url and name in manifest.splits:
        expected, do = f"none by the name of a split, as {name}", "give its folder another name"
        raise ConfigError(complaint("evaluate.splits", expected=expected, found=masked(wanted), do=do))
    found = open_dataset(url) if url else manifest
    there = [name for name, each in found.splits.items() if each.examples]
    if url and not split and len(there) == 1:
        (split,) = there
    if split not in there:
        do = f"name one of them, as {url}#{there[0]}" if url and there else "name one of them, or a data set as ./NAME"
        expected = f"a split of {masked(url or place)} that has examples: {', '.join(there) or 'none'}"
        raise ConfigError(complaint("evaluate.splits", expected=expected, found=split or wanted, do=do))
    for each in job.data.fields_read(f.name for f in manifest.fields) if url else ():
        mine, its = manifest.field_named(each), found.field_named(each)
        forms = ["no such field" if f is None else f"{f.dtype} of shape {f.shape}" for f in (mine, its)]
        if mine is not None and (its is None or (mine.images is None and forms[0] != forms[1])):
            where, do = f"evaluate.splits, {masked(url)}, field {each!r}", "pack them alike, or leave it out"
            raise ConfigError(complaint(where, expected=f"{forms[0]}, as in {place}", found=forms[1], do=do))
        if mine is not None and its is not None:
            _check_means_the_same(mine, its, f"{masked(url)}, field {each!r}", place)
    return HeldOut(split, found, url or None)


def _check_means_the_same(mine: Field, its: Field, where: str, place: str) -> None:
    """Refuses numbers that mean something else than in the run's own data set: a label's are the places of its classes.

    Raises:
        ConfigError: they do.
    """
    forms = form_of(mine), form_of(its)
    for what in ("classes", "columns", "unit"):
        expected, found = (each[what] for each in forms)
        if expected != found:
            do = "pack it with the same ones, or leave it out"
            said = f"the {what} {expected}, as in {place}"
            raise ConfigError(complaint(f"evaluate.splits, {where}", expected=said, found=str(found), do=do))
