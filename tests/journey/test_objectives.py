"""What people minimize, against one plain process that has the whole global minibatch: inline, and over Ray."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.order import Order, lanes_of
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.datasets import digits
from tests.support.pairs import Towers, contrastive, pack_pairs, pairs_job
from tests.support.tokens import (
    NO_TOKEN,
    PADS,
    Language,
    language_job,
    pack_ragged,
    pack_sequences,
    token_error,
    token_losses,
)

PASSES, EXAMPLES, LANES = 2, 200, 4


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_sequences(tmp_path_factory.mktemp("data") / "d", EXAMPLES))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("data") / "r", EXAMPLES))


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
    order = Order(len(tokens), job.lane_count, job.batch_size)
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
    return language_job(url, **{"mode": passes, "metrics": perplexity, "lanes": LANES, **settings})


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
    wired = st.train(job_of(tokens, workers=3, exchange="collective"), quiet=True)
    pooled = st.train(job_of(tokens, workers=2, aggregation=st.Stale(0)), quiet=True)
    inline = st.train(job_of(tokens), inline=True, quiet=True)
    assert digest(two) == digest(wired) == digest(pooled) == digest(inline)


@pytest.mark.parametrize(("lanes", "micro_batch"), [(1, None), (3, None), (8, 2)])
def test_a_token_loss_on_padded_sequences_is_the_textbooks_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ragged: str, lanes: int, micro_batch: int | None
) -> None:
    """Which has the whole global minibatch, padded to one length, whatever the lanes are padded to."""
    monkeypatch.chdir(tmp_path)
    job = job_of(ragged, data={"collate": PADS}, lanes=lanes, micro_batch=micro_batch)
    result = st.train(job, inline=True, quiet=True)
    check(result, job)
    assert result.evaluations[-1].generalization.loss.count == 20


def test_padded_sequences_have_the_same_bits_on_any_number_of_workers_and_streamers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ragged: str, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    inline, three = (
        st.train(job_of(ragged, data={"collate": PADS, **data}, workers=workers), inline=inline, quiet=True)
        for data, workers, inline in (({}, 1, True), ({"streamers": 3}, 2, False))
    )
    assert digest(inline) == digest(three) and inline.evaluations == three.evaluations


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


class Output(dict[str, torch.Tensor]):
    """As a model returns that computes its own loss."""


class Heads(torch.nn.Module):
    """Takes keywords, returns an object, with a head for the class and one for the brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(64, 16)
        self.of_class = torch.nn.Linear(16, 10)
        self.of_light = torch.nn.Linear(16, 1)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> Output:
        found = self.body(pixels).tanh()
        output = Output(logits=self.of_class(found), light=self.of_light(found)[:, 0])
        if labels is not None:
            output["losses"] = torch.nn.functional.cross_entropy(output["logits"], labels, reduction="none")
        return output


def both_losses(output: Output, target: dict[str, torch.Tensor]) -> torch.Tensor:
    of_class = torch.nn.functional.cross_entropy(output["logits"], target["label"], reduction="none")
    return of_class + 0.1 * (output["light"] - target["light"]).square()


def is_wrong(output: Output, target: dict[str, torch.Tensor]) -> torch.Tensor:
    return (output["logits"].argmax(1) != target["label"]).float()


def objective(model: Heads, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = model(pixels=batch["pixels"], labels=batch["label"])
    of_light = (output["light"] - batch["light"]).square()
    wrong = (output["logits"].argmax(1) != batch["label"]).float()
    return {"loss": output["losses"] + 0.1 * of_light, "error": wrong, "of light": of_light}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("heads")
    images, labels = digits(300)
    pixels = images.reshape(300, 64).astype(np.float32) / 255
    np.savez(folder / "d.npz", pixels=pixels, label=labels, light=pixels.mean(1))
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(0.8, 0.1, 0.1), seed=1))
    return str(folder / "d")


def heads_job(url: str, **settings: Any) -> st.Job:
    given = {"precision": "float64", "batch_size": 32, "lanes": 2, "tracking": st.Tracking(enabled=False), **settings}
    compared = st.Data(url, inputs=("pixels",), target=("label", "light"))
    data = st.Data(url) if "objective" in settings else compared
    return st.Job(data, Heads, mode=st.Epochs(max_passes=2, patience=2), **given)


def test_several_heads_are_the_textbooks_and_an_objective_has_their_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: str
) -> None:
    monkeypatch.chdir(tmp_path)
    job = heads_job(heads, loss=both_losses, error=is_wrong)
    by_targets = st.train(job, inline=True, quiet=True)
    read = plan(job).reader("train")
    batch = {name: torch.from_numpy(each) for name, each in read.read(0, len(read)).items()}
    batch = {name: each.double() if each.is_floating_point() else each for name, each in batch.items()}
    torch.manual_seed(job.seed)
    model = Heads().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = Order(len(batch["label"]), 2, 32)
    for step in range(2 * order.steps):
        parts = order.minibatch(order.position(step)).parts
        rows = [row for part in parts for row in range(part.start, part.stop)]
        optimizer.zero_grad()
        target = {name: batch[name][rows] for name in ("label", "light")}
        both_losses(model(batch["pixels"][rows]), target).mean().backward()
        optimizer.step()
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(by_targets.parameters[name], expected, rtol=1e-9, atol=1e-9)
    own = heads_job(heads, objective=objective, metrics={"rms": st.OfMeans(math.sqrt, "of light")})
    by_objective = st.train(own, inline=True, quiet=True)
    assert digest(by_targets) == digest(by_objective)
    one, other = (each.evaluations[-1].generalization for each in (by_targets, by_objective))
    assert (one.loss, one.error) == (other.loss, other.error)
    light = other.metrics["of light"]
    assert other.metrics["rms"].mean == pytest.approx(math.sqrt(light.mean))
    assert set(st.compare(by_objective, by_objective).differences) == {"loss", "error", "of light", "rms"}
    assert st.probe(own, by_objective.folder, examples=40, iterations=4).gradient_norm > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"objective": lambda model, batch: {"nll": batch["light"]}},
            'objective: expected a dict with "loss", found a ',
        ),
        ({"objective": lambda model, batch: model(batch["pixels"])["light"]}, 'objective: expected a dict with "loss"'),
        ({"objective": lambda m, b: {"loss": m(b["pixels"])["light"].mean()}}, "loss: expected one value an example"),
        ({"objective": lambda m, b: m(b["nothing"])}, "the objective failed: KeyError: 'nothing'"),
        (
            {"objective": objective, "metrics": {"x": st.OfMeans(math.exp, "heavy")}},
            "metrics, 'x': expected names of what is measured, found heavy; name one of loss, error, of light",
        ),
        (
            {"objective": lambda m, b: {**objective(m, b), "a/b": b["light"]}},
            "metrics: expected a name of letters, digits, _, -, . and spaces that is not taken, found 'a/b'; rename it",
        ),
        ({"loss": both_losses, "error": lambda output, target: target["light"].sum()}, "error: expected one value an"),
    ],
)
def test_a_wrong_objective_is_refused_by_the_trial(heads: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(st.ConfigError) as found:
        preflight(plan(heads_job(heads, **settings)))
    assert str(found.value).startswith(says), found.value


def test_what_an_objective_takes_the_place_of_is_refused(heads: str) -> None:
    for given, name in (({"loss": "mse"}, "loss"), ({"error": is_wrong}, "error")):
        with pytest.raises(st.ConfigError, match=f"{name}: expected none beside an objective"):
            heads_job(heads, objective=objective, **given)
    with pytest.raises(st.ConfigError, match="data.target: expected none beside an objective, found 'light'"):
        st.Job(st.Data(heads, target="light"), Heads, objective=objective)
    with pytest.raises(st.ConfigError, match="metrics, 'm': expected st.OfMeans of names that the objective returns"):
        heads_job(heads, objective=objective, metrics={"m": is_wrong})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_pairs(tmp_path_factory.mktemp("pairs") / "d", EXAMPLES)


def contrastive_textbook(job: st.Job, steps: int) -> dict[str, torch.Tensor]:
    reader = plan(job).reader("train")
    arrays = {name: torch.from_numpy(each).double() for name, each in reader.read(0, len(reader)).items()}
    torch.manual_seed(job.seed)
    model = Towers().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    order = Order(len(arrays["y"]), job.lane_count, job.batch_size)
    for step in range(steps):
        parts = order.minibatch(order.position(step)).parts
        rows = [row for part in parts for row in range(part.start, part.stop)]
        optimizer.zero_grad()
        contrastive(model(arrays["a"][rows], arrays["b"][rows]), arrays["y"][rows]).mean().backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_a_contrastive_loss_is_the_textbooks_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: str, lanes: int
) -> None:
    monkeypatch.chdir(tmp_path)
    job = pairs_job(pairs, lanes=lanes, batch_size=8, mode=st.Epochs(max_passes=PASSES, patience=PASSES))
    result = st.train(job, inline=True, quiet=True)
    for name, expected in contrastive_textbook(job, result.chosen.step).items():
        torch.testing.assert_close(result.parameters[name], expected, rtol=1e-9, atol=1e-9)
    model = Towers().double()
    model.load_state_dict(result.parameters)
    reader = plan(job).reader("validation")
    losses = []
    for room in lanes_of(len(reader), 8):  # of 60 held-out pairs 8 groups are the nearest to minibatches of 8
        read = reader.read(room.start, room.stop)
        group = {name: torch.from_numpy(each).double() for name, each in read.items()}
        with torch.no_grad():
            losses.append(contrastive(model(group["a"], group["b"]), group["y"]))
    last = result.chosen
    assert last.generalization.loss.count == len(reader) == 60 and last.empirical.loss.count == 64
    assert last.generalization.loss.mean == pytest.approx(torch.cat(losses).mean().item(), rel=1e-9)


def test_a_contrastive_loss_has_the_same_bits_on_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: str, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)

    def trained(workers: int, *, inline: bool = False, **settings: Any) -> st.Result:
        mode = st.Epochs(max_passes=PASSES, patience=PASSES)
        job = pairs_job(pairs, lanes=4, workers=workers, mode=mode, **settings)
        return st.train(job, inline=inline, quiet=True)

    inline, three, wired = trained(1, inline=True), trained(3), trained(2, exchange="collective")
    assert digest(inline) == digest(three) == digest(wired)
    assert inline.evaluations[-1].generalization == three.evaluations[-1].generalization


def test_losses_over_the_minibatch_are_refused_where_they_cannot_be(pairs: str) -> None:
    with pytest.raises(st.ConfigError, match=r"aggregation: expected st.Synchronous\(\), found Stale"):
        pairs_job(pairs, aggregation=st.Stale(1))
    with pytest.raises(st.ConfigError, match="loss: expected of each example a value of its own"):
        preflight(plan(pairs_job(pairs, loss_over="examples")))
