"""Votes to one label a cluster: majority, the taxonomy's constraints, adjudication, gold clusters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from biomedica.agreement import QUESTIONS, Rating, masi_distance
from biomedica.cluster import ClusterInfo
from biomedica.errors import ConfigError
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy
from biomedica.votes import Settlement, Vote

Item = tuple[str, str]
"""A question, and one id that answers it."""


class Status(StrEnum):
    """What became of a cluster or an image."""

    LABELLED = "labelled"
    OUTLIER = "outlier"
    """Of an image only: experts say that it doesn't belong to its cluster."""
    AMBIGUOUS = "ambiguous"
    """Most experts say that no one answer fits the cluster."""
    UNDECIDED = "undecided"
    """Too few votes, or no majority, and nobody has settled it."""
    UNLABELLED = "unlabelled"
    """No vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """How votes become labels."""

    min_votes: int = 2
    """A cluster with fewer votes stays undecided, unless an adjudicator settles it."""
    majority: float = 0.5
    """An answer stands when more than this share of the experts who answered gave it. At least 0.5, or
    answers that exclude each other could both stand."""
    outlier_share: float = 0.5
    """An image is an outlier when at least this share of the voters who were shown it marked it."""

    def __post_init__(self) -> None:
        if self.min_votes < 1:
            raise ConfigError(f"label.min_votes is {self.min_votes}; at least 1 would do")
        if not 0.5 <= self.majority < 1:
            raise ConfigError(f"label.majority is {self.majority}; from 0.5 to below 1 would do")
        if not 0 < self.outlier_share <= 1:
            raise ConfigError(
                f"label.outlier_share is {self.outlier_share}; above 0 and up to 1 would do"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """How many experts are behind one id as an answer to one question."""

    question: str
    """`verdict`, `panel_type`, `panel_subtype`, `global_concepts` or `local_concepts`."""
    answer: str
    num_votes: int
    share: float
    """Of the votes of verdict `answered`; of a verdict, of all votes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLabel:
    """What the experts together say of a cluster."""

    cluster: int
    status: Status
    answer: Answer = field(default_factory=Answer)
    """Complete (ancestors included); empty unless labelled."""
    confidence: float | None = None
    """Smallest share in `support`; None unless labelled, or where nobody but an adjudicator answered."""
    num_votes: int
    num_answered: int
    """Votes of verdict `answered`; the others say `ambiguous` or `mixed`."""
    is_adjudicated: bool = False
    reason: str | None = None
    """The adjudicator's; of an undecided cluster, why no answer stands."""
    support: tuple[Support, ...] = ()
    """Behind each id of the label, and behind the verdict."""
    dissent: tuple[Support, ...] = ()
    """What experts said and the label doesn't, most votes first."""
    outliers: tuple[str, ...] = ()
    """Keys of images that don't belong here, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldScore:
    """How an expert did on one question over the gold clusters."""

    expert: int
    question: str
    num_clusters: int
    """Gold clusters with an answer to the question on which the expert voted."""
    num_right: int
    """Exactly the gold answer; another verdict than `answered` is wrong."""
    similarity: float
    """Mean of 1 - MASI distance to the gold answer: sets that overlap count in part."""


def consensus(
    votes: Iterable[Vote],
    adjudications: Iterable[Settlement],
    taxonomy: Taxonomy,
    settings: LabelSettings,
    clusters: Iterable[ClusterInfo],
) -> list[ClusterLabel]:
    """One label for each cluster that was not split, by id.

    votes           one an expert and cluster; their order changes nothing. Votes on a cluster that was
                    split count no more: its parts have their own
    adjudications   one a cluster; it stands above the votes. Of several the last one holds

    Votes are completed, then an id stands when more than `settings.majority` of the experts who
    answered the cluster gave it. Experts who give a concept give its ancestors, so the label of a
    majority has them too. Raises `ConfigError` where an answer does not fit the taxonomy, or is about a
    cluster that is not in `clusters`.
    """
    infos = sorted(clusters, key=lambda each: each.id)
    retired = {each.id for each in infos if each.children}
    ballots: dict[int, list[Vote]] = defaultdict(list)
    for vote in votes:
        ballots[vote.cluster].append(vote)
    settled = {each.cluster: each for each in adjudications}
    if stray := (ballots.keys() | settled.keys()) - {each.id for each in infos}:
        raise ConfigError(
            f"votes on {len(stray)} clusters that the clustering does not have (such as "
            f"{min(stray)}); they belong to another one"
        )
    completed = _Completed(taxonomy)
    return [
        _label(
            each.id, ballots.get(each.id, []), settled.get(each.id), taxonomy, settings, completed
        )
        for each in infos
        if each.id not in retired
    ]


class _Completed:
    """Complete answers, each made once."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy
        self._known: dict[Answer, Answer] = {}

    def __call__(self, answer: Answer, where: str) -> Answer:
        if answer not in self._known:
            if wrong := self._taxonomy.check(answer):
                raise ConfigError(
                    f"{where} does not fit taxonomy {self._taxonomy.version}: {'; '.join(wrong)}. "
                    "Label with the taxonomy that the votes were given in"
                )
            self._known[answer] = self._taxonomy.complete(answer)
        return self._known[answer]


def _label(
    cluster: int,
    ballots: list[Vote],
    settled: Settlement | None,
    taxonomy: Taxonomy,
    settings: LabelSettings,
    completed: _Completed,
) -> ClusterLabel:
    answers = [
        completed(vote.answer, f"the vote of expert {vote.expert} on cluster {cluster}")
        for vote in ballots
        if vote.verdict == "answered"
    ]
    counts = Counter(item for answer in answers for item in _items(answer))
    verdicts = Counter(vote.verdict for vote in ballots)
    reason: str | None
    if settled is not None:
        status, reason = _status_of(settled.verdict), settled.reason
        answer = completed(settled.answer, f"the adjudication of cluster {cluster}")
    else:
        status, answer, reason = _majority(counts, verdicts, taxonomy, settings)
    if status is not Status.LABELLED:
        answer = Answer()
    chosen = _items(answer) | _verdicts_of(status)
    support, dissent = _support(counts, verdicts, chosen, taxonomy)
    has_confidence = status is Status.LABELLED and bool(answers)
    return ClusterLabel(
        cluster=cluster,
        status=status,
        answer=answer,
        confidence=min(each.share for each in support) if has_confidence else None,
        num_votes=len(ballots),
        num_answered=len(answers),
        is_adjudicated=settled is not None,
        reason=reason,
        support=support,
        dissent=dissent,
        outliers=_outliers(ballots, settings.outlier_share),
    )


def _status_of(verdict: str) -> Status:
    return Status.LABELLED if verdict == "answered" else Status.AMBIGUOUS


def _verdicts_of(status: Status) -> set[Item]:
    """The verdicts that agree with a status."""
    agreeing = {Status.LABELLED: ("answered",), Status.AMBIGUOUS: ("ambiguous", "mixed")}
    return {("verdict", each) for each in agreeing.get(status, ())}


def _items(answer: Answer) -> set[Item]:
    found = {("panel_type", answer.panel_type), ("panel_subtype", answer.panel_subtype)}
    named = {(question, value) for question, value in found if value is not None}
    named |= {("global_concepts", each) for each in answer.global_concepts}
    return named | {("local_concepts", each) for each in answer.local_concepts}


def _majority(
    counts: Counter[Item], verdicts: Counter[str], taxonomy: Taxonomy, settings: LabelSettings
) -> tuple[Status, Answer, str | None]:
    """Status, answer and, where nothing stands, why."""
    num_votes, num_answered = verdicts.total(), verdicts["answered"]
    if not num_votes:
        return Status.UNLABELLED, Answer(), None
    if num_votes < settings.min_votes:
        said = f"{num_votes} of {settings.min_votes} votes"
        return Status.UNDECIDED, Answer(), said
    if num_votes - num_answered > num_votes * settings.majority:
        return Status.AMBIGUOUS, Answer(), None
    if num_answered <= num_votes * settings.majority:
        return Status.UNDECIDED, Answer(), "no majority on whether it can be answered"
    won = {item for item, number in counts.items() if number > num_answered * settings.majority}
    for question in ("panel_type", "global_concepts"):
        if _named(counts, question) and not _named(won, question):
            return Status.UNDECIDED, Answer(), f"no majority for {question}"
    if not won:
        return Status.UNDECIDED, Answer(), "no question was answered"
    answer = taxonomy.complete(
        Answer(
            panel_type=next(iter(_named(won, "panel_type")), None),
            panel_subtype=next(iter(_named(won, "panel_subtype")), None),
            global_concepts=tuple(_named(won, "global_concepts")),
            local_concepts=tuple(_named(won, "local_concepts")),
        )
    )
    return _consistent(answer, taxonomy)


def _named(items: Iterable[Item], question: str) -> list[str]:
    return sorted(value for asked, value in items if asked == question)


def _consistent(answer: Answer, taxonomy: Taxonomy) -> tuple[Status, Answer, str | None]:
    """Majorities of different experts can contradict each other: the subtype gives way, nothing else."""
    wrong = taxonomy.check(answer)
    if not wrong:
        return Status.LABELLED, answer, None
    without = taxonomy.complete(replace(answer, panel_subtype=None))
    if not taxonomy.check(without):
        return Status.LABELLED, without, None
    return Status.UNDECIDED, Answer(), f"the majorities contradict each other: {'; '.join(wrong)}"


def _support(
    counts: Counter[Item], verdicts: Counter[str], chosen: set[Item], taxonomy: Taxonomy
) -> tuple[tuple[Support, ...], tuple[Support, ...]]:
    """What the label says with the votes behind it, and what else was said."""
    num_votes, num_answered = verdicts.total(), verdicts["answered"]
    said = counts + Counter({("verdict", each): number for each, number in verdicts.items()})
    if ("verdict", "answered") not in chosen:
        # no one of the two verdicts has to stand alone; a verdict that nobody gave isn't said
        chosen = {item for item in chosen if item in said}
    order = {name: i for i, name in enumerate(("verdict", *QUESTIONS))}
    place = {name: i for i, name in enumerate(taxonomy.concepts)}

    def made(item: Item) -> Support:
        total = num_votes if item[0] == "verdict" else num_answered
        number = said[item]
        share = number / total if total else 0.0
        return Support(question=item[0], answer=item[1], num_votes=number, share=share)

    support = [made(item) for item in chosen]
    dissent = [made(item) for item in said.keys() - chosen]

    def in_order(each: Support) -> tuple[int, int, str]:
        return order[each.question], place.get(each.answer, 0), each.answer

    dissent.sort(key=lambda each: (-each.num_votes, *in_order(each)))
    return tuple(sorted(support, key=in_order)), tuple(dissent)


def _outliers(ballots: list[Vote], share: float) -> tuple[str, ...]:
    marked = Counter(key for vote in ballots for key in set(vote.outliers))
    shown = Counter(key for vote in ballots for key in {*vote.shown, *vote.outliers})
    return tuple(sorted(key for key, number in marked.items() if number >= shown[key] * share))


def gold_scores(
    votes: Iterable[Rating], gold: Mapping[int, Answer], taxonomy: Taxonomy
) -> tuple[GoldScore, ...]:
    """Each expert on each question, over clusters whose answer is known; by expert, then question.

    gold   answer by cluster; a question that it leaves open is not scored

    Both are completed first. Experts who saw no gold cluster are left out.
    """
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for vote in votes:
        if vote.cluster not in gold:
            continue
        given = taxonomy.complete(vote.answer if vote.verdict == "answered" else Answer())
        known = taxonomy.complete(gold[vote.cluster])
        for question, (_, of_answer) in QUESTIONS.items():
            wanted = of_answer(known)
            if wanted is not None:
                said = of_answer(given)
                distance = 1.0 if said is None else masi_distance(said, wanted)
                found[vote.expert, question].append(1 - distance)
    order = list(QUESTIONS)
    return tuple(
        GoldScore(
            expert=expert,
            question=question,
            num_clusters=len(scores),
            num_right=scores.count(1.0),
            similarity=sum(sorted(scores)) / len(scores),
        )
        for (expert, question), scores in sorted(
            found.items(), key=lambda item: (item[0][0], order.index(item[0][1]))
        )
    )
