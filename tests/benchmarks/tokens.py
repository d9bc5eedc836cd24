"""Rows of tokens: reading beside LitData's TokensLoader, and packing beside the tokenizer alone.

    python -m tests.benchmarks.tokens [--json]

The texts are the Python files of this interpreter's standard library, the tokenizer a byte-level BPE of 4,096 trained
on them. Both read the same tokens in rows of 1,024 and minibatches of 32 on one core; ours with `starts`, which the
peer has not, is a figure beside the ratio. All content is checked against the texts' tokens before reading is timed.
Packing begins with the files and ends with a data set. The tokenizer alone has the same texts in memory, all cores, and
leaves the ids where they are. Warm page cache.
"""

import shutil
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import streamtrain as st
from tests.benchmarks.measuring import on_standard_error, one_core, rates, report, wants_json
from tests.support.texts import naive_rows

VOCABULARY, TOKENS, BATCH = 4096, 1024, 32
AT_ONCE = 512
"""Texts that the tokenizer alone has at once."""
READ_ROUNDS, PACK_ROUNDS = 7, 3


def collect_texts(folder: Path) -> list[str]:
    """The library's files in UTF-8, copied into ``folder``, in the order of their paths; what is in them."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = []
    for file in sorted(library.rglob("*.py")):
        parts = file.relative_to(library).parts
        if {"site-packages", "dist-packages"} & set(parts):
            continue
        try:
            texts.append(file.read_bytes().decode())
        except UnicodeDecodeError:  # tests of the library's own
            continue
        copy = folder / Path(*parts)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(texts[-1].encode())
    return texts


def train_tokenizer(texts: list[str], file: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts[::8], trainer)
    end = tokenizer.token_to_id("<end>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    tokenizer.save(str(file))
    return tokenizer


def pack(root: Path, name: str) -> None:
    shutil.rmtree(root / name, ignore_errors=True)
    options = st.PackOptions(splits=(1, 0, 0), seed=1, tokens=TOKENS, tokenizer=str(root / "tokenizer.json"))
    st.pack(root / "texts", root / name, options)


def check(root: Path, ids: list[list[int]]) -> int:
    """All rows as the naive twin lays them; the number of tokens in rows."""
    found = st.open(root / "packed")
    rows = found[0 : len(found)]
    tokens, starts = naive_rows(ids, TOKENS, 1, [len(ids)])
    assert np.array_equal(rows["tokens"], tokens) and np.array_equal(rows["starts"], starts)
    return int(tokens.size)


def cut(place: tuple[str, int, int]) -> torch.Tensor:
    """One text's tokens out of the file of all; in a process of the peer's."""
    file, start, stop = place
    return torch.from_numpy(np.array(np.memmap(file, np.uint16, "r")[start:stop]))


def pack_litdata(root: Path, ids: list[list[int]]) -> Any:
    """The same tokens as one stream; the peer's loader of its rows."""
    import litdata

    stream = np.concatenate([np.array(text, np.uint16) for text in ids])
    (root / "stream").write_bytes(stream.tobytes())
    ends = np.cumsum([len(text) for text in ids]).tolist()
    places = [(str(root / "stream"), end - len(text), end) for end, text in zip(ends, ids, strict=True)]
    with on_standard_error():
        litdata.optimize(
            cut,
            places,
            str(root / "litdata"),
            num_workers=1,
            chunk_size=TOKENS * 4096,
            item_loader=litdata.TokensLoader(block_size=TOKENS),
        )
    dataset = litdata.StreamingDataset(str(root / "litdata"), item_loader=litdata.TokensLoader(block_size=TOKENS))
    loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)
    check_stream(stream, np.concatenate([batch.numpy() for batch in loader]))
    return loader


def check_stream(stream: np.ndarray, rows: np.ndarray) -> None:
    """All rows are the stream's, in its order; the peer begins a row anew in every chunk."""
    at = 0
    for row in rows:
        skipped = next(n for n in range(TOKENS) if np.array_equal(stream[at + n : at + n + TOKENS], row))
        at += skipped + TOKENS
    assert len(stream) - at < TOKENS


def main() -> None:
    as_json = wants_json(__doc__)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="streamtrain-tokens-"))
    try:
        texts = collect_texts(root / "texts")
        tokenizer = train_tokenizer(texts, root / "tokenizer.json")
        groups = [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
        ids = [found.ids for group in groups for found in tokenizer.encode_batch_fast(group)]
        tokens = sum(map(len, ids))

        def alone() -> int:
            for group in groups:
                tokenizer.encode_batch_fast(group)
            return tokens

        def ours() -> int:
            pack(root, "packed")
            return tokens

        found = rates({"pack": ours, "the tokenizer alone": alone}, PACK_ROUNDS)
        in_rows = check(root, ids)
        found |= reading(root, ids, in_rows)
    finally:
        shutil.rmtree(root)
    ratios = {
        "tokens_read_vs_litdata": found["read, ours"] / found["read, litdata"],
        "tokens_pack_vs_tokenizer": found["pack"] / found["the tokenizer alone"],
    }
    about = f"Rows of {TOKENS} tokens, tokens/s ({len(texts):,} texts, {tokens:,} tokens)"
    report(about, found, ratios, as_json=as_json)


def reading(root: Path, ids: list[list[int]], in_rows: int) -> dict[str, float]:
    """Tokens per second of each reader."""
    peer = pack_litdata(root, ids)
    tokens_only = st.open(root / "packed", fields=("tokens",)).batches(BATCH)
    with_starts = st.open(root / "packed").batches(BATCH)

    def by_litdata() -> int:
        return sum(batch.numel() for batch in peer)

    def ours(batches: Iterable[dict[str, torch.Tensor]]) -> int:
        return sum(batch["tokens"].numel() for batch in batches)

    assert ours(tokens_only) == ours(with_starts) == in_rows
    assert abs(by_litdata() - in_rows) < 8 * TOKENS  # it begins a row anew in every chunk
    memory = torch.from_numpy(np.ones((in_rows // TOKENS, TOKENS), np.uint16))
    contenders = {
        "read, ours": lambda: ours(tokens_only),
        "read, ours with starts": lambda: ours(with_starts),
        "slices of a tensor in memory": lambda: sum(part.clone().numel() for part in memory.split(BATCH)),
    }
    with one_core():
        return rates(contenders, 5 * READ_ROUNDS) | rates({"read, litdata": by_litdata}, READ_ROUNDS)


if __name__ == "__main__":
    main()
