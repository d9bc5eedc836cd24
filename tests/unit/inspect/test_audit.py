"""The audit: moments against enumeration, false alarms against α, and real data in good and bad orders."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from streamtrain.cli.command import main
from streamtrain.errors import ShardError
from streamtrain.inspect.audit import audit, order_warning, report
from streamtrain.inspect.audit.conclusion import ALPHA, judged
from streamtrain.inspect.audit.sample import Sample, key_places, ranked, stretches
from streamtrain.inspect.audit.statistics.drift import key_trend
from streamtrain.inspect.audit.statistics.evidence import Evidence, holm
from streamtrain.inspect.audit.statistics.label_runs import label_runs, moments, pairs_at
from streamtrain.inspect.audit.statistics.serial import moments as serial_moments
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import scan_foreign
from streamtrain.stream.fetch.shard_files import LocalFiles
from tests.support.datasets import digits, pack_digits
from tests.support.foreign import buffered, write_digits, write_tar

SORTED = np.argsort(digits()[1], kind="stable").tolist()


def test_the_runs_tests_moments_are_those_of_all_orders() -> None:
    labels, lengths = [0, 0, 0, 1, 1, 2, 2], (4, 3)
    found = []
    for order in itertools.permutations(labels):
        pairs = [*itertools.pairwise(order[:4]), *itertools.pairwise(order[4:])]
        found.append(sum(left == right for left, right in pairs))
    counts = np.array(list(Counter(labels).values()), float)
    mean, variance = moments(counts, 7, *pairs_at(lengths, 1))
    assert mean == pytest.approx(np.mean(found)) and variance == pytest.approx(np.var(found))


def test_the_runs_tests_mean_is_moods() -> None:
    """Mood 1940: E(number of runs) = (n(n+1) - Σ n_c²)/n, and runs + equal pairs = n."""
    counts = np.array([50.0, 30, 20, 7])
    n = int(counts.sum())
    mean, _ = moments(counts, n, *pairs_at((n,), 1))
    assert n - mean == pytest.approx((n * (n + 1) - (counts**2).sum()) / n)


@pytest.mark.parametrize("lag", [1, 2])
def test_the_serial_correlations_moments_are_those_of_all_orders(lag: int) -> None:
    z, lengths = ranked(np.array([3.0, 1, 4, 1, 5, 9, 2])), (4, 3)
    found = []
    for order in itertools.permutations(z):
        first, second = order[:4], order[4:]
        found.append(sum(a * b for part in (first, second) for a, b in zip(part, part[lag:], strict=False)))
    mean, variance = serial_moments(7, float((z**4).sum()), *pairs_at(lengths, lag))
    assert mean == pytest.approx(np.mean(found)) and variance == pytest.approx(np.var(found))


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def _name(test: Evidence) -> tuple[str, str, int]:
    return (
        test.statistic,
        test.subject,
        0 if test.statistic == "period" else test.scale,
    )  # the least likely period varies


@pytest.mark.parametrize(("lengths", "classes"), [((1000,), 10), ((250,) * 4, 300)])
def test_false_alarms_are_as_rare_as_stated(lengths: tuple[int, ...], classes: int) -> None:
    """100 uniformly random orders: each test's p-value is below 5 % in some 5 % of them, any at all below α in α."""
    generator = np.random.default_rng(classes + len(lengths))
    n, trials = sum(lengths), 100
    labels = generator.geometric(3 / classes, n)  # common and rare classes
    features = {"skewed": generator.lognormal(size=n), "few values": generator.integers(0, 3, n).astype(float)}
    low: Counter[tuple[str, str, int]] = Counter()
    alarms = []
    for _ in range(trials):
        order = generator.permutation(n)
        shuffled = {name: values[order] for name, values in features.items()}
        found = judged(Sample(lengths, labels[order], shuffled, np.arange(n) // 130, n), 128)
        low.update(_name(test) for test in found.tests if test.p_value < 0.05)
        low.update({_name(test): 0 for test in found.tests})
        alarms.append(not found.shuffled)
    assert len(low) >= 10
    for name, count in low.items():
        assert count / trials < 0.14, (name, count)  # pairs that are counted are few values: conservative
    assert np.mean(alarms) < 0.055


@pytest.mark.parametrize(("n", "rare"), [(40, 3), (1000, 5), (5000, 15)])
def test_a_rare_class_or_feature_is_no_alarm(n: int, rare: int) -> None:
    """Two neighbours of a class of 15 among 5,000 happen once in 22 uniformly random orders."""
    generator = np.random.default_rng(n)
    labels = (np.arange(n) < rare).astype(np.int64)
    alarms = 0
    for _ in range(60):
        order = generator.permutation(labels)
        features = {"label's number": order.astype(float), "noise": generator.normal(size=n)}
        alarms += not judged(Sample((n,), order, features, np.arange(n) * 4 // n, n), 128).shuffled
    assert alarms <= 4  # of 60 at 1 %: more than 4 happen once in 2,800 times


def test_rare_examples_that_lie_together_are_an_alarm() -> None:
    labels = np.zeros(5000, np.int64)
    labels[2000:2015] = 1
    found = judged(
        Sample((5000,), labels, {"label's number": labels.astype(float)}, np.arange(5000) // 1250, 5000), 128
    )
    assert not found.shuffled


@pytest.mark.parametrize("sources", [7, 40, 300])
def test_sources_that_were_written_in_turn_are_found_by_their_period(sources: int) -> None:
    """A round-robin over sources, each of its own mixture, of which no single distance shows much."""
    generator = np.random.default_rng(sources)
    n, means = 24_000, generator.normal(scale=0.45, size=sources)
    values = generator.normal(size=n) + np.tile(means, n // sources + 1)[:n]
    found = judged(Sample((n,), None, {"x": values}, np.arange(n) * sources // n, n), 128)
    assert not found.shuffled and found.tests[0].statistic == "period" and found.tests[0].scale % sources == 0


def kinds(folder: Path, orders: dict[str, list[int]]) -> dict[str, str]:
    found = {}
    for name, order in orders.items():
        write_digits(folder / name, order)
        found[name] = audit(LocalFiles(folder / name), scan_foreign(folder / name)).kind
    return found


def test_sorted_buffered_and_shuffled_copies_of_real_data_are_told_apart(tmp_path: Path) -> None:
    orders = {
        "sorted": SORTED,
        "buffer of 50": buffered(SORTED, 50, seed=1),
        "buffer of 1000": buffered(SORTED, 1000, seed=2),
        "uniform": np.random.default_rng(3).permutation(SORTED).tolist(),
    }
    assert kinds(tmp_path, orders) == {
        "sorted": "sorted",
        "buffer of 50": "drifting",
        "buffer of 1000": "drifting",
        "uniform": "uniform",
    }


def test_a_minibatch_is_worth_less_the_worse_the_order(tmp_path: Path) -> None:
    orders = [SORTED, buffered(SORTED, 500, seed=1), buffered(SORTED, 1000, seed=2)]
    worth = []
    for number, order in enumerate(orders):
        folder = write_digits(tmp_path / str(number), order)
        worth.append(audit(LocalFiles(folder), scan_foreign(folder), batch_size=64).worth)
    assert worth[0] < 1.2 < 1.4 < worth[1] < worth[2] < 32


def test_neighbours_that_belong_together_are_found_though_the_mixture_is_even(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = digits()[1]
    pairs = [[number, int(generator.choice(np.flatnonzero(labels == labels[number])))] for number in SORTED]
    order = [number for pair in generator.permutation(pairs).tolist() for number in pair]
    assert kinds(tmp_path, {"pairs": order}) == {"pairs": "dependent"}


def test_what_pack_stores_passes_whatever_its_kind(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "arrays")
    found = audit(LocalFiles(tmp_path / "arrays"), manifest)
    assert found.passed and found.kind == "uniform" and found.worth == 128
    assert "can be called independent" in report(found.summary())
    (tmp_path / "texts.py").write_text(
        "def rows():\n    for n in range(500):\n        yield {'text': 'x' * (n % 97)}\n"
    )
    pytest.MonkeyPatch().syspath_prepend(tmp_path)
    texts = pack("texts:rows", tmp_path / "texts", PackOptions(splits=(1, 0, 0)))
    found = audit(LocalFiles(tmp_path / "texts"), texts)
    assert found.shuffled and {(t.statistic, t.subject) for t in found.tests} >= {("drift over parts", "text's bytes")}


def test_keys_that_remember_another_order_betray_a_buffer(tmp_path: Path) -> None:
    """There is no label, and all values are noise."""
    for name, size in (("buffered", 200), ("whole", 2000)):
        places = buffered(range(2000), size, seed=4)
        write_tar(tmp_path / name / "train" / "0.tar", [(f"img{n}.txt", b"same") for n in places])
    found = {name: audit(LocalFiles(tmp_path / name), scan_foreign(tmp_path / name)) for name in ("buffered", "whole")}
    assert not found["buffered"].shuffled and found["buffered"].tests[0].subject == "keys"
    assert found["whole"].shuffled and found["whole"].tests


def test_keys_that_only_count_say_nothing() -> None:
    shards = np.repeat([0, 1], 50)
    assert key_trend(key_places([f"b{n}" for n in range(50)] + [f"a{n}" for n in range(50)]), shards) is None


def test_keys_that_name_their_shard_raise_no_alarm() -> None:
    generator = np.random.default_rng(8)
    alarms = 0
    for _ in range(300):
        keys = [f"{shard}-{number}" for shard in range(20) for number in generator.permutation(1000)[:50]]
        trend = key_trend(key_places(keys), np.repeat(np.arange(20), 50))
        assert trend is not None
        alarms += trend.p_value < 0.05
    assert 5 <= alarms <= 27


def test_leakage_and_repetition_are_counted_and_fail(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(SORTED).tolist()
    write_digits(tmp_path, [*order[:1500], order[7], order[8]])
    write_digits(tmp_path, [*order[1500:], order[5], order[6], order[5]], split="validation")
    found = audit(LocalFiles(tmp_path), scan_foreign(tmp_path))
    assert found.shuffled and not found.passed and found.duplicates is not None
    assert found.duplicates.within_train == 2 and found.duplicates.leaked == {"validation": 3}
    assert found.duplicates.shown[0] == ("validation", 297, 5)
    assert "3 of 300 (1.00%) validation examples are in train too: its risk is too low" in report(found.summary())


def test_large_splits_are_looked_at_in_stretches_from_end_to_end() -> None:
    assert stretches(100, 100) == [(0, 100)]
    ranges = stretches(10**9, 50_000)
    assert len(ranges) == 64 and ranges[0][0] == 0 and ranges[-1][1] == 10**9
    assert all(later[0] > earlier[1] for earlier, later in itertools.pairwise(ranges))
    assert 49_000 < sum(stop - start for start, stop in ranges) <= 50_000


def test_a_sample_of_a_sorted_set_suffices_and_says_so(tmp_path: Path) -> None:
    write_digits(tmp_path, SORTED)
    found = audit(LocalFiles(tmp_path), scan_foreign(tmp_path), most_examples=400)
    assert found.kind == "sorted" and "looked at 400 in 4 stretches of 1,797 training examples" in report(
        found.summary()
    )


def test_labels_of_one_class_and_of_no_class_twice_say_nothing() -> None:
    assert label_runs(np.zeros(100, np.int64), (100,)) is None
    assert label_runs(np.arange(100), (100,)) is None


def test_an_unreadable_example_is_named(tmp_path: Path) -> None:
    members = [(f"{n}.npy", b"no array" if n == 3 else np.lib.format.magic(1, 0)) for n in range(2)]
    write_digits(tmp_path, SORTED[:10])
    write_tar(tmp_path / "train" / "9.tar", [("z.cls", b"1"), ("z.npy", members[0][1])])
    with pytest.raises(ShardError, match=r"9\.tar, example 10 of train, field 'npy': expected a readable \.npy"):
        audit(LocalFiles(tmp_path), scan_foreign(tmp_path))


def test_the_command_says_it_in_words_json_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path / "bad", SORTED)
    with pytest.raises(SystemExit, match="3"):
        main(["inspect", str(tmp_path / "bad"), "--audit", "--json"])
    found = json.loads(capsys.readouterr().out)["audit"]
    assert not found["passed"] and found["order"] == "sorted"
    assert found["tests"][0]["p_value_adjusted"] < ALPHA and found["minibatch"]["worth"] < 2
    pack_digits(tmp_path / "good")
    main(["inspect", str(tmp_path / "good"), "--audit"])
    assert "audit: minibatches drawn in this order can be called independent" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", str(tmp_path / "good"), "--audit", "--audit-examples", "0"])
    assert "--audit-examples: expected at least 1, found 0; raise it" in capsys.readouterr().err


def test_train_warns_of_foreign_shards_in_no_random_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path / "bad", SORTED)
    write_digits(tmp_path / "good", np.random.default_rng(3).permutation(SORTED).tolist())
    warning = order_warning(tmp_path / "bad", scan_foreign(tmp_path / "bad"))
    assert warning is not None and "\n" not in warning and "are not in random order" in warning
    assert order_warning(tmp_path / "good", scan_foreign(tmp_path / "good")) is None
    assert order_warning(tmp_path / "ours", pack_digits(tmp_path / "ours")) is None

    import torch

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def no_ray(say: object) -> None:
        raise KeyboardInterrupt

    write_digits(tmp_path / "bad", SORTED[::9], split="validation")
    monkeypatch.setattr("streamtrain.run.fleet.cluster.starting.start_ray", no_ray)
    data = st.Data(
        str(tmp_path / "bad"), inputs=("npy",), target="cls", transform=lambda b: {**b, "npy": b["npy"].float()}
    )
    with pytest.raises(KeyboardInterrupt):
        st.train(st.Job(data, model, tracking=st.Tracking(enabled=False)))
    assert warning in capsys.readouterr().err
