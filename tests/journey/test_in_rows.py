"""Several sequences in a row in whole runs: the numbers of padded ones, the same bits whoever reads, all by key."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import streamtrain as st
from streamtrain.run.afterwards.kept_model import KeptModel
from streamtrain.run.afterwards.predictions import predict
from streamtrain.run.afterwards.risks import evaluate
from tests.support.same_run import assert_same_bits_from_a_checkpoint, assert_same_bits_over_ray, train_as_if_stopped
from tests.support.small_job import digest
from tests.support.tokens import (
    IN_ROWS,
    PADS,
    Hits,
    Language,
    Leaning,
    entry_loss,
    language_job,
    pack_ragged,
    token_error,
    token_loss,
)

PERPLEXITY = {"perplexity": st.OfMeans(math.exp, "loss")}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("ragged") / "d", 1000))


def shortened(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    length = rng.integers(1, 1 + len(example["tokens"])) if len(example["tokens"]) else 0
    return {**example, "tokens": example["tokens"][:length], "next": example["next"][:length]}


def job_on(url: str, runs: Path | None = None, data: dict[str, Any] | None = None, **settings: Any) -> st.Job:
    settings.setdefault("mode", st.Epochs(max_passes=3, reshuffle="examples"))
    tracking = st.Tracking(enabled=False, folder=str(runs or Path(url).parent / "runs"))
    given = {"loss": entry_loss, "error": "zero_one", "metrics": PERPLEXITY, "lanes": 4, **settings}
    kept = st.Checkpoints(seconds=0.001)
    return language_job(url, {**IN_ROWS, **(data or {})}, tracking=tracking, checkpoints=kept, **given)


def test_the_same_bits_over_ray_by_2_and_4_workers_with_3_streamers_and_1(url: str, local_ray: None) -> None:
    job = job_on(url, data={"augment": shortened})
    assert_same_bits_over_ray(job, 4)
    assert_same_bits_over_ray(dataclasses.replace(job, data=dataclasses.replace(job.data, streamers=3)), 2)


def test_the_same_bits_from_a_checkpoint_and_in_pieces(url: str) -> None:
    for micro_batch in (None, 3):
        assert_same_bits_from_a_checkpoint(job_on(url, data={"augment": shortened}, micro_batch=micro_batch))


def test_a_run_goes_on_from_a_checkpoint(url: str, tmp_path: Path) -> None:
    whole = st.train(job_on(url, tmp_path / "whole"), inline=True, quiet=True)
    train_as_if_stopped(job_on(url, tmp_path, mode=st.Epochs(max_passes=2, reshuffle="examples")))
    other = {"collate": dataclasses.replace(IN_ROWS["collate"], length=30)}
    with pytest.raises(
        st.ConfigError, match=r"--resume, data.collate: expected Pack\(.*length=20.*as the run began, fou"
    ):
        st.train(job_on(url, tmp_path, data=other), inline=True, quiet=True, resume=True)
    result = st.train(job_on(url, tmp_path), inline=True, quiet=True, resume=True)
    assert digest(result.parameters) == digest(whole.parameters)
    assert result.chosen.gap_of_loss == whole.chosen.gap_of_loss


@pytest.mark.parametrize(("lanes", "micro_batch", "length"), [(1, None, 9), (2, 5, 40), (8, 1, 200)])
def test_it_is_the_run_that_pads(url: str, tmp_path: Path, lanes: int, micro_batch: int | None, length: int) -> None:
    """Parameters, risks and their standard errors, to what float64 rounds."""
    rows = {"collate": dataclasses.replace(IN_ROWS["collate"], length=length)}
    padded = {"inputs": ("tokens",), "collate": PADS}
    mode = st.Epochs(max_passes=1)
    in_rows = job_on(url, tmp_path / "rows", rows, mode=mode, lanes=lanes, micro_batch=micro_batch)
    beside = {"loss": token_loss, "error": token_error}
    found, expected = (
        st.train(job, inline=True, quiet=True)
        for job in (in_rows, job_on(url, tmp_path / "pads", padded, mode=mode, lanes=lanes, **beside))
    )
    for name, tensor in expected.parameters.items():
        torch.testing.assert_close(found.parameters[name], tensor, rtol=1e-9, atol=1e-9)
    for risk in ("generalization", "empirical"):
        its, others = (getattr(result.chosen, risk).quantities for result in (found, expected))
        for name in ("loss", "error", "perplexity"):
            assert its[name].mean == pytest.approx(others[name].mean, rel=1e-9)
            assert its[name].standard_error == pytest.approx(others[name].standard_error, rel=1e-9)
            assert (its[name].count, its[name].weight) == (others[name].count, others[name].weight)


def test_predictions_and_risks_are_of_each_example(url: str, tmp_path: Path) -> None:
    """An example has its own entries, by its key, whoever was in its row."""
    job = job_on(url, tmp_path, mode=st.Online())
    result = st.train(job, inline=True, quiet=True)
    file = tmp_path / "found.parquet"
    told = predict(job, Path(result.folder), url, file, splits=("validation",), batch_size=7)
    assert told.columns == ("key", "split", "number", "loss", "error", "weight", "output")
    rows = pq.read_table(file).to_pylist()
    model = Language().double()
    model.load_state_dict(result.parameters)
    examples = st.open(url, "validation")
    assert len(rows) == len(examples)
    sums = weights = 0.0
    for number, row in enumerate(rows):
        tokens, target = (torch.from_numpy(np.asarray(examples[number][name])) for name in ("tokens", "next"))
        assert row["number"] == number and row["weight"] == len(tokens) == len(row["output"])
        if not len(tokens):
            assert math.isnan(row["loss"])
            continue
        output = model(tokens[None])
        torch.testing.assert_close(
            torch.tensor(row["output"], dtype=torch.float64), output[0].detach(), rtol=1e-9, atol=1e-9
        )
        loss = token_loss(output, target[None])
        assert row["loss"] == pytest.approx(float(loss.sums.detach()) / len(tokens), rel=1e-9)
        sums, weights = sums + float(loss.sums.detach()), weights + len(tokens)
    found = evaluate(job, Path(result.folder), url, splits=("validation",)).splits["validation"]
    assert found.loss.mean == pytest.approx(sums / weights, rel=1e-9) and found.loss.count == len(rows)
    assert found.loss.mean == pytest.approx(result.chosen.generalization.loss.mean, rel=1e-9)


def test_the_logged_model_predicts_what_predict_does(
    url: str, tmp_path: Path, store_uri: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fields of rows together with fields of examples; it is given batches as collate makes them."""
    data = {"inputs": (*IN_ROWS["inputs"], "label", "tokens_length")}
    job = job_on(url, data=data, model=Leaning, mode=st.Online(max_examples=48), error=None)
    job = dataclasses.replace(job, tracking=st.Tracking(uri=store_uri, folder=str(tmp_path)))
    run = st.train(job, inline=True)
    assert "data.collate: batches are given to it as data.collate returns them" in capfd.readouterr().err
    predict(job, Path(run.folder), url, tmp_path / "found.parquet", splits=("validation",))
    expected = pq.read_table(tmp_path / "found.parquet")["output"].to_pylist()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    served = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    with KeptModel(job, Path(run.folder), url) as kept:
        reader = kept.reader("validation")
        for size in (1, 40):
            arrays = reader.read(0, size)
            found = served.predict({name: arrays[name] for name in data["inputs"]})
            for number in range(size):
                alone = found[arrays["tokens_example"] == number]
                assert len(alone) == len(expected[number])
                np.testing.assert_allclose(alone, np.reshape(expected[number], alone.shape), rtol=1e-12, atol=1e-12)


def pooled(output: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each example: how far its tokens' mean output is from its number's last digit."""
    means = [each.mean() if len(each) else output.sum() * 0 for each in output.split(target["tokens_length"].tolist())]
    return (torch.stack(means) - target["label"] % 10).square()


def test_a_target_of_examples_goes_beside_rows(url: str, tmp_path: Path) -> None:
    """One loss an example, out of its entries; the mean is then over examples."""
    risks = []
    for length, micro_batch in ((20, None), (50, 3)):
        data = {"target": ("label", "tokens_length"), "collate": st.Pack("tokens", length)}
        given = {"loss": pooled, "error": None, "micro_batch": micro_batch, "mode": st.Online(max_examples=300)}
        result = st.train(job_on(url, tmp_path / str(length), data, **given), inline=True, quiet=True)
        risk = result.chosen.generalization.loss
        assert risk.weight == risk.count
        risks.append(risk.mean)
    assert risks[0] == pytest.approx(risks[1], rel=1e-9)


def test_metrics_of_the_whole_set_get_entries_and_classes_are_not_counted(url: str, tmp_path: Path) -> None:
    """No padding is in them; ± of classes would take a sequence's entries for independent."""
    job = job_on(url, tmp_path, loss="cross_entropy", metrics={"hits": Hits()}, mode=st.Online(max_examples=300))
    result = st.train(job, inline=True, quiet=True)
    risk = result.chosen.generalization
    assert risk.metrics["hits"].mean == pytest.approx(1 - risk.error.mean, rel=1e-6)
    assert result.by_class is None
    assert json.loads((Path(result.folder) / "result.json").read_text())
