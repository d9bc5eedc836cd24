"""Promise 1: the bytes of a data set are the naive twin's, for any sizes, memory, tasks and order of the parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamtrain.packing import PackOptions, pack
from tests.support.packing import AnyOrder, files, naive_tars, npy

SHARDS = st.one_of(
    st.builds(lambda n: {"shard_examples": n}, st.integers(1, 60)),
    st.builds(lambda n: {"shard_bytes": n}, st.sampled_from([1, 4_000, 20_000, 1 << 28])),
)
HOW = st.fixed_dictionaries({"memory_bytes": st.sampled_from([1, 3_000, 20_000, 1 << 20]), "tasks": st.integers(1, 5)})


def save_arrays(folder: Path, examples: int, low: int) -> tuple[Path, list[dict[str, bytes]]]:
    """Float vectors and labels from ``low`` on, and the members that they become."""
    random = np.random.default_rng(examples)
    x, label = random.normal(size=(examples, 3)).astype(np.float32), random.integers(low, 20, examples)
    np.savez(folder / "raw.npz", x=x, label=label)
    width = len(str(label.max()))
    as_array = label.min() < 0
    return folder / "raw.npz", [
        {
            "x.npy": npy(x[n]),
            **({"label.npy": npy(label[n])} if as_array else {"label.cls": b"%0*d" % (width, label[n])}),
        }
        for n in range(examples)
    ]


def save_texts(folder: Path, examples: int) -> tuple[Path, list[dict[str, bytes]]]:
    """Texts of many lengths in row groups of 7, and the members that they become."""
    texts = ["x" * (n * 37 % 1500) + str(n) for n in range(examples)]
    labels = [n % 3 for n in range(examples)]
    pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), folder / "raw.parquet", row_group_size=7)
    return folder / "raw.parquet", [
        {"text.txt": text.encode(), "label.cls": b"%d" % label} for text, label in zip(texts, labels, strict=True)
    ]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["texts", "arrays", "signed arrays", "blocks", "texts in blocks"]),
    examples=st.integers(2, 150),
    seed=st.integers(0, 99),
    shards=SHARDS,
    how=HOW,
)
@example(kind="texts", examples=9, seed=0, shards={"shard_bytes": 1}, how={"tasks": 1, "memory_bytes": 3_000})
def test_promise_1_bytes_are_the_naive_twins(
    kind: str,
    examples: int,
    seed: int,
    shards: dict[str, int],
    how: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("twin")
    source, samples = (
        save_texts(root, examples) if "texts" in kind else save_arrays(root, examples, -5 if "signed" in kind else 0)
    )
    base = {"splits": (0.5, 0.5, 0.0), "seed": seed, "blocks": "blocks" in kind, **shards}
    manifest = pack(source, root / "a", PackOptions(**base, **how), spread=AnyOrder(seed))
    pack(source, root / "plain", PackOptions(**base))
    assert files(root / "a") == files(root / "plain")
    assert not list(root.glob(".*")), "the scratch folder is gone"
    if "blocks" not in kind:
        counts = {name: split.examples for name, split in manifest.splits.items()}
        tars = {name: data for name, data in files(root / "a").items() if name.endswith(".tar")}
        assert tars == naive_tars(samples, counts, PackOptions(**base))
