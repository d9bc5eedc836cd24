"""Promise 13 with several sequences in a row: a step against one process that has the whole minibatch, not in rows."""

import itertools
import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import streamtrain as st
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.model.gradient import Gradient, Part
from streamtrain.model.objective.entries import row_borders
from streamtrain.stream.examples.collating import Example, collator_of
from streamtrain.values import Arrays, Update
from tests.support.tokens import IN_ROWS, LONGEST, NO_TOKEN, Language, entry_loss, language_job, sequences, token_losses

RATE = 0.3
LENGTHS = some.lists(some.integers(0, LONGEST), min_size=1, max_size=17).filter(any)
ROOM = some.integers(LONGEST, 30)


def in_rows(arrays: Arrays, pack: st.Pack) -> Arrays:
    """Some examples of `sequences`, as a streamer gives them; none of none."""
    collator = collator_of(pack)
    assert collator is not None
    lengths = (arrays["next"] != NO_TOKEN).sum(1)
    examples = [{name: each[n, :length] for name, each in arrays.items()} for n, length in enumerate(lengths)]
    return collator.batch([collator.prepare(Example("", each)) for each in examples]) if examples else {}


def one_step(
    arrays: Arrays, lanes: int, micro_batch: int | None, room: int = 20, **others: Any
) -> tuple[torch.Tensor, Update]:
    """The parameters after a step of one worker, and the update."""
    pack = st.Pack(("tokens", "next"), room)
    made = language_job(
        "unused",
        {**IN_ROWS, "collate": pack, **others.pop("data", {})},
        optimizer=st.SGD(lr=RATE),
        batch_size=lanes,
        lanes=lanes,
        micro_batch=micro_batch,
        **{"loss": entry_loss, "error": "zero_one", **others},
    )
    gradient = Gradient(made)
    layout, descent = gradient.layout, Descent.of(made)
    aggregator = Aggregator(
        layout, descent, rate_of=LearningRate(descent.schedule, lanes, 2), worker=0, workers=1, norms_every=1
    )
    private = private_memory(layout, descent, Capacity(lanes))
    exchange = SharedExchange(private, aggregator, [range(lanes)], 0, {0: os.getpid()})
    gradient.write(exchange.state, gradient.model.state_dict())
    gradient.load(exchange.state)
    cuts = np.linspace(0, len(arrays["next"]), lanes + 1).astype(int)
    parts = [in_rows({name: each[a:b] for name, each in arrays.items()}, pack) for a, b in itertools.pairwise(cuts)]
    gradient.lanes([Part(lane, part, lane) for lane, part in enumerate(parts)], exchange.slot)
    update = exchange.meet()
    return torch.cat([place.view(exchange.state.parameters).flatten() for place in layout.parameters]), update


def textbook(arrays: Arrays) -> tuple[torch.Tensor, float]:
    """The same by a plain loop that has the whole minibatch, padded, and its mean loss."""
    torch.manual_seed(0)
    model = Language().double()
    target = torch.from_numpy(arrays["next"])
    loss = token_losses(model(torch.from_numpy(arrays["tokens"])), target).sum() / (target >= 0).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=RATE).step()
    return torch.cat([each.detach().flatten() for each in model.parameters()]), float(loss.detach())


@given(LENGTHS, ROOM, some.integers(1, 8), some.none() | some.integers(1, 4))
@settings(max_examples=40)
def test_a_step_is_the_textbooks_for_any_rows_lanes_and_pieces(
    lengths: list[int], room: int, lanes: int, micro_batch: int | None
) -> None:
    arrays = sequences(lengths)
    found, update = one_step(arrays, lanes, micro_batch, room)
    expected, loss = textbook(arrays)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert update.loss.mean == pytest.approx(loss, rel=1e-9)
    assert (update.loss.count, update.loss.weight) == (len(lengths), sum(lengths)), "of examples, by their tokens"


def weighted(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
    """Every other token counts twice."""
    weights = 1.0 + target % 2
    return st.Weighted(weights * entry_loss(output, target), weights)


def objective(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same, of rows."""
    output = model(*(batch[name] for name in IN_ROWS["inputs"]))
    weights = 1.0 + batch["next"] % 2
    losses = torch.nn.functional.cross_entropy(output.transpose(1, 2), batch["next"], reduction="none")
    return {"loss": st.Weighted(weights * losses, weights)}


def test_weights_of_entries_are_an_examples_and_an_objective_may_give_rows() -> None:
    arrays = sequences([3, 0, 9, 1, 1, 7, 2])
    found, update = one_step(arrays, 3, 2, loss=weighted)
    own = {
        "loss": "cross_entropy",
        "error": None,
        "objective": objective,
        "data": {"target": "label", "inputs": ("image",)},
    }
    again, its = one_step(arrays, 3, 2, **own)
    torch.testing.assert_close(found, again, rtol=1e-12, atol=1e-12)
    assert its.loss.mean == pytest.approx(update.loss.mean, rel=1e-12) and its.loss.weight == update.loss.weight
    torch.manual_seed(0)
    model = Language().double()
    target = torch.from_numpy(arrays["next"])
    weights = (1.0 + target % 2) * (target >= 0)
    loss = (weights * token_losses(model(torch.from_numpy(arrays["tokens"])), target)).sum() / weights.sum()
    assert update.loss.mean == pytest.approx(float(loss.detach()), rel=1e-9) and update.loss.weight == float(
        weights.sum()
    )


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda output, target: entry_loss(output, target).mean(),
            r"loss: expected one value an entry, shape \(13,\), f",
        ),
        (lambda output, target: entry_loss(output, target)[:5], r"found shape \(5,\); average over nothing: reduction"),
        (lambda output, target: 3.0, r"loss: expected one value an entry, shape \(13,\), found float; average over"),
    ],
)
def test_a_loss_of_another_shape_is_refused(loss: Any, said: str) -> None:
    with pytest.raises(st.JobError, match=said):
        one_step(sequences([4, 9]), 1, None, loss=loss)


def summed(output: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each example, out of the entries of the output."""
    ends = target["tokens_length"].cumsum(0)
    return torch.stack(
        [output[end - length : end].sum() for end, length in zip(ends, target["tokens_length"], strict=True)]
    )


def test_without_a_target_in_rows_values_are_of_examples() -> None:
    data = {"target": ("tokens_length", "label")}
    arrays = {**sequences([4, 9, 2])}
    with pytest.raises(KeyError, match="label"):
        one_step(arrays, 1, None, loss=summed, error=None, data=data)
    found, update = one_step(arrays, 1, None, loss=summed, error=None, data={"target": ("tokens_length",)})
    assert update.loss.count == update.loss.weight == 3
    assert torch.isfinite(found).all()
    short = {"loss": lambda output, target: summed(output, target)[:2], "error": None}
    with pytest.raises(st.JobError, match=r"loss: expected one value an example, shape \(3,\), found shape \(2,\)"):
        one_step(arrays, 1, None, data={"target": ("tokens_length",)}, **short)


def test_a_place_in_a_row_changes_no_bit_of_what_is_added_up() -> None:
    """Of the same losses, wherever the example lies."""
    from streamtrain.model.objective import Entries

    pack = st.Pack(("tokens", "next"), 20)
    losses = torch.rand(9, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    found = []
    for before in (0, 3, 7):
        lengths = [*[1] * before, 9]
        batch = {name: torch.from_numpy(each) for name, each in in_rows(sequences(lengths), pack).items()}
        given = torch.cat([torch.ones(before), losses])
        value = Entries(pack, batch).of_examples("loss", given, of_rows=True)
        assert isinstance(value, st.Weighted)
        found.append(value.sums[-1].item())
    assert found[0] == found[1] == found[2]


def test_half_precision_adds_up_in_float32() -> None:
    from streamtrain.model.objective import Entries

    pack = st.Pack(("tokens", "next"), 1000)
    tokens = {name: np.zeros(1000, np.int64) for name in ("tokens", "next")}
    collator = collator_of(pack)
    assert collator is not None
    batch = {name: torch.from_numpy(each) for name, each in collator.batch([Example("", tokens)]).items()}
    value = Entries(pack, batch).of_examples(
        "loss", torch.full((1000,), 1.0, dtype=torch.bfloat16) + 0.0078125, of_rows=True
    )
    assert isinstance(value, st.Weighted) and value.sums.tolist() == [1007.8125]


def test_pieces_are_whole_rows() -> None:
    assert list(row_borders([0, 0, 1, 1, 1, 2, 3, 3], 3)) == [(0, 2), (2, 5), (5, 8)]
    assert list(row_borders([0, 0, 1, 1, 1, 2, 3, 3], 1)) == [(0, 2), (2, 5), (5, 6), (6, 8)]
    assert list(row_borders([0, 0, 1, 1, 1, 2, 3, 3], 5)) == [(0, 5), (5, 8)]
    assert list(row_borders([0, 0, 0], 2)) == [(0, 3)]


def test_a_loss_over_the_whole_minibatch_is_refused() -> None:
    said = "loss_over: expected examples beside st.Pack, found 'minibatch'; pad with st.Pad"
    with pytest.raises(st.ConfigError, match=said):
        language_job("unused", IN_ROWS, loss_over="minibatch")
