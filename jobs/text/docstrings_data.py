"""Gets pairs for the docstrings job: what functions of this interpreter's standard library say of themselves, and do.

    python jobs/text/docstrings_data.py data/docstrings            # some seconds; nothing comes over the network
    streamtrain pack data/docstrings/pairs.parquet data/docstrings/packed --split-column split

Written: `pairs.parquet`, a row for each function that has a docstring and does something: the first words of its
docstring, and of the rest of it from its name on, as numbers; 0 where there are no more. Words are letters without a
break, `read` and `line` of `read_line` and of `readLine`. All functions of a file are in one split. The commonest words
of all files have numbers from 2 on, all others 1.
"""

import argparse
import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SAYS, DOES, VOCABULARY = 24, 64, 8192
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def share_out(lengths: list[int]) -> list[str]:
    """A split for each file: the one that lacks most of its share."""
    lacking = {split: share * sum(lengths) for split, share in SPLITS.items()}
    chosen = []
    for length in lengths:
        split = max(lacking, key=lambda each: lacking[each])
        lacking[split] -= length
        chosen.append(split)
    return chosen


def words_of(text: str, most: int) -> list[str]:
    """The first words, in lower case."""
    return [word.lower() for word in WORD.findall(text)[:most]]


def pairs_of(file: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Words of each docstring, and of the function without it."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1:
            said = ast.get_docstring(node)
            if said and (says := words_of(said, SAYS)):
                del node.body[0], node.decorator_list[:]
                yield says, words_of(ast.unparse(node).partition(" ")[2], DOES)


def pairs_by_file() -> list[list[tuple[list[str], list[str]]]]:
    """Of each file of the library that has any, those with the most first."""
    library = Path(sysconfig.get_path("stdlib"))
    files = (file for file in sorted(library.rglob("*.py")) if not LEFT_OUT & set(file.relative_to(library).parts))
    return sorted(filter(None, (list(pairs_of(file)) for file in files)), key=len, reverse=True)


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to")
    folder = parser.parse_args().folder
    files = pairs_by_file()
    splits = share_out([len(pairs) for pairs in files])
    rows = [(*pair, split) for pairs, split in zip(files, splits, strict=True) for pair in pairs]
    counts = Counter(word for said, done, _ in rows for word in (*said, *done))
    numbers = {word: number for number, (word, _) in enumerate(counts.most_common(VOCABULARY - 2), 2)}

    def column(words: Iterator[list[str]], length: int) -> pa.Array:
        filled = [([numbers.get(word, 1) for word in each] + [0] * length)[:length] for each in words]
        return pa.array(filled, pa.list_(pa.uint16(), length))

    columns = {
        "says": column((said for said, _, _ in rows), SAYS),
        "does": column((done for _, done, _ in rows), DOES),
        "split": [split for _, _, split in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    print(f"{folder}: {len(rows):,} functions of {len(files):,} files")


if __name__ == "__main__":
    main()
