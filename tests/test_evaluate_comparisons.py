"""Two models on the same items and over tasks: tests against statsmodels, letters, averages."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from biomedica.errors import EvaluationError
from biomedica.evaluate import comparisons, metrics, permutations, tables
from biomedica.evaluate.results import Result
from model_answers import classified, sample, table


def two_models(seed: int, num: int = 300, better: float = 0.5) -> tuple[pa.Table, pa.Table]:
    """The first one's scores are those of the second and a little more of the truth, each with noise."""
    source = np.random.default_rng(seed)
    base_NC, labels_N = sample(seed, num=num, classes=3)
    tables_of = [
        classified(
            base_NC + source.normal(size=base_NC.shape) + more * np.eye(3)[labels_N], labels_N
        )
        for more in (better, 0.0)
    ]
    return tables_of[0], tables_of[1]


@pytest.mark.parametrize(
    "metric", ["accuracy", "accuracy@2", "balanced_accuracy", "macro_f1", "auroc"]
)
def test_paired_difference(metric: str) -> None:
    """Of the metrics of two tables, whatever their order; the interval is narrower than unpaired ones."""
    a, b = two_models(0)
    shuffled = b.take(np.random.default_rng(0).permutation(300))
    found = comparisons.compare_items(a, shuffled, metric, resamples=500, permutations=500)
    assert found.difference == pytest.approx(found.value_a - found.value_b)
    assert found.num_items == found.num_groups == 300
    assert found.low is not None and found.high is not None
    assert found.low < found.difference < found.high
    assert found.low > 0 or found.p > 0.01
    back = comparisons.compare_items(b, a, metric, resamples=500, permutations=500)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p == pytest.approx(found.p, abs=0.03)
    value, replicates_R = tables.replicates(shuffled, metric, resamples=500)
    assert value == pytest.approx(found.value_b) and replicates_R.shape == (500,)
    assert found.high - found.low < 2 * 1.96 * 2**0.5 * replicates_R.std()
    same = comparisons.compare_items(a, a, metric, resamples=50, permutations=50)
    assert (same.difference, same.low, same.p) == (0, None, 1)


def test_tables_tell_what_metrics_do() -> None:
    """A metric of a table is the metric of its arrays."""
    scores_NC, labels_N = sample(3, classes=6)
    items = classified(scores_NC, labels_N)
    narrow = scores_NC.astype(np.float32)
    expected = {
        "accuracy": metrics.accuracy_at(narrow, labels_N, 1),
        "accuracy@5": metrics.accuracy_at(narrow, labels_N, 5),
        "balanced_accuracy": metrics.balanced_accuracy(narrow.argmax(axis=1), labels_N, 6),
        "macro_f1": metrics.macro_f1(narrow.argmax(axis=1), labels_N, 6),
        "auroc": metrics.auroc(narrow, labels_N),
    }
    for metric, value in expected.items():
        assert tables.replicates(items, metric, resamples=2)[0] == pytest.approx(value)
    labels_NC = np.random.default_rng(0).random((200, 6)) < 0.3
    lists = [np.flatnonzero(row).tolist() for row in labels_NC]
    many = table(labels=lists, scores=narrow.tolist())
    assert tables.replicates(many, "map", resamples=2)[0] == pytest.approx(
        metrics.average_precision(narrow, labels_NC)
    )
    assert tables.replicates(many, "auroc", resamples=2)[0] == pytest.approx(
        metrics.auroc_multilabel(narrow, labels_NC)
    )
    ranked = table(rank=[1, 2, 9], rank_back=[[1, 4], [1], [8, 9, 2]])
    assert tables.replicates(ranked, "image_to_text/5")[0] == pytest.approx(2 / 3)
    assert tables.replicates(ranked, "text_to_image/1")[0] == pytest.approx(2 / 6)
    with pytest.raises(EvaluationError, match="auroc needs 'label'"):
        tables.replicates(ranked, "auroc")
    with pytest.raises(EvaluationError, match="known are accuracy"):
        tables.replicates(ranked, "recall")


def test_only_the_same_items_are_compared() -> None:
    """Missing items, other groups, other labels and repeated items are refused, with how many."""
    a, b = two_models(0, num=20)
    with pytest.raises(EvaluationError, match="0 stand in the first table alone, 5 in the second"):
        comparisons.compare_items(a.slice(5), b, "accuracy")
    labels = b["label"].to_pylist()
    labels[7] = (labels[7] + 1) % 3
    other = b.set_column(b.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))
    with pytest.raises(EvaluationError, match=r"1 items have another label .* '000007'"):
        comparisons.compare_items(a, other, "accuracy")
    with pytest.raises(EvaluationError, match="stands twice"):
        comparisons.compare_items(a, pa.concat_tables([b, b.slice(3, 1)]), "accuracy")


def test_mcnemar_is_statsmodels() -> None:
    """Exact; the mid-p is half a step below it."""
    for only_a, only_b in ((0, 0), (0, 1), (3, 3), (2, 11), (40, 60)):
        theirs = their_mcnemar([[5, only_a], [only_b, 5]], exact=True).pvalue
        assert permutations.mcnemar(only_a, only_b) == pytest.approx(theirs)
        assert permutations.mcnemar(only_a, only_b, mid=True) <= theirs
    a, b = two_models(1)
    found = comparisons.compare_items(a, b, "accuracy", resamples=10)
    right_a, right_b = (np.array(each["is_right"]) for each in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert found.p == permutations.mcnemar(only_a, only_b, mid=True)
    random_p = permutations.share_as_far(found.null_P, found.seen)
    assert random_p == pytest.approx(permutations.mcnemar(only_a, only_b), abs=0.02)


def test_few_groups_are_permuted_in_all_ways() -> None:
    """Eight patients, one model better on each: 2 of 256 ways are as far; scipy's test says the same."""
    source = np.random.default_rng(0)
    groups = [f"p{i % 8}" for i in range(80)]
    labels_N = np.zeros(80, int)
    right_a, right_b = source.random(80) < 0.9, source.random(80) < 0.4
    a, b = (
        table(label=labels_N, predicted=1 - each.astype(int), is_right=each, group=groups)
        for each in (right_a, right_b)
    )
    found = comparisons.compare_items(a, b, "accuracy", resamples=10)
    differences_G = (right_a.astype(int) - right_b.astype(int)).reshape(10, 8).sum(axis=0)
    theirs = stats.permutation_test(
        (differences_G,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.test == "groups changed places in all 256 ways"
    many = comparisons.compare_items(a, b, "accuracy", resamples=10, permutations=200)
    assert many.test == "groups changed places in 200 random ways" and many.p >= 1 / 201
    one = a.set_column(a.schema.get_field_index("group"), "group", pa.array(["p"] * 80))
    alone = comparisons.compare_items(one, one, "accuracy")
    assert np.isnan(alone.p) and alone.low is None


def result(task: str, value: float, main: str = "accuracy") -> Result:
    """A result that has what a comparison reads."""
    return Result(
        model="m", task=task, protocol="zero_shot", split="test", kind="classification", main=main,
        specialty="", modality="", suites=[], title=task, num_items=1, num_groups=1,
        scores={main: metrics.Score(value=value)},
    )  # fmt: skip


def test_models_are_compared_over_tasks() -> None:
    """Task by task with Holm's p, and on average; tasks that one model lacks are named."""
    pairs = {f"t{i}": two_models(i, num=150, better=0.3) for i in range(5)}
    of = [{(name, "zero_shot"): result(name, 0) for name in pairs} for _ in range(2)]
    of[0][("alone", "zero_shot")] = result("alone", 0)
    tables_of = {
        id(each): pairs[cell[0]][i]
        for i in (0, 1)
        for cell, each in of[i].items()
        if cell[0] in pairs
    }
    found = comparisons.compare_models(*of, lambda each: tables_of[id(each)], resamples=400)
    raw = [each.p for each in found.tasks.values()]
    assert [each.adjusted for each in found.tasks.values()] == pytest.approx(
        multipletests(raw, method="holm")[1].tolist()
    )
    assert found.only_a == (("alone", "zero_shot"),) and found.only_b == ()
    assert found.mean is not None and found.mean.low is not None
    assert found.mean.value == pytest.approx(
        np.mean([each.difference for each in found.tasks.values()])
    )
    assert (found.p < 0.05) == (found.mean.low > 0)
    assert found.p < min(raw)
    of[1][("t0", "zero_shot")] = result("t0", 0, main="auroc")
    with pytest.raises(
        EvaluationError, match="t0 zero_shot: the first model is ranked by accuracy"
    ):
        comparisons.compare_models(*of, lambda each: tables_of[id(each)])
    assert comparisons.compare_models({}, {}, lambda each: pairs["t0"][0]).mean is None


def test_average_narrows_with_the_number_of_tasks() -> None:
    """By its square root, although one seed drew all of them; a task without resamples leaves no interval."""
    items = [classified(*sample(i, num=200)) for i in range(9)]
    values, replicates = zip(*(tables.replicates(each, "accuracy") for each in items), strict=True)
    one, nine = (
        comparisons.average(replicates[:1], values[:1]),
        comparisons.average(replicates, values),
    )
    assert nine.value == pytest.approx(np.mean(values))
    assert one.low is not None and one.high is not None
    assert nine.low is not None and nine.high is not None
    assert (one.high - one.low) / (nine.high - nine.low) == pytest.approx(3, rel=0.12)
    copies = comparisons.average([replicates[0]] * 9, [values[0]] * 9)
    assert copies.low is not None and copies.high is not None
    assert (one.high - one.low) / (copies.high - copies.low) == pytest.approx(3, rel=0.12)
    assert comparisons.average([replicates[0], np.empty(0)], [0.1, 0.3]).low is None
    with pytest.raises(EvaluationError):
        comparisons.average([], [])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    """NaN is no test."""
    theirs = multipletests(p_values, method="holm")[1]
    assert comparisons.holm(p_values) == pytest.approx(theirs)
    with_nan = comparisons.holm([np.nan, *p_values])
    assert np.isnan(with_nan[0]) and with_nan[1:] == pytest.approx(theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_models_share_a_letter_if_they_cant_be_told_apart(
    num: int, seed: int, share: float
) -> None:
    """And only then; no letter is idle, and the best model has the first."""
    source = np.random.default_rng(seed)
    differ = np.triu(source.random((num, num)) < share, 1)
    values = source.random(num).tolist()
    letters = comparisons.tie_groups(values, np.where(differ | differ.T, 0.01, 0.5))
    for i in range(num):
        assert letters[i]
        for j in range(i):
            assert bool(set(letters[i]) & set(letters[j])) != bool(differ[j, i])
    assert letters[int(np.argmax(values))].startswith("a")


def test_tie_groups_of_real_tables() -> None:
    """Three models on a task: the worst one is told apart from the other two, which share a letter."""
    good, _ = two_models(0, better=1.5)
    alike_table, poor = two_models(0, better=1.45)
    p_MM = comparisons.p_of_pairs([good, alike_table, poor], "accuracy")
    assert p_MM == pytest.approx(p_MM.T) and (np.diag(p_MM) == 1).all()
    assert comparisons.tie_groups([0.9, 0.89, 0.6], p_MM) == ["a", "a", "b"]


def test_spread_over_templates() -> None:
    """Least, most and standard deviation."""
    found = comparisons.spread([0.5, 0.7, 0.6])
    assert (found.low, found.high, found.sd) == (0.5, 0.7, pytest.approx(0.1))
    assert comparisons.spread([0.5]).sd is None
    with pytest.raises(EvaluationError):
        comparisons.spread([])
