"""Other people's readers of WebDataset shards, each to a list of dicts of bytes with ``__key__``, in their order."""

import tarfile
from pathlib import Path
from typing import Any

import webdataset
from datasets.packaged_modules.webdataset.webdataset import WebDataset as HuggingFace
from datasets.utils.file_utils import ArchiveIterable
from ray.data._internal.datasource import webdataset_datasource as ray_data

Examples = list[dict[str, Any]]


def by_webdataset(*files: Path) -> Examples:
    """Through the whole library, undecoded."""
    read = webdataset.WebDataset([str(file) for file in files], shardshuffle=False, empty_check=False)
    return [plain(example) for example in read]


def by_ray_data(*files: Path) -> Examples:
    """Through the functions that its data source calls, without a cluster."""
    found = []
    for file in files:
        with file.open("rb") as stream:
            found += list(ray_data._group_by_keys(ray_data._tar_file_iterator(stream), meta={"__url__": str(file)}))
    return [plain(example) for example in found]


def by_hugging_face(*files: Path) -> Examples:
    """Through the functions that its builder calls; texts and numbers are decoded."""
    return [
        plain(example)
        for file in files
        for example in HuggingFace._get_pipeline_from_tar(str(file), iter(ArchiveIterable.from_urlpath(str(file))))
    ]


def by_tarfile(*files: Path) -> Examples:
    """Names and contents, grouped by what stands before the first dot of the base name."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        with tarfile.open(file) as archive:
            for member in archive:
                opened = archive.extractfile(member)
                if opened is not None:
                    folder, slash, base = member.name.rpartition("/")
                    key, _, extension = base.partition(".")
                    found.setdefault(folder + slash + key, {"__key__": folder + slash + key})[extension] = opened.read()
    return list(found.values())


def plain(example: dict[str, Any]) -> dict[str, Any]:
    """Without what readers add."""
    return {name: value for name, value in example.items() if name not in ("__url__", "__local_path__")}
