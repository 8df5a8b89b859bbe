"""Retrieval between the pictures and captions of held-out samples, with intervals over articles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from biomedica.clip import Made
from biomedica.numbering import numbered
from biomedica.ranks import Members, chance, ranks
from biomedica.stream import OrderSettings, PixelSettings, Samples
from biomedica.stream.loader import Stream
from biomedica.stream.pixels import Pixels
from biomedica.train.normalise import Normalise

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
RECALLS = (1, 5, 10)
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Recall in both directions: the share of queries that find their counterpart among the first k.

    A picture's counterpart is every caption that is the same text (figures with several pictures share
    one), and a caption's every picture that has it. Intervals are 95 %, by bootstrap over articles.
    """

    num_pairs: int
    num_texts: int
    """Different captions."""
    num_articles: int
    image_to_text: dict[str, float]
    text_to_image: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Of each recall, by `image_to_text/1` ..."""
    chance: dict[str, float]
    """What a random order gives, in the mean over queries."""
    median_rank: float
    """Of pictures' first right caption, among all pairs; 1 is best."""

    def flat(self) -> dict[str, float]:
        """Numbers for a log."""
        found = {f"image_to_text/{k}": v for k, v in self.image_to_text.items()}
        found |= {f"text_to_image/{k}": v for k, v in self.text_to_image.items()}
        return found | {"median_rank": self.median_rank}


def evaluate(
    made: Made, samples: Samples, *, max_samples: int = 0, batch: int = 64, device: Any = "cpu"
) -> Retrieval:
    """Score a model on a view's samples, in their order or `max_samples` of them by chance (always the same).

    Captions are the texts; pictures are resized as the model was trained to see them, without crops.
    """
    order = OrderSettings(shuffle=bool(max_samples))
    stream = Stream(
        samples,
        batch=batch,
        order=order,
        pixels=Pixels(PixelSettings(size=made.preprocess.size, train=False)),
        with_facts=True,
    )
    normalise = Normalise(made.preprocess, device)
    left = max_samples or len(samples)
    images, texts, captions, articles = [], [], [], []
    was_training = made.model.training
    made.model.eval()
    try:
        for some in stream:
            keep = min(left, len(some))
            assert some.images is not None
            own = [each[0] for each in some.texts[:keep]]
            found = _features(made, normalise, some.images[:keep], own, device)
            images.append(found[0])
            texts.append(found[1])
            captions += own
            articles += [
                str(facts.get("pmcid") or key)
                for facts, key in zip(some.facts[:keep], some.keys, strict=False)
            ]
            left -= keep
            if not left:
                break
    finally:
        made.model.train(was_training)
    return score(np.concatenate(images), np.concatenate(texts), captions, articles)


def _features(
    made: Made, normalise: Normalise, pixels: Any, texts: list[str], device: Any
) -> tuple[Floats, Floats]:
    with torch.no_grad():
        images = made.model.encode_image(normalise(pixels), normalize=True)
        found = made.model.encode_text(made.tokenizer(texts).to(device), normalize=True)
    return images.float().cpu().numpy(), found.float().cpu().numpy()


def score(
    images_ND: Floats, texts_ND: Floats, captions: list[str], articles: list[str]
) -> Retrieval:
    """Recalls of N pairs, row i of the pictures with row i of the texts; rows of length 1.

    articles   of each pair: what the bootstrap draws
    """
    group_N = numbered(captions)[1]
    groups = Members.each(group_N)
    found = {
        "image_to_text": ranks(images_ND, texts_ND, groups, groups),
        "text_to_image": ranks(texts_ND, images_ND, groups, groups),
    }
    article_N = numbered(articles)[1]
    sizes_N = np.bincount(group_N)[group_N]
    draws = _draws(int(article_N.max()) + 1)
    intervals = {}
    for direction, places in found.items():
        for k in RECALLS:
            intervals[f"{direction}/{k}"] = _interval(places <= k, article_N, draws)
    recalls = {
        direction: {str(k): float((places <= k).mean()) for k in RECALLS}
        for direction, places in found.items()
    }
    return Retrieval(
        num_pairs=len(captions),
        num_texts=int(group_N.max()) + 1,
        num_articles=int(article_N.max()) + 1,
        image_to_text=recalls["image_to_text"],
        text_to_image=recalls["text_to_image"],
        intervals=intervals,
        chance={str(k): chance(sizes_N, len(captions), k) for k in RECALLS},
        median_rank=float(np.median(found["image_to_text"])),
    )


def _draws(num_articles: int) -> Ints:
    """(_RESAMPLES, num_articles): how often each resample takes each article."""
    random = np.random.default_rng(0)
    return random.multinomial(num_articles, np.full(num_articles, 1 / num_articles), _RESAMPLES)


def _interval(hit_N: NDArray[np.bool_], article_N: Ints, draws_RA: Ints) -> tuple[float, float]:
    """95 % of the resamples' recalls, articles drawn with all of their pairs."""
    hits_A = np.bincount(article_N, hit_N, minlength=draws_RA.shape[1])
    sizes_A = np.bincount(article_N, minlength=draws_RA.shape[1])
    found = (draws_RA @ hits_A) / (draws_RA @ sizes_A)
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
