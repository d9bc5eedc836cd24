"""A model as one program: what evaluation gives, for one example and for many, of the fields that count."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.model.gradient import Gradient
from streamtrain.serving import NotExported, Program, export
from streamtrain.values import Arrays

GENERATOR = np.random.default_rng(3)
IMAGES: Arrays = {
    "image": GENERATOR.integers(0, 256, (6, 8, 8, 3), np.uint8),
    "mask": GENERATOR.random((6, 5)).astype(np.float32),
    "label": np.arange(6) % 3,
}


class Mixed(nn.Module):
    """Two inputs; dropout and BatchNorm, which do something else in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.scores = nn.Linear(4 * 36 + 5, 3)
        self.layers[1].running_mean.fill_(0.3)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scores(torch.cat([self.layers(image), mask], 1))
        return found


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Looks at the label too, as for a loss of soft labels."""
    soft = torch.nn.functional.one_hot(batch["label"], 3) * 0.9
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2).float() / 255, "label": soft}


def job_of(model: Callable[[], nn.Module], *inputs: str, **settings: Any) -> st.Job:
    data = {name: settings.pop(name) for name in ("transform", "target", "collate") if name in settings}
    return st.Job(st.Data("nowhere", inputs=inputs or ("x",), **data), model, **settings)


def exported(job: st.Job, arrays: Arrays) -> tuple[Program, Gradient]:
    gradient = Gradient(job)
    return export(job, gradient, arrays), gradient


def evaluated(gradient: Gradient, arrays: Arrays) -> Any:
    """The same by the calls of an evaluation."""
    gradient.modes.evaluate()
    with torch.no_grad():
        return gradient.output(gradient.batch(arrays))


def first(arrays: Arrays, examples: int) -> Arrays:
    return {name: array[:examples] for name, array in arrays.items()}


def test_it_computes_as_in_evaluation_for_one_and_many(tmp_path: Path) -> None:
    program, gradient = exported(job_of(Mixed, "image", "mask", transform=scaled), IMAGES)
    assert program.fields == ("image", "mask") and program.outputs == () and program.difference == 0
    program.save(tmp_path / "program.pt2")
    again = program.read_back(tmp_path / "program.pt2")
    many = {name: np.concatenate([array] * 7)[:41] for name, array in IMAGES.items()}
    for arrays in (first(IMAGES, 1), first(IMAGES, 2), IMAGES, many):
        expected = evaluated(gradient, dict(arrays)).numpy()
        for each in (program, again):
            assert np.array_equal(each({"image": arrays["image"], "mask": arrays["mask"]})[""], expected)
    gradient.modes.train()
    with torch.no_grad():
        assert not np.allclose(gradient.output(gradient.batch(dict(IMAGES))).numpy(), program(IMAGES)[""])


def test_nothing_that_it_was_made_with_is_in_its_file(tmp_path: Path) -> None:
    program, _ = exported(job_of(Mixed, "image", "mask", transform=scaled), IMAGES)
    program.save(tmp_path / "program.pt2")
    content = (tmp_path / "program.pt2").read_bytes()
    assert all(image.tobytes() not in content for image in IMAGES["image"])


class Means(nn.Module):
    """A regression on fields of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.line(torch.stack([a, b], 1))[:, 0]  # type: ignore[no-any-return]


def test_a_field_that_the_model_does_not_get_is_no_input_without_a_transform() -> None:
    arrays: Arrays = {"a": np.arange(4.0), "b": np.arange(4) * 0.5, "y": np.ones(4)}
    program, gradient = exported(job_of(Means, "a", "b", target="y", loss="mse", precision="float64"), arrays)
    assert program.fields == ("a", "b")
    assert np.array_equal(program(arrays)[""], evaluated(gradient, dict(arrays)).numpy())


class Words(nn.Module):
    """A language model: scores for each token, of rows of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.scores = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.scores(self.layer(self.words(tokens)))  # type: ignore[no-any-return]


def token_loss(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(scores.transpose(1, 2), tokens, reduction="none").mean(1)


def test_a_language_model_takes_rows_of_any_length() -> None:
    rows: Arrays = {"tokens": GENERATOR.integers(0, 11, (5, 9))}
    job = job_of(Words, "tokens", target="tokens", loss=token_loss, collate=st.Pad("tokens", 0))
    program, gradient = exported(job, rows)
    for shape in ((1, 4), (3, 9), (7, 13)):
        other: Arrays = {"tokens": GENERATOR.integers(0, 11, shape)}
        found = program(other)[""]
        assert found.shape == (*shape, 11)
        np.testing.assert_allclose(found, evaluated(gradient, dict(other)).numpy(), rtol=0, atol=1e-5)


class Keywords(nn.Module):
    """Takes keywords and returns several things by name, some of which are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.mixed = nn.Linear(4, 4)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> dict[str, Any]:
        found = self.words(input_ids)
        found = found + self.mixed(found.view(-1, 4)).view(found.shape[0], -1, 4)
        return {"logits": found, "mean": found.mean((1, 2)), "cache": object() if use_cache else None, "kind": "x"}


def next_tokens(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    counts = ~batch["starts"][:, 1:]  # whose sizes and the tokens' are the same
    found = model(input_ids=batch["tokens"].long(), use_cache=False)["logits"].sum(2)[:, 1:]
    return {"loss": (found * counts).sum(1)}


def test_the_model_that_an_objective_calls_takes_the_objective_s_fields() -> None:
    arrays: Arrays = {"tokens": GENERATOR.integers(0, 11, (4, 6)).astype(np.int16), "starts": np.zeros((4, 6), bool)}
    job = st.Job(st.Data("nowhere", extra=("tokens", "starts")), Keywords, objective=next_tokens)
    program, gradient = exported(job, arrays)
    assert program.fields == ("tokens",) and program.outputs == ("logits", "mean")
    assert program.left_out == ("kind (str)",)
    expected = gradient.model(torch.as_tensor(arrays["tokens"]).long())["logits"].detach().numpy()
    assert np.array_equal(program(first(arrays, 3))["logits"], expected[:3])


def twice(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"loss": model(batch["tokens"])["mean"] - model(batch["tokens"] // 2)["mean"]}


class Several(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return found, (found * 2).bfloat16()


def test_several_outputs_are_named() -> None:
    arrays: Arrays = {"x": GENERATOR.random((4, 2)).astype(np.float32)}
    program, gradient = exported(job_of(Several), arrays)
    found = program(arrays)
    one, two = evaluated(gradient, dict(arrays))
    assert program.outputs == ("output_0", "output_1") and np.array_equal(found["output_0"], one.numpy())
    assert np.array_equal(found["output_1"], two.float().numpy())


class Branching(nn.Linear):
    """Goes one way or the other by what it gets."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


class OfTwo(nn.Linear):
    """Knows how many examples come."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (2.0 if x.shape[0] > 2 else 1.0)


class Counting(nn.Linear):
    """Asks by `len`, of which tracing makes a number."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(len(x), 2, 1)


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 does not read so much Python")
def test_len_is_no_number() -> None:
    arrays: Arrays = {"x": GENERATOR.random((4, 2)).astype(np.float32)}
    program, gradient = exported(job_of(Counting), arrays)
    assert np.array_equal(program(first(arrays, 2))[""], evaluated(gradient, first(arrays, 2)).numpy())


class Python(nn.Linear):
    """Returns no tensor."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return [float(len(x))]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Branching, "data-dependent"),
        (OfTwo, " of 1: "),
        (Python, "returns no tensor but list"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_nothing_else(
    model: Callable[[], nn.Module], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotExported) as refused:
        exported(job_of(model), {"x": GENERATOR.random((4, 2)).astype(np.float32)})
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_an_objective_that_calls_the_model_twice_has_no_one_output() -> None:
    arrays: Arrays = {"tokens": GENERATOR.integers(0, 11, (4, 6))}
    with pytest.raises(NotExported, match="the objective calls the model 2 times for a batch, and not once"):
        exported(st.Job(st.Data("nowhere", extra=("tokens",)), Keywords, objective=twice), arrays)


def test_what_torch_cannot_write_is_said(tmp_path: Path) -> None:
    program, _ = exported(job_of(Several), {"x": GENERATOR.random((4, 2)).astype(np.float32)})
    with pytest.raises(NotExported, match=r"torch.export.save: .*no_such_folder"):
        program.save(tmp_path / "no_such_folder" / "program.pt2")
    with pytest.raises(NotExported, match=r"torch.export.load: "):
        program.read_back(tmp_path / "program.pt2")


class Wavering(nn.Linear):
    """Gives something else each time."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_program_that_gives_other_numbers_is_refused() -> None:
    with pytest.raises(NotExported, match=r"the output of \d: other numbers than the model's, by"):
        exported(job_of(Wavering), {"x": GENERATOR.random((4, 2)).astype(np.float32)})


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"channels_last": True}, {"compile": True}])
def test_the_job_s_arithmetic_is_the_program_s(settings: dict[str, Any]) -> None:
    job = job_of(Mixed, "image", "mask", transform=scaled, **settings)
    program, gradient = exported(dataclasses.replace(job, compile=False), IMAGES)
    expected = evaluated(gradient, dict(IMAGES)).float().numpy()
    np.testing.assert_allclose(program(IMAGES)[""], expected, rtol=0, atol=1e-2 * np.abs(expected).max())
    assert program(IMAGES)[""].dtype == np.float32
