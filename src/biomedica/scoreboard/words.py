"""What metrics and protocols are called on the page, and how their numbers are written."""

from __future__ import annotations

from collections.abc import Mapping

from biomedica.evaluate.results import Score

PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "zero_shot": (
        "Zero-shot",
        "The class, or the picture’s own candidate answer, whose words are nearest to the picture. "
        "Nothing is trained.",
    ),
    "retrieval": (
        "Retrieval",
        "Each picture ranks all captions, each caption all pictures. Nothing is trained.",
    ),
    "vqa_options": (
        "Visual questions, zero-shot",
        "The option whose caption is nearest to the picture. Nothing is trained.",
    ),
    "linear_probe": (
        "Linear probe",
        "A logistic regression on frozen embeddings of the training split; its regularisation is "
        "chosen on the validation split, or on groups held out of training; then it is fitted to both.",
    ),
    "knn": ("Nearest neighbours", "Votes of the nearest pictures of the training split."),
    "few_shot": (
        "Few-shot",
        "A logistic regression on frozen embeddings of a few training pictures a class.",
    ),
    "vqa_head": (
        "Visual questions, trained head",
        "A head over both towers, trained on the training questions, answers from their answers.",
    ),
}
"""Name, and what it does."""
METRICS = {
    "accuracy": "accuracy",
    "accuracy@5": "accuracy at 5",
    "accuracy_open": "accuracy, open questions",
    "accuracy_closed": "accuracy, closed questions",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "map": "mean average precision",
    "ece": "calibration error",
    "median_rank": "median rank",
}
DIRECTIONS = {"image_to_text": "picture to caption", "text_to_image": "caption to picture"}
LOWER_IS_BETTER = {"ece", "median_rank"}


def protocol_words(protocol: str) -> str:
    """Its name."""
    return PROTOCOLS[protocol][0] if protocol in PROTOCOLS else protocol


def metric_words(metric: str) -> str:
    """Its name.

    >>> metric_words("image_to_text/10"), metric_words("auroc")
    ('picture to caption, recall at 10', 'AUROC')
    """
    direction, _, k = metric.partition("/")
    if k and direction in DIRECTIONS:
        return f"{DIRECTIONS[direction]}, recall at {k}"
    return METRICS.get(metric, metric)


def place_of_metric(metric: str) -> tuple[int, str, int]:
    """Sorts recalls by direction and k, then metrics as they stand above.

    >>> sorted(["median_rank", "text_to_image/10", "text_to_image/5"], key=place_of_metric)
    ['text_to_image/5', 'text_to_image/10', 'median_rank']
    """
    direction, _, k = metric.partition("/")
    place = list(METRICS).index(metric) if metric in METRICS else -1
    return place, direction, int(k) if k.isdigit() else 0


def number_words(value: float, metric: str = "") -> str:
    """Shares in percent without the sign, ranks as they are.

    >>> number_words(0.7123, "accuracy"), number_words(1234, "median_rank")
    ('71.2', '1,234')
    """
    return f"{value:,.0f}" if metric == "median_rank" else f"{100 * value:.1f}"


def interval_words(score: Score, metric: str = "") -> str:
    """The limits; nothing where there are none.

    >>> interval_words(Score(value=0.7, low=0.683, high=0.74))
    '68.3–74.0'
    """
    if score.low is None or score.high is None:
        return ""
    return f"{number_words(score.low, metric)}–{number_words(score.high, metric)}"
