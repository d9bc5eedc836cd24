"""What a run's data set is made of, as a page of text."""

from __future__ import annotations

from streamtrain.inspect.places import reports_of
from streamtrain.packing.report import as_text
from streamtrain.shards import Manifest
from streamtrain.store import masked


def data_report(place: str, manifest: Manifest) -> str:
    """Splits with the examples of each class; and what became of every column when the data set was packed.

    Args:
        place: the data set's folder or URL.

    Raises:
        DataError: what it says is damaged. OSError: it cannot be read.
    """
    lines = [f"{masked(place)}  digest {manifest.digest}  stored order: {manifest.order}", ""]
    names = next((field.classes for field in manifest.fields if field.name == manifest.label), None)
    for split, found in manifest.splits.items():
        lines.append(f"{split}: {found.examples:,} examples")
        for value, count in sorted(found.class_counts.items()):
            called = f"{value} {names[value]}" if names and 0 <= value < len(names) else str(value)
            lines.append(f"  {called}: {count:,}")
    lines += [f"\n{as_text(report)}" for report in reports_of(place, manifest)]
    return "\n".join(lines) + "\n"
