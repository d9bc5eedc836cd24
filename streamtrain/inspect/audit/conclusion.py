"""All tests of one data set together, corrected for their number, and what they mean for a minibatch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.duplicates import Duplicates, find_duplicates
from streamtrain.inspect.audit.rows import Rows
from streamtrain.inspect.audit.sample import Sample, draw, label_field, ranked
from streamtrain.inspect.audit.statistics.balance import class_balance
from streamtrain.inspect.audit.statistics.drift import class_drift, feature_drift, key_trend
from streamtrain.inspect.audit.statistics.evidence import Evidence, holm
from streamtrain.inspect.audit.statistics.label_runs import label_runs
from streamtrain.inspect.audit.statistics.period import periodicity
from streamtrain.inspect.audit.statistics.serial import serial_correlations
from streamtrain.shards import Manifest
from streamtrain.shards.shard import examples
from streamtrain.stream.fetch.shard_files import ShardFiles

ALPHA = 0.01
"""Chance that a data set that is shuffled uniformly is said not to be."""
SAMPLED_BYTES = 2 << 30
HASHED_EXAMPLES, HASHED_BYTES = 10_000_000, 4 << 30
GLANCE = 20_000
SHOWN_TESTS = 6
GROUPED = 0.9
"""Effect of label runs, or correlation of neighbours, from which an order is called sorted."""
FARTHER = 16

Kind = Literal["uniform", "sorted", "drifting", "dependent"]
KINDS: dict[Kind, str] = {
    "uniform": "",
    "sorted": "examples of one kind lie one after the other, as in a sorted data set",
    "drifting": "the mixture changes along the order, as a shuffle buffer of limited size or joined sources leave it",
    "dependent": "neighbours tell about one another, though the mixture is the same all along",
}


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        sample: examples looked at for their order, and in how many stretches; ``of`` is the split's size.
        tests: all that were made, the least likely first, and their p-values after Holm's correction.
        minibatch: examples of a minibatch.
        worth: how many independent examples its mean is worth; ``None`` where too few minibatches were seen.
        duplicates: ``None`` where they were not looked for.
    """

    sample: int
    stretches: int
    of: int
    tests: tuple[Evidence, ...]
    adjusted: tuple[float, ...]
    minibatch: int
    worth: float | None
    duplicates: Duplicates | None

    @property
    def shuffled(self) -> bool:
        """Whether no test contradicts a uniformly random order at ``ALPHA``."""
        return all(p_value >= ALPHA for p_value in self.adjusted)

    @property
    def kind(self) -> Kind:
        """What sort of order the tests point to."""
        if self.shuffled:
            return "uniform"
        serial = {
            (test.subject, test.scale): test.effect for test in self.tests if test.statistic == "serial correlation"
        }
        runs = [test.effect for test in self.tests if test.statistic == "runs"]
        near = {subject: effect for (subject, lag), effect in serial.items() if lag == 1}
        if max(runs or near.values(), default=0.0) >= GROUPED:
            return "sorted"
        failed = [test for test, p_value in zip(self.tests, self.adjusted, strict=True) if p_value < ALPHA]
        nearest = next((test for test in failed if test.statistic == "serial correlation" and test.scale == 1), None)
        if nearest is None:
            return "drifting" if any("over" in test.statistic for test in failed) else "dependent"
        # a buffer mixes what lies within its reach: there all distances are alike
        farther = serial.get((nearest.subject, FARTHER), 0.0)
        return "drifting" if farther >= nearest.effect / 2 > 0 else "dependent"

    @property
    def passed(self) -> bool:
        """Whether the order stood all tests and no held-out example was found in train."""
        return self.shuffled and not (self.duplicates and any(self.duplicates.leaked.values()))

    def summary(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "passed": self.passed,
            "minibatches_independent": self.shuffled,
            "order": self.kind,
            "verdict": verdict(self),
            "alpha": ALPHA,
            "examples": {"looked_at": self.sample, "stretches": self.stretches, "of": self.of},
            "minibatch": {"examples": self.minibatch, "worth": self.worth},
            "tests": [
                {**dataclasses.asdict(test), "p_value_adjusted": adjusted}
                for test, adjusted in zip(self.tests, self.adjusted, strict=True)
            ],
            "duplicates": dataclasses.asdict(self.duplicates) if self.duplicates else None,
        }


def audit(files: ShardFiles, manifest: Manifest, *, most_examples: int = 50_000, batch_size: int = 128) -> Audit:
    """Tests the stored order of the training split, and looks for duplicates in all splits.

    Reads at most ``most_examples`` training examples and `SAMPLED_BYTES` for the order, at most
    `HASHED_EXAMPLES` and `HASHED_BYTES` for duplicates; memory is some 1 kB for each of the former and 16
    bytes for each of the latter.

    Raises:
        ShardError: an example cannot be read.
    """
    rows = Rows(files, manifest, "train", manifest.fields)
    affordable = int(len(rows) * SAMPLED_BYTES / max(rows.size, 1))
    sample = draw(rows, manifest, max(1, min(most_examples, affordable)))
    return judged(sample, batch_size, find_duplicates(files, manifest, HASHED_EXAMPLES, HASHED_BYTES))


def judged(sample: Sample, batch_size: int, duplicates: Duplicates | None = None) -> Audit:
    """All tests of a sample."""
    tests = [test for name in sample.features for test in _feature_tests(name, sample)]
    if sample.labels is not None:
        tests += class_drift(sample.labels)
        for test in (
            label_runs(sample.labels, sample.lengths),
            class_balance("balance over shards", sample.labels, sample.shards),
        ):
            tests += [test] if test is not None else []
    if sample.key_places is not None:
        stretch = np.repeat(np.arange(len(sample.lengths)), sample.lengths)
        trend = key_trend(sample.key_places, stretch * (int(sample.shards.max()) + 1) + sample.shards)
        tests += [trend] if trend is not None else []
    tests.sort(key=lambda test: test.p_value)
    adjusted = holm([test.p_value for test in tests])
    failed = any(p_value < ALPHA for p_value in adjusted)
    return Audit(
        sample=len(sample),
        stretches=len(sample.lengths),
        of=sample.examples,
        tests=tuple(tests),
        adjusted=tuple(adjusted),
        minibatch=batch_size,
        worth=independent_examples(sample, batch_size) if failed else float(batch_size),
        duplicates=duplicates,
    )


def _feature_tests(name: str, sample: Sample) -> list[Evidence]:
    values = sample.features[name]
    period = periodicity(name, ranked(values), sample.numbers, int(sample.shards.max()) + 1)
    tests = [*serial_correlations(name, values, sample.lengths), *feature_drift(name, values)]
    return tests if period is None else [*tests, period]


def independent_examples(sample: Sample, batch_size: int) -> float | None:
    """How many independent examples a minibatch of consecutive ones is worth: m / max(1, R).

    R = m Var(mean of m consecutive examples) / Var(one example) is the design effect (Kish 1965), here the
    largest over the features' ranks and, as the mean over the classes, the labels. ``None`` where there are not
    two minibatches, or only keys to go by.
    """
    if sum(length // batch_size for length in sample.lengths) < 2:
        return None
    columns = [ranked(values)[:, None] for values in sample.features.values()]
    if sample.labels is not None and len(np.unique(sample.labels)) > 1:
        columns.append(_indicators(sample.labels))
    effects = [_design_effect(column, sample.lengths, batch_size) for column in columns]
    return batch_size / max(1.0, *effects) if effects else None


def _indicators(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    values, counts = np.unique(labels, return_counts=True)
    commonest = values[np.argsort(-counts)[:32]]
    return np.asarray(labels[:, None] == commonest, np.float64)


def _design_effect(columns: NDArray[np.float64], lengths: tuple[int, ...], batch_size: int) -> float:
    starts = np.cumsum((0, *lengths[:-1]))
    whole = [
        columns[start : start + length - length % batch_size].reshape(-1, batch_size, columns.shape[1])
        for start, length in zip(starts, lengths, strict=True)
    ]
    means = np.concatenate(whole).mean(axis=1)
    between = float(np.square(means - columns.mean(axis=0)).mean(axis=0).sum())
    return batch_size * between / float(columns.var(axis=0).sum())


def verdict(found: Audit) -> str:
    """What the tests say about minibatches, with the p-value that decides."""
    seen = "all" if found.sample == found.of else f"{found.sample:,} in {found.stretches} stretches of"
    looked = f"looked at {seen} {found.of:,} training examples"
    if not found.tests:
        return f"nothing to test the order by: no field varies, or there are too few examples ({looked})"
    smallest = f"the smallest p-value is {_shown(found.adjusted[0])} after correction"
    if found.shuffled:
        tests = f"none of {len(found.tests)} tests contradicts a uniform shuffle, {smallest}"
        return f"minibatches drawn in this order can be called independent: {tests} ({looked})"
    price = f"; {found.minibatch} consecutive examples are worth {found.worth or 0:.3g} independent ones"
    tests = (
        f"{sum(p < ALPHA for p in found.adjusted)} of {len(found.tests)} tests contradict a uniform shuffle, {smallest}"
    )
    return (
        f"minibatches drawn in this order are not independent: {KINDS[found.kind]}; {tests}"
        f"{'' if found.worth is None else price} ({looked})"
    )


def report(summary: Mapping[str, Any]) -> str:
    """An audit's summary as text."""
    tests = summary["tests"]
    lines = [f"audit: {summary['verdict']}"]
    for test in tests[:SHOWN_TESTS]:
        corrected = f"corrected {_shown(test['p_value_adjusted']):<8}"
        lines.append(f"  p {_shown(test['p_value']):<8} {corrected} {test['says']}")
    if len(tests) > SHOWN_TESTS:
        lines.append(f"  … and {len(tests) - SHOWN_TESTS} more tests (--json)")
    return "\n".join([*lines, *(_duplicate_lines(summary["duplicates"]) if summary["duplicates"] else [])])


def _shown(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value > 1e-300 else "<1e-300"


def _duplicate_lines(found: Mapping[str, Any]) -> list[str]:
    looked_at = found["looked_at"]
    seen = ", ".join(f"{name} {n:,} of {found['of'][name]:,}" for name, n in looked_at.items())
    lines = [f"duplicates by content of {', '.join(found['fields'])}, looked at {seen}:"]
    lines.append(f"  {found['within_train']:,} training examples repeat an earlier one")
    for name, leaked in found["leaked"].items():
        meaning = ": its risk is too low" if leaked else ""
        share = f"{leaked:,} of {looked_at[name]:,} ({leaked / looked_at[name]:.2%})"
        lines.append(f"  {share} {name} examples are in train too{meaning}")
    for name, number, in_train in found["shown"]:
        lines.append(f"    {name} example {number} is training example {in_train}")
    return lines


def order_warning(folder: Path, manifest: Manifest) -> str | None:
    """One line where the first training examples of foreign shards are not in random order, by a cheap look.

    Looks at the headers and labels of the first `GLANCE` examples.
    """
    if manifest.order != "unknown":
        return None
    sizes: list[list[int]] = []
    labels: list[int] = []
    label = label_field(manifest)
    for shard in manifest.splits["train"].shards:
        with (folder / shard.file).open("rb") as opened:
            for _, members in itertools.islice(examples(folder / shard.file), GLANCE - len(sizes)):
                sizes.append([members[field.member][1] for field in manifest.fields])
                if label is not None:
                    start, size = members[label.member]
                    opened.seek(start)
                    labels.append(int(opened.read(size)))
        if len(sizes) >= GLANCE:
            break
    table = np.array(sizes, np.float64)
    features = {f"{field.name}'s bytes": table[:, i] for i, field in enumerate(manifest.fields) if np.ptp(table[:, i])}
    classes = np.array(labels) if label is not None else None
    shards = np.zeros(len(sizes), np.int64)
    found = judged(Sample((len(sizes),), classes, features, shards, manifest.splits["train"].examples), 128)
    if found.shuffled:
        return None
    return (
        f"warning: {folder}: the first {len(sizes):,} training examples are not in random order "
        f"({found.tests[0].says}; p {_shown(found.adjusted[0])}), so minibatches are not independent; pack them again, "
        f"or see `streamtrain inspect {folder} --audit`"
    )
