"""Metrics of whole sets: each example once, in order, the same of any slices; what fails costs its own number alone."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn.metrics import confusion_matrix, r2_score, roc_auc_score

import streamtrain as st
from streamtrain.errors import ConfigError, JobError
from streamtrain.model.objective import ByClass, Computed, WholeSet, check_whole
from streamtrain.model.objective.by_class import MOST_PAIRS, ClassCounts
from streamtrain.model.objective.whole_set import TorchMetric
from streamtrain.track.figures import class_figure
from streamtrain.values import Moments, Risk, SliceRisk
from tests.support.whole_sets import Auroc, Keys, Named, Raises

OUTPUT = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(1))


def computed(metric: Any, cuts: list[int], output: Any = OUTPUT, target: Any = TARGET) -> Computed:
    whole = WholeSet({"it": metric})
    slices: list[Risk] = []
    for start, stop in zip([0, *cuts], [*cuts, len(target)], strict=True):
        states = whole.begin()
        whole.update(states, output[start:stop], target[start:stop])
        slices += [SliceRisk(Moments(), Moments(), states=states), Risk(Moments(), Moments())]  # an empty slice between
    return whole.compute(slices)


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 150, 299], [*range(10, 300, 10)]])
def test_any_slices_give_the_numbers_of_the_whole_set(cuts: list[int]) -> None:
    expected = roc_auc_score(TARGET == 0, OUTPUT.softmax(1)[:, 0].double())
    assert computed(Auroc(), cuts).numbers["it"] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(computed(Keys(), cuts).tables["it"], OUTPUT[:, 0])  # once, and in order
    named = computed(Named(), cuts).numbers
    assert named == {"it.area": computed(Auroc(), cuts).numbers["it"], "it.examples": 300.0}


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 150, 299]])
def test_metrics_of_torchmetrics_are_taken_as_they_are(cuts: list[int]) -> None:
    kinds = {
        "auroc": torchmetrics.AUROC(task="multiclass", num_classes=3),
        "f1": torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro"),
        "matrix": torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3),
    }
    for name, metric in kinds.items():
        found = computed(metric, cuts)
        expected = metric(OUTPUT.double(), TARGET).numpy()
        value = found.tables.get("it", found.numbers.get("it"))
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
    output, target = OUTPUT[:, 0] + 1e4, OUTPUT[:, 1] + 1e4
    found = computed(torchmetrics.R2Score(), cuts, output, target)
    assert found.numbers["it"] == pytest.approx(r2_score(target.double(), output.double()), rel=1e-6)
    found = computed(torchmetrics.PearsonCorrCoef(), cuts, output, target)
    assert found.numbers["it"] == pytest.approx(np.corrcoef(output.double(), target.double())[0, 1], rel=1e-6)


def test_what_is_given_is_never_changed() -> None:
    metric = Auroc()
    computed(metric, [5])
    assert metric.scores == []


def test_an_empty_set_is_no_number_and_asks_nothing_of_the_metric() -> None:
    assert math.isnan(WholeSet({"it": Raises()}).compute([Risk(Moments(), Moments())]).numbers["it"])
    r2 = WholeSet({"it": torchmetrics.R2Score()}).compute([])
    assert math.isnan(r2.numbers["it"]) and not r2.failures


def test_a_metric_that_raises_costs_its_own_number_and_a_line() -> None:
    found = computed(Raises(), [5])
    assert math.isnan(found.numbers["it"])
    (line,) = found.failures.values()
    assert line.startswith("metrics, 'it' failed: ValueError: too many (") and "\n" not in line
    risk = found.beside(Risk(Moments(3, 1.0, 1.0), Moments(3, 1.0, 1.0)))
    assert math.isnan(risk.metrics["it"].mean) and risk.loss.mean == 1.0


class Halves(Auroc):
    def merge(self, other: Auroc) -> None:
        self.scores = other.scores


class Words(Auroc):
    def compute(self) -> Any:
        return "good"


class Cube(Auroc):
    def compute(self) -> Any:
        return np.zeros((2, 2, 2))


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (Halves(), "metrics, 'it': expected the same of some examples at once as of parts of them"),
        (
            Words(),
            "metrics, 'it': expected a number, numbers by name, or an array of numbers of at most 2 axes, found str",
        ),
        (Cube(), "of at most 2 axes, found float64 of shape (2, 2, 2)"),
        (torchmetrics.R2Score(), "metrics, 'it' failed: "),  # another form of output than it takes
    ],
)
def test_the_trial_refuses_what_would_fail_later(metric: Any, says: str) -> None:
    pieces = [(OUTPUT[a:b], TARGET[a:b]) for a, b in ((0, 1), (1, 3), (3, 4))]
    with pytest.raises(JobError) as refused:
        check_whole(WholeSet({"it": metric}), OUTPUT[:4], TARGET[:4], pieces)
    assert says in str(refused.value) and "\n" not in str(refused.value)


class MeanOfMeans:
    def __init__(self) -> None:
        self.mean = 0.0

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.mean = float(output.mean())

    def merge(self, other: "MeanOfMeans") -> None:
        self.mean = (self.mean + other.mean) / 2

    def compute(self) -> float:
        return self.mean


def test_a_metric_whose_parts_give_another_value_is_refused() -> None:
    pieces = [(OUTPUT[a:b], TARGET[a:b]) for a, b in ((0, 1), (1, 3), (3, 4))]
    with pytest.raises(JobError, match="the same of some examples at once as of parts of them that are merged"):
        check_whole(WholeSet({"it": MeanOfMeans()}), OUTPUT[:4], TARGET[:4], pieces)


@pytest.mark.parametrize("metric", [Auroc, torchmetrics.MetricCollection([torchmetrics.R2Score()])])
def test_a_class_and_a_collection_are_refused_where_they_are_declared(metric: Any) -> None:
    with pytest.raises(ConfigError, match="metrics, 'it': expected an object with update, merge and compute"):
        st.Job(st.Data("nowhere"), lambda: torch.nn.Linear(1, 1), metrics={"it": metric})


def test_means_of_a_whole_set_are_refused() -> None:
    metrics: Any = {"auroc": Auroc(), "twice": st.OfMeans(lambda mean: 2 * mean, "auroc")}
    with pytest.raises(ConfigError, match="names of metrics that are means"):
        st.Job(st.Data("nowhere"), lambda: torch.nn.Linear(1, 1), metrics=metrics)


def test_what_has_the_three_methods_is_a_metric() -> None:
    assert isinstance(Auroc(), st.Metric) and not isinstance(torch.nn.Linear(1, 1), st.Metric)


def by_class(cuts: list[int], names: tuple[str, ...] = ()) -> ByClass:
    return ByClass(computed(ClassCounts(), cuts).tables["it"].astype(np.int64), names)


@pytest.mark.parametrize("cuts", [[], [1, 2], [*range(10, 300, 10)]])
def test_classes_are_counted_as_scikit_learn_does(cuts: list[int]) -> None:
    found = by_class(cuts, ("a", "b"))
    expected = confusion_matrix(TARGET, OUTPUT.argmax(1))
    np.testing.assert_array_equal(found.matrix([0, 1, 2]), expected)
    np.testing.assert_array_equal(found.matrix([2, 0]), expected[[2, 0]][:, [2, 0]])
    errors = 1 - expected.diagonal() / expected.sum(1)
    assert [found.errors[number].mean for number in range(3)] == pytest.approx(errors.tolist())
    head, *rows = found.table()
    worst = int(errors.argmax())
    assert rows[0][:3] == [str(worst), found.name(worst), str(expected[worst].sum())]
    others = expected[worst].copy()
    others[worst] = 0
    assert rows[0][head.index("most_often_taken_for")] == found.name(int(others.argmax()))
    assert [found.name(number) for number in range(3)] == ["a", "b", "2"], "a class without a name is its number"
    _, *pairs = found.pairs_table()
    assert sum(int(row[-1]) for row in pairs) == 300


def test_of_many_classes_the_worst_are_shown_and_the_tables_end() -> None:
    numbers = np.arange(20_000)
    pairs = np.stack([numbers, np.where(numbers % 400, numbers, numbers + 1), numbers * 0 + 3], 1)
    found = ByClass(pairs)
    assert found.shown == [*range(0, 30 * 400, 400)]
    assert len([*found.pairs_table()]) == MOST_PAIRS + 1
    figure = class_figure(
        found.matrix(found.shown), ["a long name of a class " * 3] * 30, [*found.errors.values()][:30], "many"
    )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.tell() < 500_000


def test_torchmetrics_made_of_others_are_refused_since_they_keep_nothing_themselves() -> None:
    f1 = torchmetrics.F1Score(task="multiclass", num_classes=3)
    with pytest.raises(JobError, match="metrics: expected one with states of its own, found CompositionalMetric"):
        TorchMetric(1 - f1)
