"""Muon against a plain float64 loop, against `torch.optim.Muon`, and what of a model it leaves to AdamW."""

import dataclasses

import pytest
import torch

from streamtrain.aggregate.descent.rules import Descent, cut_pieces, match_rules, take_share
from streamtrain.aggregate.exchange.collective.bucket import cut
from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.muon import Muon, orthogonalize
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import ConfigError
from streamtrain.job import Average, Clip, Data, Group, Job
from tests.unit.aggregate.test_optimizers import LANES, STEPS, Model, examples_of, gradients_of, relative, trained

ADAMW = AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
MUON = Muon(lr=0.02, weight_decay=0.1, others=("seldom*",), adamw=ADAMW)
CASES = {
    "plain": Descent(MUON),
    "no nesterov": Descent(dataclasses.replace(MUON, nesterov=False, adjust="match_rms_adamw", ns_steps=4)),
    "clipped, average": Descent(MUON, Clip(norm=20.0), average=Average(0.9)),
}


def plain_orthogonal(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The quintic on the singular values themselves."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def textbook(descent: Descent) -> dict[str, torch.Tensor]:
    """A plain loop: one matrix by Muon, all else by `torch.optim.AdamW`."""
    muon = descent.optimizer
    assert isinstance(muon, Muon)
    model = Model()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrix = named["wide.weight"]
    rest = [p for name, p in named.items() if name != "wide.weight"]
    own = muon.adamw
    adamw = torch.optim.AdamW(rest, lr=own.lr, betas=own.betas, eps=own.eps, weight_decay=own.weight_decay)
    velocity = torch.zeros_like(matrix)
    for step in range(STEPS):
        examples = sum(examples_of(step, lane) for lane in range(LANES))
        for parameter in named.values():
            parameter.grad = None
        for lane in range(LANES):
            for name, gradient in gradients_of(model, step, lane).items() if examples_of(step, lane) else ():
                before = named[name].grad
                named[name].grad = gradient / examples + (0 if before is None else before)
        if descent.clip.norm is not None:
            torch.nn.utils.clip_grad_norm_(named.values(), descent.clip.norm)
        assert matrix.grad is not None
        velocity = muon.momentum * velocity + (1 - muon.momentum) * matrix.grad
        ahead = muon.momentum * velocity + (1 - muon.momentum) * matrix.grad if muon.nesterov else velocity
        rows, columns = matrix.shape
        size = max(1, rows / columns) ** 0.5 if muon.adjust == "original" else 0.2 * max(rows, columns) ** 0.5
        with torch.no_grad():
            matrix *= 1 - muon.lr * muon.weight_decay
            matrix -= muon.lr * size * plain_orthogonal(ahead, muon.ns_steps)
        adamw.step()
    return {name: p.detach() for name, p in named.items()}


@pytest.mark.parametrize("name", CASES)
def test_promise_4_muon_is_the_textbooks_after_200_steps(name: str) -> None:
    state, layout = trained(CASES[name])
    for parameter, expected in textbook(CASES[name]).items():
        place = next(place for place in layout.parameters if place.name == parameter)
        assert relative(place.view(state.parameters), expected) < 1e-9, parameter


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30)], ids=str)
def test_a_step_is_pytorchs_within_what_bfloat16_leaves(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    start, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient.clone()
    torch.optim.Muon([parameter], lr=0.1, weight_decay=0.1).step()
    old = {"parameters": start, "momentum": torch.zeros(shape)}
    new = {name: torch.empty(shape) for name in old}
    Muon(lr=0.1, weight_decay=0.1).move(0.1, gradient, old, new, 0)
    assert relative(new["parameters"] - start, parameter.detach() - start) < 0.02
    values = torch.linalg.svdvals(orthogonalize(gradient, 5))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3


def test_filters_are_matrices_of_a_row_an_output_also_channels_last() -> None:
    model = torch.nn.Conv2d(3, 8, 3)
    plain = layout_of(model)
    last = layout_of(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert last.parameters[0].channels_last and not plain.parameters[0].channels_last
    found = []
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(8, 3, 3, 3, generator=generator)
    for layout in (plain, last):
        (block,) = [each for each in take_share(cut_pieces(Descent(Muon()), layout), 0, 1) if each.whole]
        assert block.whole is not None
        old = {name: torch.zeros(block.place.stop) for name in ("parameters", "momentum")}
        new = {name: torch.zeros(block.place.stop) for name in old}
        flat = torch.zeros(block.place.stop)
        block.whole.view(flat).copy_(gradient)
        block.move(0.1, flat, old, new, 0)
        found.append(block.whole.view(new["parameters"]).clone())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0].flatten(1), -0.1 * orthogonalize(gradient.flatten(1), 5), rtol=1e-5, atol=1e-6)


def test_a_matrix_has_one_owner_and_is_never_cut_where_it_travels() -> None:
    layout = layout_of(torch.nn.Sequential(torch.nn.Linear(700, 300), torch.nn.Linear(300, 900), torch.nn.Linear(9, 9)))
    pieces = cut_pieces(Descent(Muon(others=("2.*",))), layout)
    for workers in (1, 2, 3, 8):
        shares = [take_share(pieces, worker, workers) for worker in range(workers)]
        assert [piece for share in shares for block in share for piece in block.pieces] == list(pieces)
        wholes = [block.whole.name for share in shares for block in share if block.whole is not None]
        assert wholes == ["0.weight", "1.weight"]
    for bucket in cut(pieces, 4, parts=8):
        for _, piece in bucket:
            mine = [other for other in pieces if piece.whole is not None and other.whole == piece.whole]
            assert {id(each) for each in mine} <= {id(other) for _, other in bucket}


def test_groups_set_what_the_one_has_that_moves_the_parameter() -> None:
    layout = layout_of(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)))
    groups = (Group("0.*", weight_decay=0.5, lr_factor=2.0), Group("1.bias", betas=(0.5, 0.6)))
    job = Job(Data("unused"), torch.nn.Identity, optimizer=MUON, groups=groups)
    rules = dict(zip((p.name for p in layout.parameters), match_rules(Descent.of(job), layout), strict=True))
    assert isinstance(rules["0.weight"].optimizer, Muon) and rules["0.weight"].optimizer.weight_decay == 0.5
    assert isinstance(rules["1.bias"].optimizer, AdamW) and rules["1.bias"].optimizer.betas == (0.5, 0.6)
    assert rules["0.bias"].optimizer == dataclasses.replace(ADAMW, weight_decay=0.5)
    assert rules["0.bias"].lr_factor == pytest.approx(2.0 * 0.01 / 0.02) and rules["0.weight"].lr_factor == 2.0
    with pytest.raises(ConfigError, match=r"groups, '1.bias': expected a setting of Muon: .*, found 'alpha'"):
        dataclasses.replace(job, groups=(Group("1.bias", alpha=0.5),))


def test_what_it_cannot_move_is_refused_in_a_line() -> None:
    flat = layout_of(torch.nn.LayerNorm(5))
    with pytest.raises(
        ConfigError, match=r"optimizer: expected a parameter that Muon itself moves, found weight \(5,\)"
    ):
        match_rules(Descent(Muon()), flat)
    halves = layout_of(torch.nn.Linear(2, 2).bfloat16())
    for optimizer in (Muon(), AdamW()):
        with pytest.raises(
            ConfigError, match=r"optimizer: expected parameters of at least 32 bits for .*bfloat16; use"
        ):
            match_rules(Descent(optimizer), halves)
    match_rules(Descent(SGD()), halves)
