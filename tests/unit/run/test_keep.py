"""What a finished run leaves: parameters first, and no figure or model that fails undoes it."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

import streamtrain as st
from streamtrain.errors import ShardError
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import Trial, preflight
from streamtrain.run.outcome.handing_over import hand_over
from streamtrain.run.outcome.report import description, figures
from streamtrain.track.tracker import ModelCard
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, PlainFleet, run


class TwoOutputs(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return super().forward(x), x


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


def first_output(output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output[0], target, reduction="none")


class Keeper(Notebook):
    """Notes what it is given to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.cards: list[ModelCard] = []
        self.description = ""
        self.tags: dict[str, str] = {}

    def tag(self, name: str, value: str) -> None:
        self.tags[name] = value

    def artifact(self, file: Path, place: str) -> None:
        self.files.append(f"{place}/{file.name}")

    def describe(self, markdown: str) -> None:
        self.description = markdown

    def model(self, card: ModelCard) -> None:
        self.cards.append(card)


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    return st.Job(data, lambda: TwoOutputs(64, 10), loss=first_output, mode=st.Online(), batch_size=100)


@pytest.mark.figures
def test_everything_is_kept_also_of_a_model_of_two_outputs(job: st.Job, tmp_path: Path) -> None:
    result, fleet = run(job, tmp_path)
    keeper = Keeper()
    assert list(hand_over(fleet.worker._plan, preflight(plan(job)), "a run", result, keeper)) == []
    assert keeper.files == [
        "parameters/parameters.safetensors",
        "result/result.json",
        "figures/risk_loss.png",
        "figures/risk.html",
    ]
    (card,) = keeper.cards
    assert card.program is not None and [*card.program.outputs] == ["output_0", "output_1"]
    assert "model.signature" not in keeper.tags and card.step == result.chosen.step
    assert card.output is None and torch.equal(card.model.state_dict()["bias"], result.parameters["bias"])
    assert keeper.description == description("a run", result)
    assert keeper.description.startswith("It generalizes")
    held_out = result.chosen.generalization.loss
    assert f"| loss, held out | {held_out.mean:.4f} ± {held_out.standard_error:.4f} |" in keeper.description
    page = (tmp_path / "risk.html").read_text()
    assert page.count("<svg") == 1 and "held-out examples (generalization risk)" in page and "<script" not in page


@pytest.mark.figures
def test_files_of_a_run_that_is_measured_often_stay_small(job: st.Job, tmp_path: Path) -> None:
    result, _ = run(dataclasses.replace(job, mode=st.Epochs(max_passes=1)), tmp_path)
    numbers = range(1, 5001)
    often = [dataclasses.replace(result.chosen, step=number, passes=number / 7) for number in numbers]
    files = list(figures(dataclasses.replace(result, evaluations=tuple(often), chosen=often[1233])))
    assert max(file.stat().st_size for file in files) < 500_000
    page = files[-1].read_text()
    assert "<td>176.3 (kept)</td>" in page and "<td>714.3</td>" in page and page.count("<tr>") < 305


def test_promise_8_figures_and_models_that_fail_are_one_line_each(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("no space\nleft")

    result, _ = run(job, tmp_path)
    monkeypatch.setattr("streamtrain.track.figures.save", fails)
    monkeypatch.setattr(Keeper, "model", fails)
    keeper = Keeper()
    lines = list(hand_over(plan(job), Trial((), None), "a run", result, keeper))
    assert lines == [
        f"a run: {what} could not be made (OSError: no space left); the parameters are in {tmp_path}"
        for what in ("figures", "the model for MLflow")
    ]
    assert keeper.files == ["parameters/parameters.safetensors", "result/result.json"] and keeper.description


@pytest.mark.parametrize("mode", [st.Online(), st.Epochs(max_passes=1)])
def test_parameters_are_written_before_the_test_split_is_read(
    mode: st.Online | st.Epochs, job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = PlainFleet.evaluate

    def damaged(self: PlainFleet, split: str, slices: object, *, by_class: bool = False) -> object:
        if split == "test":
            raise ShardError("test/000000.tar: damaged")
        return evaluate(self, split, slices, by_class=by_class)  # type: ignore[arg-type]

    monkeypatch.setattr(PlainFleet, "evaluate", damaged)
    with pytest.raises(ShardError):
        run(dataclasses.replace(job, mode=mode), tmp_path)
    kept = safetensors.torch.load_file(tmp_path / "parameters.safetensors")
    assert kept["weight"].abs().max() > 0
