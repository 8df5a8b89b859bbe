"""Agreement: the coefficients against other programs and worked examples, and the report on votes."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from biomedica.agreement import (
    agreement_report,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    masi_distance,
    percent_agreement,
)
from biomedica.agreement.measures import Codes, estimate, fleiss_measure, masi_distances
from biomedica.records import Answer
from biomedica.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
NOTHING = Answer()


@dataclass(frozen=True)
class Said:
    """A vote, as far as agreement needs it."""

    expert: int
    cluster: int
    answer: Answer = NOTHING
    verdict: str = "answered"


def concepts(*names: str) -> Answer:
    """An answer of global concepts, and of local concepts with what they imply."""
    below = tuple(name for name in names if TAXONOMY.concepts[name].parent)
    top = tuple(name for name in names if not TAXONOMY.concepts[name].parent)
    return Answer(global_concepts=top, local_concepts=below)


# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve
# units, values 1 to 5, dots for what is missing.
KRIPPENDORFF = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def matrix(rows: list[str]) -> Codes:
    """Codes of items by raters, from a line of digits for each rater."""
    return np.array([[-1 if each == "." else int(each) for each in row] for row in rows]).T


def test_alpha_of_krippendorffs_nominal_example() -> None:
    """0.743, as the paper has it.

    Unit 12 has one value, so 40 remain: 1 nine times, 2 thirteen, 3 ten, 4 five, 5 three.
    Units 1, 3, 4, 5, 7, 9, 10 and 11 agree. Unit 2 is 2 2 3 2 (6 of 12 ordered pairs differ), unit 6 is
    1 2 3 4 (12 of 12), unit 8 is 1 1 2 1 (6 of 12): observed (6 + 12 + 6) / 3 = 8 of 40. Expected:
    (40^2 - 81 - 169 - 100 - 25 - 9) / 39 = 1216 / 39. Alpha = 1 - 8 * 39 / 1216 = 0.7434.
    """
    assert krippendorff_alpha(matrix(KRIPPENDORFF)) == pytest.approx(1 - 8 * 39 / 1216)
    assert krippendorff_alpha(matrix(KRIPPENDORFF)) == pytest.approx(0.743, abs=5e-4)


def test_fleiss_of_the_psychiatric_diagnoses() -> None:
    """0.430, as Fleiss 1971 has it: 30 patients, 6 raters, 5 diagnoses."""
    table = """00060 / 03003 / 01401 / 00006 / 03030 / 20400 / 00402 / 20310 / 20040 / 00006
        10050 / 11040 / 03300 / 10050 / 02031 / 00501 / 30012 / 51000 / 02040 / 10203
        00006 / 01050 / 02013 / 20040 / 10041 / 05010 / 40002 / 02040 / 10500 / 00006"""
    counts = [[int(x) for x in row.replace(" ", "")] for row in table.replace("\n", "/").split("/")]
    codes = np.array([np.repeat(np.arange(5), row) for row in counts])
    assert codes.shape == (30, 6)
    assert fleiss_kappa(codes) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa(codes) == pytest.approx(statsmodels_fleiss(np.array(counts)))


@pytest.mark.parametrize(
    ("a", "b", "similarity"),
    [
        ("a", "ab", 1 / 2 * 2 / 3),
        ("ab", "ab", 1),
        ("ab", "bc", 1 / 3 * 1 / 3),
        ("ab", "cd", 0),
        (
            "ab",
            "abcd",
            1 / 2 * 2 / 3,
        ),  # NLTK's documented example: distance 0.665, with 0.67 for 2/3
        ("abcd", "cde", 2 / 5 * 1 / 3),
        ("", "", 1),
        ("", "a", 0),
    ],
)
def test_masi(a: str, b: str, similarity: float) -> None:
    """Passonneau's four cases, and empty sets."""
    assert masi_distance(a, b) == pytest.approx(1 - similarity)
    if a != b:
        assert masi_distances([a, b])[0, 1] == pytest.approx(1 - similarity)


@given(st.lists(st.frozensets(st.sampled_from("abcde")), min_size=1, max_size=12, unique=True))
def test_masi_matrix_is_masi_of_each_pair(sets: list[frozenset[str]]) -> None:
    """The matrix and the function say the same."""
    expected = [[masi_distance(a, b) for b in sets] for a in sets]
    np.testing.assert_allclose(masi_distances(sets), expected, atol=1e-7)


def test_alpha_with_masi_by_hand() -> None:
    """Two coders, three items: {a} {a}, {a} {a, b}, {b} {b}.

    Observed: one item differs, by 2/3, twice (both orders): 4/3 of 6. Expected: {a} stands 3 times, {a, b}
    once, {b} twice. {a}-{ab} 2 * 3 * 2/3 = 4, {a}-{b} 2 * 6 * 1 = 12, {ab}-{b} 2 * 2 * 2/3 = 8/3: 56/3
    of 6 * 5. Alpha = 1 - (4/3 / 6) / (56/3 / 30) = 1 - 5 * 4 / 56 = 9/14.
    """
    codes = np.array([[0, 0], [0, 1], [2, 2]])
    distances = masi_distances([{"a"}, {"a", "b"}, {"b"}])
    assert krippendorff_alpha(codes, distances) == pytest.approx(9 / 14)


def random_codes(seed: int, shape: tuple[int, int], missing: float) -> Codes:
    """Ratings of four values that tend to agree."""
    source = np.random.default_rng(seed)
    truth = source.integers(0, 4, shape[0])[:, None]
    codes = np.where(source.random(shape) < 0.6, truth, source.integers(0, 4, shape))
    return np.where(source.random(shape) < missing, -1, codes)


@pytest.mark.parametrize("seed", range(5))
def test_same_as_other_programs(seed: int) -> None:
    """Fleiss as statsmodels, Cohen as scikit-learn."""
    codes = random_codes(seed, (60, 4), 0)
    assert fleiss_kappa(codes) == pytest.approx(statsmodels_fleiss(aggregate_raters(codes)[0]))
    assert cohen_kappa(codes[:, 0], codes[:, 1]) == pytest.approx(
        cohen_kappa_score(codes[:, 0], codes[:, 1])
    )
    weights = np.abs(np.subtract.outer(np.arange(4), np.arange(4))).astype(float)
    assert cohen_kappa(codes[:, 0], codes[:, 1], weights / 3) == pytest.approx(
        cohen_kappa_score(codes[:, 0], codes[:, 1], weights="linear")
    )


def test_unequal_numbers_of_raters() -> None:
    """Every item counts the same: 2 of 2 agree, 1 of 3 pairs agree; single ratings count nowhere."""
    codes = np.array([[0, 0, -1], [1, 1, 0], [2, -1, -1]])
    # observed (1 + 1/3) / 2; chances: 0 (1 + 1/3) / 2, 1 (0 + 2/3) / 2
    expected = (2 / 3) ** 2 + (1 / 3) ** 2
    assert percent_agreement(codes) == pytest.approx(2 / 3)
    assert fleiss_kappa(codes) == pytest.approx((2 / 3 - expected) / (1 - expected))


@pytest.mark.parametrize(
    ("codes", "percent"),
    [
        ([[0], [1]], None),  # one rater
        ([[0, -1], [-1, 1]], None),  # no overlap
        ([[-1, -1]], None),  # nothing
        ([[0, 0], [0, 0]], 1.0),  # all the same answer: chance alone would agree
    ],
)
def test_not_defined(codes: list[list[int]], percent: float | None) -> None:
    """Kappas and alpha are None, never NaN, a division warning or 1."""
    found = np.array(codes)
    assert percent_agreement(found) == percent
    assert fleiss_kappa(found) is None
    assert krippendorff_alpha(found) is None
    if found.shape[1] == 2:
        assert cohen_kappa(found[:, 0], found[:, 1]) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.9), st.integers(1, 5))
def test_measures_do_not_depend_on_order(seed: int, missing: float, raters: int) -> None:
    """Items and raters in another order, and other names of the codes, give the same figures."""
    codes = random_codes(seed, (15, raters), missing)
    source = np.random.default_rng(seed)
    other = codes[source.permutation(15)][:, source.permutation(raters)]
    other = np.where(other >= 0, source.permutation(4)[other], -1)
    for measure in (percent_agreement, fleiss_kappa, krippendorff_alpha):
        value = measure(codes)
        assert measure(other) == (value if value is None else pytest.approx(value))
        assert value is None or -1 <= value <= 1 + 1e-12


def test_interval() -> None:
    """Seeded; holds the value; narrows with the number of items; tiny inputs have none."""
    small, large = random_codes(1, (30, 3), 0.2), random_codes(1, (3000, 3), 0.2)
    first, second = (estimate(small, fleiss_measure, seed=3) for _ in range(2))
    assert first == second != estimate(small, fleiss_measure, seed=4)
    wide, narrow = first, estimate(large, fleiss_measure, seed=3)
    for each in (wide, narrow):
        assert each.low is not None and each.high is not None and each.value is not None
        assert each.low < each.value < each.high
    assert (narrow.high or 0) - (narrow.low or 0) < ((wide.high or 0) - (wide.low or 0)) / 4
    assert estimate(np.array([[0, 1]]), fleiss_measure, seed=0).low is None


def test_interval_covers() -> None:
    """Of 200 samples of a population, about 95 % of the intervals hold its kappa."""
    truth = fleiss_kappa(random_codes(0, (100_000, 3), 0))
    assert truth is not None
    hits = 0
    for seed in range(1, 201):
        found = estimate(random_codes(seed, (150, 3), 0), fleiss_measure, seed, num_resamples=400)
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 200 <= 0.985


def test_report() -> None:
    """Three experts, three clusters: figures by hand."""
    plots, blots = concepts("plots-and-charts"), concepts("assays")
    both = concepts("assays", "plots-and-charts")
    votes = [
        *(Said(expert, 10, plots) for expert in (1, 2, 3)),
        *(Said(expert, 11, blots) for expert in (1, 2)),
        Said(3, 11, both),
        Said(1, 12, plots),
        Said(2, 12, verdict="ambiguous"),
    ]
    report = agreement_report(votes, TAXONOMY, seed=0)
    assert (report.num_votes, report.num_experts, report.num_clusters) == (8, 3, 3)
    by_name = {each.question: each for each in report.questions}
    assert by_name["verdict"].num_clusters == 3
    assert by_name["verdict"].percent.value == pytest.approx(2 / 3)
    assert by_name["panel_type"].num_clusters == 0
    assert by_name["panel_type"].alpha.value is None
    top = by_name["global_concepts"]
    assert (top.num_clusters, top.num_answers) == (2, 6)
    assert top.percent.value == pytest.approx((1 + 1 / 3) / 2)
    # local: six empty sets, so all agree, and nothing beyond chance can be said
    assert by_name["local_concepts"].percent.value == 1
    assert by_name["local_concepts"].alpha.value is None
    pair = {(p.expert, p.other): p for p in report.pairs if p.question == "global_concepts"}
    assert pair[1, 2].kappa == 1
    assert pair[1, 3].num_clusters == 2
    assert pair[1, 3].percent == 0.5
    found = {each.concept: each for each in report.concepts}
    assert found["plots-and-charts"].num_clusters == 2
    assert found["plots-and-charts"].num_unanimous == 1
    # somebody chose it in 10 (three did) and 11 (one did): 6 of 6 + 2 ordered pairs
    assert found["plots-and-charts"].specific == pytest.approx(6 / 8)
    assert found["assays"].alpha == 1
    assert report.concepts[0].concept == "plots-and-charts"
    (confused,) = [each for each in report.confusions if each.question == "global_concepts"]
    assert (confused.answer, confused.other_answer) == ((), ("plots-and-charts",))
    assert confused.num_clusters == 2
    assert json.loads(json.dumps(asdict(report)))["num_votes"] == 8


def test_report_completes_answers() -> None:
    """Who names a concept without its parents agrees with who names them too."""
    leaf = TAXONOMY.locals_of("microscopy")[-1].id
    full = TAXONOMY.complete(Answer(local_concepts=(leaf,)))
    votes = [Said(1, 1, Answer(local_concepts=(leaf,))), Said(2, 1, full)]
    report = agreement_report(votes, TAXONOMY, seed=0)
    assert all(each.percent.value in (None, 1.0) for each in report.questions)
    assert not report.confusions


def test_report_of_nothing() -> None:
    """No votes: zeros and no figure."""
    report = agreement_report([], TAXONOMY, seed=0)
    assert (report.num_votes, report.concepts, report.pairs, report.confusions) == (0, (), (), ())
    assert all(each.percent.value is None for each in report.questions)


def simulated(num_clusters: int, num_experts: int, seed: int) -> list[Said]:
    """Experts who say what is there two times of three."""
    source = random.Random(seed)
    names = list(TAXONOMY.concepts)
    votes = []
    for cluster in range(num_clusters):
        truth = concepts(*source.sample(names, source.randint(1, 3)))
        for expert in range(num_experts):
            own = concepts(*source.sample(names, source.randint(1, 3)))
            votes.append(Said(expert, cluster, truth if source.random() < 0.66 else own))
    return votes


def test_report_does_not_depend_on_order() -> None:
    """Votes in another order: the same report, to the last bit."""
    votes = simulated(30, 4, seed=1)
    shuffled = votes[:]
    random.Random(2).shuffle(shuffled)
    first, second = (agreement_report(each, TAXONOMY, 5, 50) for each in (votes, shuffled))
    assert first == second


@pytest.mark.slow
def test_report_is_fast() -> None:
    """2,000 clusters and 8 experts with 1,000 resamples, sets that are mostly different."""
    votes = simulated(2000, 8, seed=1)
    started = time.process_time()
    report = agreement_report(votes, TAXONOMY, seed=0)
    assert time.process_time() - started < 60
    assert report.num_votes == 16_000
