"""The Hugging Face job: from its configuration, and from a folder of weights; small, in one process."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "text" / "hugging_face.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 32 tokens, each the one before plus 1 or plus 2, and texts that begin anywhere."""
    folder = tmp_path_factory.mktemp("hugging_face")
    draw = np.random.default_rng(1)
    tokens = (draw.integers(0, 50, (200, 1)) + draw.integers(1, 3, (200, 32)).cumsum(1)) % 50
    starts = draw.random((200, 32)) < 0.05
    np.savez(folder / "rows.npz", tokens=tokens.astype(np.uint16), starts=starts)
    st.pack(folder / "rows.npz", folder / "packed", st.PackOptions(seed=1))
    return folder


def small(job: st.Job, folder: Path, runs: Path, examples: int) -> st.Job:
    return dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, url=str(folder / "packed")),
        mode=st.Online(max_examples=examples),
        evaluate=st.Evaluate(examples=20),
        schedule=st.Schedule(),
        batch_size=8,
        tracking=st.Tracking(enabled=False, folder=str(runs)),
    )


def test_from_its_configuration_then_from_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHTS", raising=False)
    job = st.load_job(JOB)
    first = st.train(small(job, folder, tmp_path, 160), name="new", inline=True, quiet=True)
    risk = first.chosen.generalization
    assert risk.loss.mean < 0.7 * math.log(4096), "it began at ln 4096"
    assert risk.metrics["perplexity"].mean == pytest.approx(math.exp(risk.loss.mean))
    model = job.model()
    model.load_state_dict(first.parameters, strict=False)
    model.save_pretrained(tmp_path / "weights")

    monkeypatch.setenv("WEIGHTS", str(tmp_path / "weights"))
    job = st.load_job(JOB)
    begun = job.model()
    for name, value in first.parameters.items():
        assert torch.equal(begun.state_dict()[name], value), name
    tuned = small(dataclasses.replace(job, optimizer=st.AdamW(lr=1e-4)), folder, tmp_path, 16)
    second = st.train(tuned, name="tuned", inline=True, quiet=True)
    assert second.progressive.loss.mean == pytest.approx(risk.loss.mean, rel=0.15), "it goes on where the first ended"


def test_a_folder_without_a_model_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(st.JobError, match="nothing") as refused:
        st.train(small(st.load_job(JOB), folder, tmp_path, 16), name="none", inline=True, quiet=True)
    assert "\n" not in str(refused.value)


def test_the_loss_is_of_tokens_that_follow_others_of_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS", raising=False)
    job = st.load_job(JOB)
    torch.manual_seed(0)
    model = job.model().eval()
    tokens = torch.randint(0, 4096, (3, 20))
    starts = torch.zeros(3, 20, dtype=torch.bool)
    starts[1, 7] = starts[1, 12] = True
    assert job.objective is not None
    found = job.objective(model, {"tokens": tokens, "starts": starts})["loss"]
    with torch.no_grad():
        scores = model(input_ids=tokens).logits.log_softmax(-1)
    for row in range(3):
        told = [i for i in range(1, 20) if not starts[row, i]]
        expected = -sum(float(scores[row, i - 1, tokens[row, i]]) for i in told)
        assert float(found.sums[row].detach()) == pytest.approx(expected, rel=1e-5)
        assert int(found.weights[row]) == len(told)
