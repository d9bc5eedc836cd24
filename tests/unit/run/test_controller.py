"""Both modes, without Ray: what is used, measured, kept and reported."""

import dataclasses
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

import streamtrain as st
from streamtrain.errors import NonFiniteError
from streamtrain.measure.risk import pooled
from streamtrain.order import select_lanes
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.values import Risk
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    return st.Job(
        st.Data(str(tmp_path / "digits"), transform=scaled), model, optimizer=st.SGD(lr=0.5), batch_size=50, seed=1
    )


def test_promise_7_online_uses_every_example_once_and_ends(job: st.Job, tmp_path: Path) -> None:
    notebook = Notebook()
    result, fleet = run(dataclasses.replace(job, mode=st.Online(window=300)), tmp_path, notebook)
    assert result.mode == "online" and result.stop_reason == "the training split is used up"
    assert result.passes == 1 and result.examples_used == 1438
    assert [update.loss.count for update in fleet.updates] == [50] * 28 + [38]
    assert result.chosen is result.evaluations[-1]
    together = pooled(Risk(u.loss, u.error) for u in fleet.updates)
    assert result.progressive.loss.count == together.loss.count
    assert result.progressive.loss.mean == pytest.approx(together.loss.mean, rel=1e-12)
    assert result.progressive.loss.standard_error < together.loss.standard_error, "the fall is no part of it"
    window = pooled(Risk(u.loss, u.error) for u in fleet.updates[-7:])
    assert result.chosen.progressive is not None and result.chosen.progressive.loss.count == window.loss.count
    assert result.chosen.progressive.loss.mean == pytest.approx(window.loss.mean, rel=1e-12)
    assert [step for step, _ in notebook.named("progressive/loss")] == [2, 8, 14, 20]
    with pytest.raises(StopIteration):
        plans = fleet.worker._plan
        next(select_lanes(plans.order, plans.pass_orders, range(1), 29, plans.total_steps))


def test_online_part_of_a_pass(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=st.Online(max_examples=333, evaluate_every=100))
    result, _ = run(job, tmp_path)
    assert result.examples_used == 333 and result.stop_reason == "mode.max_examples = 333 reached"
    assert [evaluation.examples_used for evaluation in result.evaluations] == [100, 200, 300, 333]
    assert result.chosen.empirical.loss.count == 180, "as many training examples as the validation split has"


def test_online_refuses_a_second_pass() -> None:
    with pytest.raises(
        st.ConfigError, match="mode.passes: expected one pass in online mode, found 2; a second pass would"
    ):
        st.Online(passes=2)


def test_epochs_stop_early_and_keep_the_best(job: st.Job, tmp_path: Path) -> None:
    notebook = Notebook()
    result, fleet = run(dataclasses.replace(job, mode=st.Epochs(max_passes=30, patience=2)), tmp_path, notebook)
    errors = [evaluation.generalization.error.mean for evaluation in result.evaluations]
    best = errors.index(min(errors))
    assert result.chosen is result.evaluations[best]
    assert result.passes == len(errors) == best + 1 + 2 < 30
    assert result.stop_reason == f"no better validation error in 2 passes; best was pass {best + 1}"
    ends = [29 * passes - 1 for passes in range(1, len(errors) + 1)]
    assert [step for step, _ in notebook.named("Gap/error")] == ends
    assert notebook.named("evaluation/passes") == [(end, passes) for passes, end in enumerate(ends, 1)]
    kept = safetensors.torch.load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in result.parameters.items())
    # the fleet was given the kept parameters back, and measured on the test split with them
    assert all(torch.equal(fleet.snapshot()[name], tensor) for name, tensor in result.parameters.items())
    assert result.test is not None and result.test.loss.count == 179
    again = pooled(fleet.evaluate("validation", [(0, 180)]))
    assert again.error.mean == pytest.approx(min(errors))
    norms = [update.gradient_norm for update in fleet.updates[-100:]]
    assert notebook.named("stop/minibatch_gradient_norm")[0][1] == pytest.approx(sum(norms) / len(norms))


def test_risks_are_those_of_a_plain_loop(job: st.Job, tmp_path: Path) -> None:
    result, fleet = run(dataclasses.replace(job, mode=st.Epochs(max_passes=1)), tmp_path)
    twin = model()
    twin.load_state_dict(result.parameters)
    arrays = fleet.worker._plan.reader("validation").read(0, 180)
    output = twin(torch.from_numpy(arrays["image"]).float() / 255)
    target = torch.from_numpy(arrays["label"])
    losses = torch.nn.functional.cross_entropy(output, target, reduction="none").double()
    errors = (output.argmax(1) != target).double()
    at = result.chosen.generalization
    assert at.loss.mean == pytest.approx(losses.mean().item(), rel=1e-6)
    assert at.loss.standard_error == pytest.approx(losses.std().item() / 180**0.5, rel=1e-6)
    assert at.error.mean == pytest.approx(errors.mean().item())
    gap = result.chosen.gap_of_loss
    assert gap.value == pytest.approx(at.loss.mean - result.chosen.empirical.loss.mean)
    assert gap.standard_error == pytest.approx(
        (at.loss.standard_error**2 + result.chosen.empirical.loss.standard_error**2) ** 0.5
    )


def test_the_same_job_gives_the_same_bits_and_stints_do_not_matter(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2))
    first, _ = run(job, tmp_path)
    monkeypatch.setattr("streamtrain.run.controller.FIRST_STINT", 1)
    monkeypatch.setattr("streamtrain.run.controller.STINT_SECONDS", 0.0)
    second, _ = run(job, tmp_path)
    assert all(torch.equal(first.parameters[name], tensor) for name, tensor in second.parameters.items())
    assert first.evaluations == second.evaluations


def test_curves_have_a_point_every_so_many_steps_and_one_for_the_rest(job: st.Job, tmp_path: Path) -> None:
    notebook = Notebook()
    _, fleet = run(dataclasses.replace(job, mode=st.Online()), tmp_path, notebook)
    assert [step for step, _ in notebook.named("minibatch/loss")] == [9, 19, 28]
    first = pooled(Risk(u.loss, u.error) for u in fleet.updates[:10])
    assert notebook.named("minibatch/loss")[0][1] == first.loss.mean
    assert notebook.named("gradient/clipped_fraction")[0][1] == 0.0


def test_a_non_finite_minibatch_can_be_passed_over(job: st.Job, tmp_path: Path) -> None:
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.extend([0] * output.requires_grad)  # minibatches, not evaluations
        losses = torch.nn.functional.cross_entropy(output, target, reduction="none")
        return losses * (float("nan") if output.requires_grad and len(calls) in (3, 7) else 1.0)

    job = dataclasses.replace(job, loss=loss, error="zero_one", mode=st.Online(), optimizer=st.SGD(), nonfinite="skip")
    notebook = Notebook()
    result, fleet = run(job, tmp_path, notebook)
    assert [update.step for update in fleet.updates if update.skipped] == [2, 6]
    assert result.progressive is not None and result.progressive.loss.count == 1438 - 100
    assert notebook.named("gradient/skipped_minibatches")[-1][1] == 2
    assert all(math.isfinite(value) for _, value in notebook.named("minibatch/loss"))


def test_minibatches_that_fp16_cannot_hold_lower_the_loss_scale_and_nothing_else(job: st.Job, tmp_path: Path) -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 100 * torch.nn.functional.cross_entropy(output.float(), target, reduction="none")

    job = dataclasses.replace(
        job, loss=loss, error="zero_one", optimizer=st.SGD(lr=5e-3), mode=st.Online(), precision="fp16"
    )
    job, notebook = dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=0.0)), Notebook()
    keeper = Keeper(job, {})
    result, fleet = run(job, tmp_path, notebook, keeper)
    overflowed = [update.step for update in fleet.updates if update.overflowed]
    assert overflowed[:3] == [0, 1, 2] and len(overflowed) < 15
    assert [update.step for update in fleet.updates if update.skipped] == overflowed
    assert notebook.named("gradient/overflowed_minibatches")[-1][1] == len(overflowed)
    scale = 65536.0 / 2 ** len(overflowed)
    assert notebook.named("gradient/loss_scale")[-1][1] == scale
    assert keeper.start is not None and keeper.start[0]["scaler"][0] < 65536, "a run that goes on has it"
    assert result.chosen.generalization.loss.mean < 0.9 * result.evaluations[0].generalization.loss.mean


def test_the_average_is_what_is_evaluated_and_kept(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=st.Online(), optimizer=st.SGD(lr=0.5), average=st.Average(0.9))
    result, fleet = run(job, tmp_path)
    state = fleet.worker._exchange.state
    first = fleet.worker._gradient.layout.parameters[0]
    assert torch.equal(result.parameters[first.name], first.view(state.evaluated))
    twin = model()
    twin.load_state_dict(result.parameters)
    arrays = fleet.worker._plan.reader("validation").read(0, 180)
    output = twin(torch.from_numpy(arrays["image"]).float() / 255)
    loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(arrays["label"]))
    assert result.chosen.generalization.loss.mean == pytest.approx(loss.item(), rel=1e-6)


def test_a_non_finite_step_stops_and_the_last_good_parameters_are_saved(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, optimizer=st.SGD(lr=1e30))
    with pytest.raises(NonFiniteError) as raised:
        run(job, tmp_path)
    file = tmp_path / "last_good.safetensors"
    assert str(raised.value).startswith("step 1: expected a finite loss and gradient, found loss ")
    assert "at learning rate 1e+30; lower optimizer.lr" in str(raised.value)
    assert str(raised.value).endswith(f"parameters of the last good step are in {file}")
    assert all(torch.isfinite(tensor).all() for tensor in safetensors.torch.load_file(file).values())


def first_pixel(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output[:, 0] * 0 + target


def test_metrics_of_the_user_are_measured_with_both_risks(job: st.Job, tmp_path: Path) -> None:
    notebook = Notebook()
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2), metrics={"mean label": first_pixel})
    result, fleet = run(job, tmp_path, notebook)
    labels = fleet.worker._plan.reader("validation").read(0, 180)["label"].astype(float)
    measured = result.chosen.generalization.metrics["mean label"]
    assert measured.mean == pytest.approx(labels.mean()) and measured.count == 180
    assert measured.standard_error == pytest.approx(labels.std(ddof=1) / 180**0.5)
    assert notebook.named("generalization_risk/mean label") == [(28, measured.mean), (57, measured.mean)]
    twin = model()
    twin.load_state_dict(result.parameters)
    arrays = fleet.worker._plan.reader("validation").read(0, 180)
    likelihood = twin(torch.from_numpy(arrays["image"]).float() / 255).softmax(1)
    wrong = 1 - likelihood[torch.arange(180), torch.from_numpy(arrays["label"])]
    assert result.chosen.generalization.metrics["soft_error"].mean == pytest.approx(wrong.mean().item(), rel=1e-5)
    assert notebook.named("Gap/soft_error_standard_error")[-1][1] > 0
    logits, target = twin(torch.from_numpy(arrays["image"]).float() / 255), torch.from_numpy(arrays["label"])
    others = logits.masked_fill(torch.nn.functional.one_hot(target, 10).bool(), -1e9).max(1).values
    margins = logits[torch.arange(180), target] - others
    assert result.chosen.generalization.metrics["margin"].mean == pytest.approx(margins.mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["loss", "a/b", "", "x_standard_error"])
def test_promise_10_a_metric_whose_name_cannot_be(name: str, job: st.Job) -> None:
    with pytest.raises(st.ConfigError, match="metrics: expected a name of letters, .* found .*; rename it"):
        dataclasses.replace(job, metrics={name: first_pixel})


def test_the_first_of_many_passes_gives_the_progressive_risk_that_one_pass_gives(job: st.Job, tmp_path: Path) -> None:
    once, many = Notebook(), Notebook()
    online, _ = run(dataclasses.replace(job, mode=st.Online()), tmp_path, once)
    epochs, _ = run(dataclasses.replace(job, mode=st.Epochs(max_passes=3)), tmp_path, many)
    assert epochs.progressive == online.progressive and online.progressive.loss.count == 1438
    assert many.named("progressive_total/loss") == once.named("progressive_total/loss")
    assert [evaluation.progressive is None for evaluation in epochs.evaluations] == [False, True, True]


def test_patience_in_examples_and_the_verdict(job: st.Job, tmp_path: Path) -> None:
    mode = st.Epochs(max_passes=30, patience_examples=2 * 1438)
    result, _ = run(dataclasses.replace(job, mode=mode), tmp_path)
    passes, _ = run(dataclasses.replace(job, mode=st.Epochs(max_passes=30, patience=2)), tmp_path)
    assert result.stop_reason.startswith("no better validation error in 2,876 examples; best was pass ")
    assert result.evaluations == passes.evaluations and result.summary()["verdict"] == result.verdict


def test_a_bound_on_measuring_leaves_out_all_but_the_first_and_last(job: st.Job, tmp_path: Path) -> None:
    bound = st.Evaluate(max_fraction_of_time=1e-9)
    for mode, first in ((st.Epochs(max_passes=4, patience=9), 1.0), (st.Online(), 150 / 1438)):
        result, _ = run(dataclasses.replace(job, mode=mode, evaluate=bound), tmp_path)
        last = 4.0 if first == 1.0 else 1.0
        assert [evaluation.passes for evaluation in result.evaluations] == [first, last]


def test_many_passes_are_measured_within_passes_on_a_part(job: st.Job, tmp_path: Path) -> None:
    """At every so many examples and at the end, on the same random part each time; the parameters do not notice."""
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2))
    measured = dataclasses.replace(job, evaluate=st.Evaluate(every=1000, examples=60))
    result, fleet = run(measured, tmp_path)
    assert [each.examples_used for each in result.evaluations] == [1000, 2038, 2876]
    assert [round(each.passes, 3) for each in result.evaluations] == [round(n / 1438, 3) for n in (1000, 2038, 2876)]
    for each in result.evaluations:
        assert each.generalization.loss.count == each.empirical.loss.count == 60
    parts = [each.held_out for each in result.evaluations]
    assert all(each is not None and each.examples == parts[0].examples for each in parts)  # type: ignore[union-attr]
    assert len(fleet.updates) == 58 and result.stop_reason == "mode.max_passes = 2 reached"
    _, unmeasured = run(job, tmp_path)
    assert [u.loss for u in fleet.updates] == [u.loss for u in unmeasured.updates]


def test_a_part_larger_than_the_split_is_refused(job: st.Job, tmp_path: Path) -> None:
    with pytest.raises(st.ConfigError, match=r"evaluate.examples: expected at most the 180 validation .* found 181;"):
        run(dataclasses.replace(job, evaluate=st.Evaluate(examples=181)), tmp_path)
    with pytest.raises(
        st.ConfigError, match="evaluate.every: expected none with mode.evaluate_every, found 9; leave one"
    ):
        dataclasses.replace(job, mode=st.Online(evaluate_every=9), evaluate=st.Evaluate(every=9))


def test_a_result_is_shown_in_one_line_and_by_notebooks_as_its_table(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, mode=st.Epochs(max_passes=2), tracking=quiet(tmp_path))
    result = st.train(job, inline=True, quiet=True)
    loss = f"{result.chosen.generalization.loss.mean:.4f}"
    assert repr(result).startswith("Result(epochs, 2 pass(es), loss held out ") and loss in repr(result)
    assert repr(result).endswith(f"; mode.max_passes = 2 reached; {result.folder})") and "tensor" not in repr(result)
    assert repr(result.chosen).startswith("Evaluation(pass ") and loss in repr(result.chosen)
    shown = result._repr_html_()
    assert f"<tr><th>loss, held out</th><td>{loss} ± " in shown and 'src="data:image/png;base64,' in shown
    (result.folder / "risk_loss.png").unlink()
    assert "<img" not in result._repr_html_()


def quiet(folder: Path) -> st.Tracking:
    """The run's folder there, and no MLflow."""
    return st.Tracking(enabled=False, folder=str(folder / "runs"))
