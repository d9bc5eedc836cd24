"""What a run tells its tracker before the first step: settings, data sets, versions, commit and command."""

from __future__ import annotations

import functools
import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamtrain.job import Job, Online
from streamtrain.job.settings import Setting, settings_of
from streamtrain.measure.risk import STANDARD_ERRORS
from streamtrain.order import Weights
from streamtrain.prepare.jobfile import LOADED
from streamtrain.store import masked
from streamtrain.track.tracker import DatasetCard, RunCard

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan
    from streamtrain.shards import Manifest

PACKAGES = ("streamtrain", "ray", "torch", "numpy", "webdataset", "mlflow")
CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "validation": "validation",
    "test": "testing",
}


def card_of(
    plan: Plan, run_name: str, trains_otherwise: Sequence[str] = (), lineage: Mapping[str, str] | None = None
) -> RunCard:
    """The card of a run that is about to start.

    Args:
        trains_otherwise: kinds of the model's parts that compute otherwise in training than in evaluation.
        lineage: tags that say of which other run it goes on.
    """
    tags = {f"version.{name}": importlib.metadata.version(name) for name in PACKAGES}
    tags |= {
        "version.python": sys.version.split()[0],
        "command": shlex.join([Path(sys.argv[0]).name, *map(masked, sys.argv[1:])]),
        "dataset.digest": plan.manifest.digest,
        "dataset.order": plan.manifest.order,
        "standard_errors": STANDARD_ERRORS[plan.manifest.order],
        "progressive.estimates": _progressive_estimates(plan, trains_otherwise),
        "progressive.new_examples": _new_examples(plan.job),
        "mlflow.source.name": sys.argv[2] if sys.argv[1:2] == ["train"] else sys.argv[0],
    }
    if plan.parts is not None:
        tags["risk.minimized"] = shares_in_words(plan)
    if plan.lengths is not None:
        tags["gradient.noise"] = "too small, as its ±: it leaves out what minibatches differ by their lengths"
    tags |= lineage or {}
    if plan.job.unit_of_error:
        tags["error.unit"] = plan.job.unit_of_error
    commit = _git_commit()
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    return RunCard(
        name=run_name,
        experiment=plan.job.tracking.experiment,
        params=all_settings(plan),
        tags=tags,
        datasets=tuple(
            _dataset(place, manifest, split)
            for place, manifest in [(s.place, s.manifest) for s in plan.sources] or [(plan.place, plan.manifest)]
            for split in plan.manifest.splits
        ),
        parent=plan.job.tracking.parent,
    )


def all_settings(plan: Plan) -> dict[str, str]:
    """Every setting of the job in words, and the lanes that it has."""
    return {each.name: show(each) for each in settings_of(plan.job)} | {"lanes": str(plan.order.lanes)}


def job_file(job: Job) -> Path | None:
    """Where the job's own functions stand: a job file, or the script that trains; else the file of the command."""
    for function in (job.model, job.data.transform, job.data.map, job.loss, job.objective):
        module = sys.modules.get(getattr(function, "__module__", ""))
        if module is not None and (module.__name__ in LOADED or module.__name__ == "__main__"):
            file = Path(getattr(module, "__file__", None) or "")
            return file if file.is_file() else None
    file = Path(sys.argv[2]) if sys.argv[1:2] == ["train"] and sys.argv[2:] else Path()
    return file if file.is_file() else None


def _new_examples(job: Job) -> str:
    """In which part of a run no example comes again."""
    if isinstance(job.mode, Online):
        return "all of it"
    return "pass 1" if job.data.balance is None else "no pass for certain: balanced examples come again within one"


def _progressive_estimates(plan: Plan, trains_otherwise: Sequence[str]) -> str:
    """What the progressive risk of new examples is an unbiased estimate of."""
    job = plan.job
    augmented = job.data.augment is not None or job.data.augment_batch is not None
    otherwise = [
        *_balanced_in_words(job),
        *(["augmentation"] if augmented else []),
        *trains_otherwise,
        *(["averaged parameters"] if job.average.is_kept else []),
    ]
    ends = "" if plan.lengths is None else "; its ± leaves out what minibatches differ by their lengths"
    if not otherwise:
        return f"the held-out risk on the way, as far as PyTorch's own parts of the model tell{ends}"
    return f"the risk on the way as the model trains, not as it is evaluated: {', '.join(otherwise)}{ends}"


def _balanced_in_words(job: Job) -> list[str]:
    balance = job.data.balance
    if balance is None:
        return []
    return ["balanced classes"] if balance.weights is None else ["weighted examples"]


def shares_in_words(plan: Plan) -> str:
    """Which part has which share of every minibatch, how often its examples come, and what is measured."""
    parts = plan.parts
    assert parts is not None
    if isinstance(parts, Weights):
        least, most = (f"{times:.3g}" for times in (parts.expected.min(), parts.expected.max()))
        often = least if least == most else f"{least} to {most}"
        balance = plan.job.data.balance
        field = "" if balance is None else balance.weights
        return f"examples weighted by {field}, each {often} times a pass; risks and gap are of the examples as they are"
    given = parts.given(plan.order.used) / parts.sizes
    often = " to ".join(dict.fromkeys(f"{times:.3g}" for times in (given.min(), given.max())))
    mixture = plan.job.data.mixture
    if mixture is not None:
        named = ", ".join(
            f"{s:.4g} of {each.place}" for s, each in zip(mixture.shares.values(), plan.sources, strict=True)
        )
        return f"{named}, an example {often} times a pass; risks and gap have these shares too"
    return (
        f"{len(parts.sizes)} classes of {plan.job.data.balance} with equal shares, an example {often} times a pass; "
        "risks and gap are of the examples as they are"
    )


def show(setting: Setting) -> str:
    """A setting's value in words: a function by its own name, nothing secret."""
    value = setting.value
    if isinstance(value, functools.partial):
        named = [f"{name}={_plain(each)}" for name, each in value.keywords.items()]
        return f"{_plain(value.func)}({', '.join([*map(_plain, value.args), *named])})"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(each)}" for name, each in value.items())
    return _plain(value) if callable(value) else masked(str(value))


def _plain(value: object) -> str:
    """A value in words that are the same in another process; an object's own may say where it lies in memory."""
    if isinstance(value, int | float | str | None):
        return masked(str(value))
    return str(getattr(value, "__name__", type(value).__name__))


def _dataset(place: str, manifest: Manifest, split: str) -> DatasetCard:
    fields = {f.name: f"{f.dtype or 'text'} {'varies' if f.shape is None else f.shape}" for f in manifest.fields}
    return DatasetCard(
        name=f"{place.partition('?')[0].rstrip('/').rpartition('/')[2]}/{split}",
        digest=manifest.digest,
        source=place,
        context=CONTEXTS[split],
        examples=manifest.splits[split].examples,
        fields=fields,
    )


def _git_commit() -> str | None:
    """The commit of the working directory, where it is in a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
