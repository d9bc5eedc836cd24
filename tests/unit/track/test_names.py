"""The table of metric names in the station's README is what a run logs."""

import dataclasses
import re
from pathlib import Path

import torch

import streamtrain as st
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run

README = Path(__file__).parents[3] / "streamtrain" / "track" / "README.md"

OF_A_JOB = "(empirical_risk|generalization_risk|Gap)/NAME|generalization_risk_NAME/"
"""Of its own metrics, and of further held-out sets: see tests/journey/test_whole_sets.py and test_held_out_sets.py."""


def documented() -> set[str]:
    names = set()
    for row in README.read_text().splitlines():
        cell = row.split("|")[1] if row.startswith("| `") else ""
        whole, *more = re.findall(r"`([^`]+)`", cell) or [""]
        names |= {whole, *(whole.rpartition("/")[0] + suffix for suffix in more if suffix.startswith("/"))}
        names |= {name for name in more if not name.startswith("/")}
    return {name for name in names - {""} if not re.match(OF_A_JOB, name)}


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 255}


def unflattened(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


class Rows(torch.nn.Module):
    """An image's rows, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = torch.nn.RNN(8, 10, batch_first=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(image)
        return states[:, -1]


def once_nan(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Not finite in the first minibatch."""
    losses = torch.nn.functional.cross_entropy(output, target, reduction="none")
    once_nan.calls = getattr(once_nan, "calls", 0) + 1  # type: ignore[attr-defined]
    return losses * (float("nan") if once_nan.calls == 1 else 1.0)  # type: ignore[attr-defined]


def test_the_table_of_names_is_what_both_modes_log(tmp_path: Path) -> None:
    pack_digits(tmp_path / "digits")
    job = st.Job(st.Data(str(tmp_path / "digits"), transform=scaled), lambda: torch.nn.Linear(64, 10), batch_size=50)
    job = dataclasses.replace(job, lanes=2, tracking=st.Tracking(log_every=1))
    notebook = Notebook()
    for mode in (st.Online(window=500), st.Epochs(max_passes=1)):
        each = dataclasses.replace(job, mode=mode, precision="fp16", aggregation=st.Synchronous(backup=1))
        run(each, tmp_path, notebook)
    probed = dataclasses.replace(job, model=Rows, mode=st.Online(max_examples=400), probe_every=9, probe_examples=300)
    growing = st.BatchSize(20, most=40, follow="noise_scale", every=5)
    probed = dataclasses.replace(probed, batch_size=growing, clip=st.Clip(norm=0.1))
    run(dataclasses.replace(probed, data=dataclasses.replace(job.data, transform=unflattened)), tmp_path, notebook)
    pack_digits(tmp_path / "again")
    mixture = st.Mixture({str(tmp_path / "digits"): 0.5, str(tmp_path / "again"): 0.5})
    mixed = dataclasses.replace(job.data, url=mixture)
    run(dataclasses.replace(job, data=mixed, mode=st.Online(max_examples=400)), tmp_path, notebook)
    skipping = dataclasses.replace(job, mode=st.Online(), optimizer=st.SGD(), nonfinite="skip", error="zero_one")
    run(dataclasses.replace(skipping, loss=once_nan, aggregation=st.Stale(bound=1)), tmp_path, notebook)
    logged = {re.sub(r"^(layer_\w+)/.*", r"\1/NAME", reading.name) for reading in notebook.readings}
    logged = {re.sub(r"^parts/(digits|again)/", "parts/NAME/", name) for name in logged}
    logged |= {
        "recovery/seconds",
        "recovery/count",
    }  # only where workers are lost: see tests/unit/run/test_controller.py
    assert {name for name in logged if not name.endswith("_standard_error")} == documented()
    with_errors = {name.removesuffix("_standard_error") for name in logged if name.endswith("_standard_error")}
    assert with_errors == {
        name
        for name in documented()
        if re.match(
            "(progressive|.*_risk|Gap|parts|chosen|stop/t|gradient/inverse|gradient/risk_gradient_norm|stop/gradient_norm$|probe/(held|sub))",
            name,
        )
    }


def test_the_gap_and_what_is_kept_and_risks_open_the_page_of_charts() -> None:
    """MLflow's sections are what stands before a name's last slash, in the order of their letters, capitals first."""
    sections = sorted({name.rpartition("/")[0] for name in documented() if "/" in name})
    first = ["Gap", "chosen", "chosen/gap", "empirical_risk", "evaluation", "generalization_risk"]
    assert sections[: len(first)] == first
