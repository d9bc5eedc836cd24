"""What can be wrong with somebody else's shards, and what each reader makes of it.

What is said of `webdataset` 1.0, Ray Data 2.60 and Hugging Face `datasets` 5 was seen by running them on such
shards, and is held by tests/unit/shards/test_lint.py. The three read tars with Python's `tarfile`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "cut at a member border",
    "cut inside a member",
    "damaged header",
    "content after the end",
    "lone zero block",
    "compressed",
    "no examples",
    "interleaved",
    "duplicate member",
    "duplicate key",
    "key in two splits",
    "dotted key",
    "other fields",
    "two members of a field",
    "upper-case extension",
    "over 8 GiB",
    "pickled",
    "unreadable",
    "no KEY.EXTENSION",
    "reserved name",
    "link or device",
    "sparse",
    "long name",
    "not UTF-8",
    "unsorted",
]


@dataclass(frozen=True)
class Finding:
    """One place in one shard.

    Attributes:
        shard: file, relative to the data set's folder.
        key: of the example, or the member's name where there is none; ``None`` where it is about the shard.
        offset: of the member's header, in bytes; ``None`` where it is about the shard.
        found: what is there.
    """

    kind: Kind
    shard: str
    key: str | None
    offset: int | None
    found: str


@dataclass(frozen=True)
class Fault:
    """One kind of finding.

    Attributes:
        refused: whether streamtrain refuses the data set for it; else it reads as the others do.
        what: in a few words.
        readers: reader -> what it does, where that is not what the one who packed it can have meant.
    """

    refused: bool
    what: str
    readers: dict[str, str]


def _three(does: str) -> dict[str, str]:
    return dict.fromkeys(("webdataset", "Ray Data", "HF datasets"), does)


FAULTS: dict[Kind, Fault] = {
    "cut at a member border": Fault(
        True,
        "the end-of-archive blocks are missing, so the file may have been cut short",
        {**_three("reads what is left without a word"), "tarfile, GNU tar, bsdtar": "list what is left without a word"},
    ),
    "cut inside a member": Fault(
        True,
        "the file ends within a member",
        {
            **_three("fails with ReadError; ends without a word where the cut is in a header"),
            "tarfile": "the same",
            "GNU tar, bsdtar": "fail",
        },
    ),
    "damaged header": Fault(
        True,
        "bytes that are no tar header stand where one must be",
        {
            **_three("ends there without a word: the rest of the shard is lost"),
            "tarfile": "the same",
            "GNU tar, bsdtar": "skip to the next header and warn",
        },
    ),
    "content after the end": Fault(
        True,
        "something follows the first block of zeros, as where tars were joined by cat",
        {**_three("ends at the zeros: the rest is lost"), "tarfile, GNU tar, bsdtar": "the same"},
    ),
    "lone zero block": Fault(False, "one block of zeros ends the archive instead of two", {"GNU tar": "warns"}),
    "compressed": Fault(True, "the file is compressed", {"memory-mapped and indexing readers": "cannot read it"}),
    "no examples": Fault(True, "the shard holds no example", {}),
    "interleaved": Fault(
        True,
        "the members of an example do not stand together, or its key comes twice",
        {
            "webdataset": "makes several incomplete examples of it",
            "HF datasets": "makes several incomplete examples of it",
            "Ray Data": "fails with ValueError",
        },
    ),
    "duplicate member": Fault(True, "an example has two members of one name", _three("fails with ValueError")),
    "duplicate key": Fault(
        True,
        "an example of another shard of the split has the same key",
        {**_three("gives both, under one key"), "tar -x": "the later one overwrites the other"},
    ),
    "key in two splits": Fault(
        False, "examples of two splits have the same keys", {"readers that look examples up by key": "find one of them"}
    ),
    "dotted key": Fault(
        True,
        "the key seems to have a dot: all readers cut it at its first one",
        _three("joins all examples with that beginning into one, or loses a part of the key"),
    ),
    "other fields": Fault(
        True,
        "the example has not the first example's members",
        {
            "webdataset": "gives it as it is; .to_tuple() fails",
            "Ray Data": "fills with None, and adds columns",
            "HF datasets": "fails among the first 5 examples; later fills with None, and drops what is more",
        },
    ),
    "two members of a field": Fault(True, "two members of an example stand for one field", {}),
    "upper-case extension": Fault(
        True,
        "the extension has upper-case letters",
        {
            "webdataset": "lower-cases it, and fails where both are there",
            "Ray Data": "keeps it, undecoded",
            "HF datasets": "keeps it as another column",
        },
    ),
    "over 8 GiB": Fault(
        True, "the member is larger than a USTAR header can say", _three("reads it whole into memory, or fails")
    ),
    "pickled": Fault(
        True,
        "the member is a pickle or holds one",
        {
            "webdataset": ".decode() executes it",
            "Ray Data": "refuses .pkl, .pickle, .pt and .pth unless told otherwise, and leaves other names as bytes",
            "HF datasets": "leaves .pkl and .pyd as bytes, loads .pth without executing it",
        },
    ),
    "unreadable": Fault(
        True, "the member is not what its extension says", _three("fails when it is decoded, not before")
    ),
    "no KEY.EXTENSION": Fault(
        True,
        "the name has a leading dot, no dot, or nothing after it",
        _three("passes over it without a word; makes a field without a name where nothing follows the dot"),
    ),
    "reserved name": Fault(
        False,
        "the name begins with two underscores",
        {
            "webdataset": "passes over a folder like __this__ without a word",
            "HF datasets": "passes over such a file without a word",
            "Ray Data": "takes it for an example's",
        },
    ),
    "link or device": Fault(
        True, "the member is no regular file", _three("passes over it without a word: its example lacks a field")
    ),
    "sparse": Fault(
        True,
        "the member is stored as a sparse file",
        {**_three("expands it"), "memory-mapped and indexing readers": "would take the map for the content"},
    ),
    "long name": Fault(
        False,
        "the name is in a pax or GNU header before the member's",
        {"readers of plain USTAR": "miss it, or take the header for a member (none of those named here)"},
    ),
    "not UTF-8": Fault(
        False,
        "the name is not UTF-8",
        {**_three("gives it with surrogates, which cannot be printed"), "streamtrain": "replaces such bytes"},
    ),
    "unsorted": Fault(
        False,
        "the example's members are not in alphabetical order",
        _three("gives its fields in that order, which matters only where fields are taken by position"),
    ),
}
