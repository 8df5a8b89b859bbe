"""Pictures to captions and back: exact recall at k with several captions a picture, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.models import Vectors
from biomedica.numbering import numbered
from biomedica.ranks import Members, ranks

RECALLS = (1, 5, 10, 100)
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Places of the right answers, from 1."""

    image_rank_N: Ints
    """Of each picture's best right caption among all captions."""
    text_rank_M: Ints
    """Of each caption's best right picture among all pictures."""
    item_of_text_M: Ints
    """Index of the item that a caption stands with."""
    image_right_N: Ints
    text_right_M: Ints
    """How many of the gallery are right."""
    num_texts: int
    num_pictures: int
    """Different ones: the galleries."""


def retrieve(images_ND: Vectors, texts_MD: Vectors, items: Items) -> Retrieved:
    """Rank every caption for every picture and every picture for every caption.

    texts_MD   rows in the order of the items' captions
    A caption is right for each picture that has the same words, and a picture for each caption that is one of its
    own: the same text can't be wrong. A picture of several items and a text of several pictures stand in the
    gallery once.
    """
    assert items.captions is not None
    texts = [text for some in items.captions for text in some]
    item_of_text = np.repeat(np.arange(len(items)), [len(some) for some in items.captions])
    word_M, picture_N = numbered(texts)[1], numbered(items.picture_ids)[1]
    first_word = np.unique(word_M, return_index=True)[1]
    first_picture = np.unique(picture_N, return_index=True)[1]
    # groups are the different words; a picture has those of all of its items
    pictures = Members(picture_N[item_of_text], word_M)
    words = Members.each(np.arange(len(first_word)))
    image_rank_P = ranks(images_ND[first_picture], texts_MD[first_word], pictures, words)
    text_rank_W = ranks(texts_MD[first_word], images_ND[first_picture], words, pictures)
    pairs = np.unique(np.stack([pictures.rows_P, word_M]), axis=1)
    of_picture, of_word = np.bincount(pairs[0]), np.bincount(pairs[1])
    return Retrieved(
        image_rank_N=image_rank_P[picture_N],
        text_rank_M=text_rank_W[word_M],
        item_of_text_M=item_of_text,
        image_right_N=of_picture[picture_N],
        text_right_M=of_word[word_M],
        num_texts=len(first_word),
        num_pictures=len(first_picture),
    )


def embed_captions(embeddings: Embeddings, items: Items) -> Vectors:
    """(M, D) of all captions, item by item."""
    assert items.captions is not None
    return embeddings.texts([text for some in items.captions for text in some], items.task)
