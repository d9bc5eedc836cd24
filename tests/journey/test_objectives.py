"""What people minimize, against one plain process that has the whole global minibatch: inline, and over Ray."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

import streamtrain as st
from streamtrain.order import Order
from streamtrain.prepare.plan import plan
from tests.support.tokens import NO_TOKEN, Language, language_job, pack_sequences, token_error, token_losses

PASSES, EXAMPLES, LANES = 2, 200, 4


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_sequences(tmp_path_factory.mktemp("data") / "d", EXAMPLES))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def read(job: st.Job, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    reader = plan(job).reader(split)
    arrays = reader.read(0, len(reader))
    return torch.from_numpy(arrays["tokens"]), torch.from_numpy(arrays["next"])


def textbook(job: st.Job) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """A plain loop over the global minibatches of all passes, and the held-out risks at its end."""
    tokens, target = read(job, "train")
    torch.manual_seed(job.seed)
    model = Language().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    order = Order(len(tokens), LANES, job.batch_size)
    for step in range(PASSES * order.steps):
        parts = order.minibatch(order.position(step)).parts
        rows = [row for part in parts for row in range(part.start, part.stop)]
        optimizer.zero_grad()
        losses = token_losses(model(tokens[rows]), target[rows])
        (losses.sum() / (target[rows] != NO_TOKEN).sum()).backward()
        optimizer.step()
    tokens, target = read(job, "validation")
    with torch.no_grad():
        output = model(tokens)
        count = (target != NO_TOKEN).sum().item()
        loss = token_losses(output, target).sum().item() / count
        error = token_error(output, target).sums.sum().item() / count
    return model.state_dict(), {"loss": loss, "error": error, "perplexity": math.exp(loss)}


def check(result: st.Result, job: st.Job) -> None:
    parameters, risks = textbook(job)
    for name, expected in parameters.items():
        torch.testing.assert_close(result.parameters[name], expected, rtol=1e-9, atol=1e-9)
    held_out = result.evaluations[-1].generalization.quantities
    for name, risk in risks.items():
        assert held_out[name].mean == pytest.approx(risk, rel=1e-9), name
        assert held_out[name].standard_error > 0, name
    error = held_out["perplexity"].standard_error / held_out["loss"].standard_error
    assert error == pytest.approx(risks["perplexity"], rel=1e-5), "the delta method's"


def job_of(url: str, **settings: object) -> st.Job:
    perplexity = {"perplexity": st.OfMeans(math.exp, "loss")}
    passes = st.Epochs(max_passes=PASSES, patience=PASSES)
    return language_job(url, mode=passes, metrics=perplexity, lanes=LANES, **settings)


def digest(result: st.Result) -> bytes:
    return b"".join(result.parameters[name].numpy().tobytes() for name in sorted(result.parameters))


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_token_loss_is_the_textbooks_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str, micro_batch: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(tokens, micro_batch=micro_batch)
    result = st.train(job, inline=True, quiet=True)
    check(result, job)
    found = st.compare(result, result).differences
    assert found["perplexity"][-1].value == 0 and found["loss"][-1].standard_error == 0
    if micro_batch is None:
        assert math.isfinite(st.probe(job, result.folder, examples=40, iterations=4).gradient_norm)


def test_a_token_loss_is_the_textbooks_over_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    two = st.train(job_of(tokens, workers=2), quiet=True)
    check(two, job_of(tokens))
    three = st.train(job_of(tokens, workers=3), quiet=True)
    assert digest(two) == digest(three) == digest(st.train(job_of(tokens), inline=True, quiet=True))


def test_a_negative_weight_is_refused_by_step_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    """Of an example that the trial has not seen."""
    monkeypatch.chdir(tmp_path)
    _, target = read(job_of(tokens), "train")
    wrong = int(np.flatnonzero((target != NO_TOKEN).sum(1).numpy() > 1)[30])
    marked = target[wrong]

    def loss(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
        weights = (target != NO_TOKEN).sum(1)
        weights = torch.where((target == marked).all(1), -1, weights)
        return st.Weighted(token_losses(output, target).sum(1), weights)

    key = plan(job_of(tokens)).reader("train").where(wrong)
    with pytest.raises(st.JobError) as found:
        st.train(job_of(tokens, loss=loss, error=None), inline=True, quiet=True)
    said = str(found.value)
    assert said.startswith("step ") and f"weights: expected numbers from 0 on, found -1 of {key}; " in said
