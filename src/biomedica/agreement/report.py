"""Votes to the figures of their agreement: per question, per pair of experts, per concept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Protocol

import numpy as np

from biomedica.agreement.measures import (
    Codes,
    Estimate,
    Reals,
    alpha_measure,
    cohen_kappa,
    estimate,
    fleiss_measure,
    masi_distances,
    percent_agreement,
    percent_measure,
)
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy

SHOWN = 5
"""Confusions listed for each question and pair of experts; of all pairs together, four times as many."""


class Rating(Protocol):
    """What is used of a vote: who said what of which cluster."""

    @property
    def expert(self) -> int: ...
    @property
    def cluster(self) -> int: ...
    @property
    def verdict(self) -> str: ...
    @property
    def answer(self) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAgreement:
    """How far the experts agree on one question of the form."""

    question: str
    """`verdict`, `panel_type`, `panel_subtype`, `global_concepts` or `local_concepts`."""
    is_set: bool
    """Several answers may be given; `percent` and `fleiss` then count a pair only where all are the same."""
    num_clusters: int
    """Clusters with two answers or more: all figures are over these."""
    num_answers: int
    """Answers to them."""
    percent: Estimate
    """Share of pairs of experts that gave the same answer, mean over clusters."""
    fleiss: Estimate
    alpha: Estimate
    """Krippendorff's; for sets with MASI distance, so that sets that overlap agree in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAgreement:
    """How far two experts agree on one question."""

    question: str
    expert: int
    other: int
    num_clusters: int
    """Clusters that both answered."""
    percent: float | None
    kappa: float | None
    """Cohen's; for sets weighted by MASI distance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptAgreement:
    """How far the experts agree that a concept is there."""

    concept: str
    num_clusters: int
    """Clusters with two answers or more in which somebody chose it."""
    num_unanimous: int
    """Those of them in which everybody did."""
    specific: float | None
    """Where one expert chose it, the chance that another one did too (proportion of specific agreement:
    Fleiss, Levin, Paik 2003, "Statistical Methods for Rates and Proportions", ch. 18)."""
    alpha: float | None
    """Krippendorff's, of chosen or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Two different answers to one question about the same cluster."""

    question: str
    expert: int | None
    """None: whoever they were."""
    other: int | None
    answer: tuple[str, ...]
    """Of `expert`. For sets only what the other did not choose; () where that is nothing."""
    other_answer: tuple[str, ...]
    num_clusters: int
    """How often; with experts None, pairs of experts and clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementReport:
    """Agreement of all votes that count. JSON-able through `dataclasses.asdict`."""

    num_votes: int
    num_experts: int
    num_clusters: int
    """Clusters with a vote."""
    seed: int
    num_resamples: int
    questions: tuple[QuestionAgreement, ...]
    pairs: tuple[PairAgreement, ...]
    concepts: tuple[ConceptAgreement, ...]
    """Most disputed first: by the clusters in which some chose it and some did not. Concepts that
    nobody chose are left out."""
    confusions: tuple[Confusion, ...]
    """Most frequent differing answers over all pairs of experts."""
    pair_confusions: tuple[Confusion, ...]
    """The same for each pair of experts."""


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    is_set: bool
    values: list[tuple[str, ...]]
    """What each code means."""
    codes_NR: Codes
    distance_CC: Reals | None
    """Of what the codes mean; None: equal or not."""


def _chosen(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else (value,)


QUESTIONS: dict[str, tuple[bool, Callable[[Answer], tuple[str, ...] | None]]] = {
    "panel_type": (False, lambda answer: _chosen(answer.panel_type)),
    "panel_subtype": (False, lambda answer: _chosen(answer.panel_subtype)),
    "global_concepts": (True, lambda answer: answer.global_concepts or None),
    # who names a global concept and nothing below it says that nothing below it fits
    "local_concepts": (True, lambda a: a.local_concepts if a.global_concepts else None),
}
"""Whether a question takes several answers, and what a completed answer says to it; None: nothing."""


def agreement_report(
    votes: Iterable[Rating], taxonomy: Taxonomy, seed: int, num_resamples: int = 1000
) -> AgreementReport:
    """How far experts agree; the order of the votes changes nothing.

    votes           one an expert and cluster, as `VoteStore.current_votes` gives them
    seed            of the bootstrap
    num_resamples   of the bootstrap; 0: no intervals

    Answers are completed first (parents and what a subtype implies), so that experts who mean the same
    agree. Votes with another verdict than `answered` take part in the question `verdict` alone. Raises
    `KeyError` for a concept that the taxonomy doesn't have.
    """
    found = sorted(votes, key=lambda vote: (vote.cluster, vote.expert))
    clusters = sorted({vote.cluster for vote in found})
    experts = sorted({vote.expert for vote in found})
    questions = _questions(found, clusters, experts, taxonomy)
    pairs, confusions, pair_confusions = _compared(questions, experts)
    return AgreementReport(
        num_votes=len(found),
        num_experts=len(experts),
        num_clusters=len(clusters),
        seed=seed,
        num_resamples=num_resamples,
        questions=tuple(_question_agreement(each, seed, num_resamples) for each in questions),
        pairs=pairs,
        concepts=_concept_agreement(questions, taxonomy),
        confusions=confusions,
        pair_confusions=pair_confusions,
    )


def _questions(
    votes: Sequence[Rating], clusters: list[int], experts: list[int], taxonomy: Taxonomy
) -> list[_Question]:
    row = {cluster: i for i, cluster in enumerate(clusters)}
    column = {expert: i for i, expert in enumerate(experts)}
    places = [(row[vote.cluster], column[vote.expert]) for vote in votes]
    completed: dict[Answer, Answer] = {}
    for vote in votes:
        if vote.verdict == "answered" and vote.answer not in completed:
            completed[vote.answer] = taxonomy.complete(vote.answer)
    said: dict[str, list[tuple[str, ...] | None]] = {"verdict": [(v.verdict,) for v in votes]}
    for name, (_, of_answer) in QUESTIONS.items():
        said[name] = [
            of_answer(completed[vote.answer]) if vote.verdict == "answered" else None
            for vote in votes
        ]
    shape = (len(clusters), len(experts))
    return [_coded(name, answers, places, shape) for name, answers in said.items()]


def _coded(
    name: str,
    answers: list[tuple[str, ...] | None],
    places: list[tuple[int, int]],
    shape: tuple[int, int],
) -> _Question:
    values = sorted({answer for answer in answers if answer is not None})
    code = {value: i for i, value in enumerate(values)}
    codes_NR = np.full(shape, -1, dtype=np.int64)
    for place, answer in zip(places, answers, strict=True):
        if answer is not None:
            codes_NR[place] = code[answer]
    is_set = name in QUESTIONS and QUESTIONS[name][0]
    return _Question(name, is_set, values, codes_NR, masi_distances(values) if is_set else None)


def _question_agreement(question: _Question, seed: int, num_resamples: int) -> QuestionAgreement:
    ratings_N = (question.codes_NR >= 0).sum(axis=1)
    measured = partial(estimate, question.codes_NR, seed=seed, num_resamples=num_resamples)
    return QuestionAgreement(
        question=question.name,
        is_set=question.is_set,
        num_clusters=int((ratings_N >= 2).sum()),
        num_answers=int(ratings_N[ratings_N >= 2].sum()),
        percent=measured(percent_measure),
        fleiss=measured(fleiss_measure),
        alpha=measured(lambda codes: alpha_measure(codes, question.distance_CC)),
    )


def _compared(
    questions: list[_Question], experts: list[int]
) -> tuple[tuple[PairAgreement, ...], tuple[Confusion, ...], tuple[Confusion, ...]]:
    """Every two experts on every question, and how they differ."""
    pairs: list[PairAgreement] = []
    overall: list[Confusion] = []
    by_pair: list[Confusion] = []
    for question in questions:
        together: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
        for (i, expert), (j, other) in combinations(enumerate(experts), 2):
            two_N2 = question.codes_NR[:, [i, j]]
            two_N2 = two_N2[(two_N2 >= 0).all(axis=1)]
            pairs.append(
                PairAgreement(
                    question=question.name,
                    expert=expert,
                    other=other,
                    num_clusters=len(two_N2),
                    percent=percent_agreement(two_N2),
                    kappa=cohen_kappa(two_N2[:, 0], two_N2[:, 1], question.distance_CC),
                )
            )
            counts = _differences(question, two_N2)
            by_pair += _most_frequent(counts, question.name, expert, other, SHOWN)
            for (first, second), number in counts.items():
                same = (first, second) if first <= second else (second, first)
                together[same] = together.get(same, 0) + number
        overall += _most_frequent(together, question.name, None, None, 4 * SHOWN)
    return tuple(pairs), tuple(overall), tuple(by_pair)


def _differences(
    question: _Question, two_N2: Codes
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], int]:
    """How often two experts differ, by what they said."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    differing = two_N2[two_N2[:, 0] != two_N2[:, 1]]
    for codes, number in zip(*np.unique(differing, axis=0, return_counts=True), strict=True):
        first, second = (question.values[code] for code in codes)
        apart = (
            tuple(each for each in first if each not in second),
            tuple(each for each in second if each not in first),
        )
        found[apart] = found.get(apart, 0) + int(number)
    return found


def _most_frequent(
    counts: dict[tuple[tuple[str, ...], tuple[str, ...]], int],
    question: str,
    expert: int | None,
    other: int | None,
    limit: int,
) -> list[Confusion]:
    return [
        Confusion(
            question=question,
            expert=expert,
            other=other,
            answer=first,
            other_answer=second,
            num_clusters=number,
        )
        for (first, second), number in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:limit]
    ]


def _concept_agreement(
    questions: list[_Question], taxonomy: Taxonomy
) -> tuple[ConceptAgreement, ...]:
    names = list(taxonomy.concepts)
    column = {name: i for i, name in enumerate(names)}
    by_name = {question.name: question for question in questions}
    num_items = len(by_name["global_concepts"].codes_NR)
    chosen_NL = np.zeros((num_items, len(names)))
    for question in (by_name["global_concepts"], by_name["local_concepts"]):
        member_CL = np.zeros((len(question.values) + 1, len(names)))  # last row: no answer
        for code, value in enumerate(question.values):
            member_CL[code, [column[name] for name in value]] = 1
        for codes_N in question.codes_NR.T:
            chosen_NL += member_CL[codes_N]
    answers_N = (by_name["global_concepts"].codes_NR >= 0).sum(axis=1)
    kept_N = answers_N >= 2
    found = _of_concepts(names, chosen_NL[kept_N], answers_N[kept_N].astype(float))
    disputed = {each.concept: each.num_clusters - each.num_unanimous for each in found}
    return tuple(sorted(found, key=lambda each: (-disputed[each.concept], column[each.concept])))


def _of_concepts(
    names: list[str], chosen_NL: Reals, answers_N: Reals
) -> Iterable[ConceptAgreement]:
    """chosen_NL   how many of the answers_N experts chose each of L concepts"""
    others_N1 = answers_N[:, None] - 1
    num_answers = answers_N.sum()
    total_L = chosen_NL.sum(axis=0)
    both_L = (chosen_NL * (chosen_NL - 1)).sum(axis=0)
    possible_L = (chosen_NL * others_N1).sum(axis=0)
    apart_L = (chosen_NL * (answers_N[:, None] - chosen_NL) / others_N1).sum(axis=0)
    found = []
    for i in np.flatnonzero(total_L):
        expected = total_L[i] * (num_answers - total_L[i]) / (num_answers - 1)
        found.append(
            ConceptAgreement(
                concept=names[i],
                num_clusters=int((chosen_NL[:, i] > 0).sum()),
                num_unanimous=int((chosen_NL[:, i] == answers_N).sum()),
                specific=float(both_L[i] / possible_L[i]),
                alpha=float(1 - apart_L[i] / expected) if expected > 0 else None,
            )
        )
    return found
