"""Gets texts and a tokenizer for the language job: the Python files of this interpreter's standard library.

    python jobs/text/language_data.py data/language            # some 20 s; nothing comes over the network

Written: `texts/{train,validation,test}/…`, of twenty files in a row 18, one and one; `tokenizer.json`, a byte-level BPE
of 4,096 tokens that has seen the training files only, and ends each text with `<end>`. `streamtrain pack` then makes
rows of tokens of them:

    streamtrain pack data/language/texts data/language/tokens --tokens 256 --tokenizer data/language/tokenizer.json
"""

import argparse
import shutil
import sys
import sysconfig
from pathlib import Path

VOCABULARY = 4096
END = "<end>"
SPLITS = ("validation", "test", *["train"] * 18)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
"""Folders that are no part of the library, or hold little but tests and tables."""


def library_files() -> list[Path]:
    """The library's files in UTF-8, in the order of their paths."""
    library = Path(sysconfig.get_path("stdlib"))
    found = (file for file in sorted(library.rglob("*.py")) if not LEFT_OUT & set(file.relative_to(library).parts))
    return [file.relative_to(library) for file in found if _is_text(file)]


def copy_texts(names: list[Path], folder: Path) -> list[str]:
    """Copies the files to the folders of their splits; the training files' texts."""
    library = Path(sysconfig.get_path("stdlib"))
    train = []
    for number, name in enumerate(names):
        split = SPLITS[number % len(SPLITS)]
        text = (library / name).read_bytes().decode()
        (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / split / name).write_bytes(text.encode())
        train += [text] if split == "train" else []
    return train


def train_tokenizer(texts: list[str], file: Path) -> None:
    """Merges the pairs of bytes that come most often; no text is without its tokens."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    except ImportError:
        sys.exit("no tokenizers here: pip install 'streamtrain[text]' brings them")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=ends)
    tokenizer.save(str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to")
    parser.add_argument("--files", type=int, help="take so many of the library's files; by default all")
    given = parser.parse_args()
    names = library_files()[: given.files]
    shutil.rmtree(given.folder / "texts", ignore_errors=True)
    texts = copy_texts(names, given.folder / "texts")
    train_tokenizer(texts, given.folder / "tokenizer.json")
    print(f"{given.folder}: {len(names):,} texts, {len(texts):,} of them for training")


def _is_text(file: Path) -> bool:
    try:
        file.read_bytes().decode()
    except UnicodeDecodeError:  # files of the library in other encodings
        return False
    return True


if __name__ == "__main__":
    main()
