"""Gets texts by class for the packages job: the source of eight packages of this interpreter's standard library.

    python jobs/classification/packages_data.py data/packages            # some seconds; nothing comes over the network
    streamtrain pack data/packages/words.parquet data/packages/packed --split-column split

Written: `words.parquet`, a row for each 32 words of a file in a row: their numbers, the package and the split, which is
the same for all of a file; each split has about its share of every package. Words are letters, figures and underscores
without a break, and each other sign; the commonest have numbers from 1 on, all others 0. Which words are common is told
from all files, as a tokenizer would be.
"""

import argparse
import itertools
import re
import sysconfig
from collections import Counter
from pathlib import Path

PACKAGES = ("asyncio", "ctypes", "email", "http", "importlib", "multiprocessing", "unittest", "xml")
SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}
WORDS, VOCABULARY = 32, 2048
WORD = re.compile(r"\w+|[^\w\s]")


def words_by_file(package: str) -> list[list[str]]:
    """Of the package's source files without tests, the longest first."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    files = [file for file in sorted(folder.rglob("*.py")) if not {"test", "tests"} & set(file.parts)]
    return sorted((WORD.findall(file.read_text(encoding="utf-8")) for file in files), key=len, reverse=True)


def share_out(lengths: list[int]) -> list[str]:
    """A split for each file: the one that lacks most of its share."""
    lacking = {split: share * sum(lengths) for split, share in SPLITS.items()}
    chosen = []
    for length in lengths:
        split = max(lacking, key=lambda each: lacking[each])
        lacking[split] -= length
        chosen.append(split)
    return chosen


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to")
    folder = parser.parse_args().folder
    texts: list[tuple[list[str], str, str]] = []
    for package in PACKAGES:
        files = words_by_file(package)
        texts += zip(files, itertools.repeat(package), share_out([len(words) for words in files]))
    counts = Counter(word for words, _, _ in texts for word in words)
    numbers = {word: number for number, (word, _) in enumerate(counts.most_common(VOCABULARY - 1), 1)}
    rows = [
        ([numbers.get(word, 0) for word in words[start : start + WORDS]], package, split)
        for words, package, split in texts
        for start in range(0, len(words) - WORDS + 1, WORDS)
    ]
    words, labels, splits = zip(*rows, strict=True)
    columns = {"words": pa.array(words, pa.list_(pa.uint16(), WORDS)), "label": labels, "split": splits}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "words.parquet")
    print(f"{folder}: {len(rows):,} rows of {WORDS} words from {len(texts):,} files of {len(PACKAGES)} packages")


if __name__ == "__main__":
    main()
