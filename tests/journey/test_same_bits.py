"""Promise 5: the same bits of parameters and optimizer state for any number of workers, by either exchange."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.lion import Lion
from streamtrain.aggregate.optimizers.muon import Muon
from streamtrain.aggregate.optimizers.torch_optim import Torch
from streamtrain.job import Average, Clip, Group
from tests.support.between_hosts import hashes_of_hosts, train_ahead
from tests.support.crew import Crew
from tests.support.resumed import lose_one, resume
from tests.support.steps import FULL, MODELS, PLAIN, hashes, make_store, start


def nadam(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    matrices, others = ([p for p in parameters if (p.dim() > 1) is wide] for wide in (True, False))
    return torch.optim.NAdam([{"params": matrices, "weight_decay": 0.01}, {"params": others, "lr": 0.02}], lr=0.01)


OTHERS = {
    "adamw": dataclasses.replace(FULL, optimizer=AdamW(lr=0.01), groups=(Group("*bias*", weight_decay=0.0),)),
    "adamw, at once": Descent(AdamW(lr=0.01, amsgrad=True)),
    "lion": dataclasses.replace(FULL, optimizer=Lion(lr=1e-3, weight_decay=0.1), clip=Clip()),
    "muon": Descent(Muon(), clip=Clip(norm=1.0), average=Average(equal=True, start=3, every=2)),
    "muon, at once": Descent(Muon(others=("5.*",), nesterov=False)),
    "torch": Descent(Torch(nadam), clip=Clip(value=0.5, norm=1.0), average=Average(0.9), schedule=FULL.schedule),
    "torch, plain": Descent(Torch(nadam)),
}


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(8) as crew:
        yield crew


@pytest.mark.parametrize("model", MODELS)
def test_promise_5_the_same_bits_on_1_2_3_4_and_8_workers_over_100_steps(crew: Crew, model: str) -> None:
    found = {workers: hashes(crew, "shared", model, FULL, workers, steps=100) for workers in (1, 2, 3, 4, 8)}
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_promise_5_the_collective_exchange_has_the_bits_of_the_shared(crew: Crew, model: str) -> None:
    expected = hashes(crew, "shared", model, FULL, 1, steps=20)
    found = {workers: hashes(crew, "collective", model, FULL, workers, steps=20) for workers in (2, 3)}
    assert {expected.pop()} == set.union(*found.values()), found


def test_promise_5_workers_with_devices_have_the_same_bits_for_any_number(crew: Crew) -> None:
    found = {workers: hashes(crew, "device", "cnn", FULL, workers, steps=20) for workers in (1, 2, 3)}
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (2, 1, 4)], ids=str)
def test_promise_5_hosts_of_several_workers_have_the_same_bits(crew: Crew, sizes: tuple[int, ...]) -> None:
    expected = hashes(crew, "shared", "cnn", FULL, 1, steps=20)
    assert hashes_of_hosts(crew, "cnn", FULL, sizes, steps=20) == expected


@pytest.mark.parametrize(("model", "workers"), [("mlp", 2), ("transformer", 3)])
def test_promise_5_buckets_that_go_while_backward_makes_others_have_the_same_bits(
    crew: Crew, model: str, workers: int
) -> None:
    expected = hashes(crew, "shared", model, FULL, 1, steps=20)
    crew.all(start, [(model, FULL, worker, workers, 20) for worker in range(workers)])
    (address,) = crew.all(make_store, [("127.0.0.1",)])
    found = crew.all(train_ahead, [(address, 2**12)] * workers)
    assert {sha256 for sha256, _ in found} == expected
    assert all(went > 20 for _, went in found), found


def test_promise_5_without_clipping_by_norm_steps_are_made_in_fewer_waits_and_have_the_same_bits(crew: Crew) -> None:
    found = {(e, w): hashes(crew, e, "mlp", PLAIN, w, steps=20) for e in ("shared", "collective") for w in (1, 4)}
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.parametrize("name", OTHERS)
def test_promise_5_every_kind_of_optimizer_has_the_same_bits_by_every_exchange(crew: Crew, name: str) -> None:
    descent = OTHERS[name]
    found = {workers: hashes(crew, "shared", "mlp", descent, workers, steps=20) for workers in (1, 2, 3, 4, 8)}
    found |= {-workers: hashes(crew, "collective", "mlp", descent, workers, steps=20) for workers in (2, 3)}
    found[0] = hashes_of_hosts(crew, "mlp", descent, (2, 1, 4), steps=20)
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "torch"])
def test_promise_5_the_same_bits_when_workers_are_lost_join_and_leave_and_runs_are_resumed(name: str) -> None:
    descent = FULL if name == "sgd" else OTHERS[name]
    with Crew(5) as crew:
        expected = hashes(crew, "shared", "mlp", descent, 1, steps=12)
        saved = lose_one(crew, "mlp", descent, 12, lost_in=3, until=5)
        saved, _ = resume(crew, "mlp", descent, 12, saved, workers=(0, 1, 3, 4), until=8)
        saved, _ = resume(crew, "mlp", descent, 12, saved, workers=(3,), until=10)
        _, found = resume(crew, "mlp", descent, 12, saved, workers=(0, 1, 4), until=12)
    assert found == expected


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_promise_5_workers_with_devices_have_the_same_bits_with_every_optimizer(crew: Crew, name: str) -> None:
    found = {workers: hashes(crew, "device", "mlp", OTHERS[name], workers, steps=12) for workers in (1, 2, 3)}
    assert len(set.union(*found.values())) == 1, found
