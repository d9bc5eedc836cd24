"""The language job as a user starts it: data script, pack, training; small, in one process."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import streamtrain as st
from tests.support.command import streamtrain as run_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    words = [sys.executable, str(ROOT / "jobs" / "text" / "language_data.py"), str(folder), "--files", "24"]
    subprocess.run(words, check=True, capture_output=True)
    flags = ("--tokens", "256", "--tokenizer", str(folder / "tokenizer.json"))
    done = run_command("pack", str(folder / "texts"), str(folder / "tokens"), *flags)
    assert done.returncode == 0, done.stderr
    assert "split: whole texts, as the source has them: train" in done.stdout and "counted: 24 texts" in done.stdout
    return folder


def test_the_tokens_are_the_texts(data: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(data / "tokens" / "about" / "tokenizer.json"))
    texts = {file.read_text() for file in (data / "texts" / "train").rglob("*.py")}
    whole = 0
    for row in st.open(data / "tokens").batches(1):
        tokens = row["tokens"][0].long().tolist()
        starts = row["starts"][0].nonzero()[:, 0].tolist()
        for start, stop in itertools.pairwise(starts):
            assert tokens[stop - 1] == tokenizer.token_to_id("<end>")
            assert tokenizer.decode(tokens[start : stop - 1]) in texts
            whole += 1
        for start in starts[-1:]:
            begun = tokenizer.decode(tokens[start:]).removesuffix("\N{REPLACEMENT CHARACTER}")
            assert any(text.startswith(begun) for text in texts)
    assert whole > 0


def test_no_token_sees_another_text(data: Path) -> None:
    """What stands in the text before changes no score in the next one."""
    job = st.load_job(ROOT / "jobs" / "text" / "language.py")
    torch.manual_seed(0)
    model = job.model().eval()
    tokens = torch.randint(0, 4096, (1, 40))
    starts = torch.zeros(1, 40, dtype=torch.bool)
    starts[0, 25] = True
    other = tokens.clone()
    other[0, :25] = torch.randint(0, 4096, (25,))
    with torch.no_grad():
        first, second = model(tokens, starts), model(other, starts)
    assert torch.equal(first[0, 25:], second[0, 25:]) and not torch.equal(first[0, :25], second[0, :25])


def test_it_learns(data: Path, tmp_path: Path) -> None:
    job = st.load_job(ROOT / "jobs" / "text" / "language.py")
    small = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(data / "tokens")),
        mode=st.Online(max_examples=40),
        evaluate=st.Evaluate(every=40, examples=20),
        batch_size=4,
        schedule=st.Schedule("cosine", warmup_steps=2),
        tracking=st.Tracking(enabled=False, folder=str(tmp_path)),
    )
    result = st.train(small, name="language", inline=True)
    last = result.chosen.generalization
    assert result.progressive.loss.mean < math.log(4096) and last.loss.mean < 7.8
    assert last.metrics["perplexity"].mean == pytest.approx(math.exp(last.loss.mean))
    assert 0 < last.error.mean < 1
