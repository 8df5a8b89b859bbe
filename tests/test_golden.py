"""Each golden case parses to what its `expected.json` says."""

from __future__ import annotations

import json
import re

import pytest

from biomedica.parse import NotAnArticleError, parse_article
from golden_cases import actual, case_names, parameters, read_expected, read_input, render

KNOWN_FAULTS: dict[str, str] = {}
"""Cases whose `expected.json` is right and whose parse is not yet: name and fault."""

TEXT_FAULTS = {
    name: KNOWN_FAULTS[name]
    for name in (
        "alternative-text-in-paragraphs",
        "date-with-numbers-out-of-range",
        "links-to-figures-outside-running-text",
        "mention-by-an-empty-link",
        "mention-in-a-section-title",
        "title-with-a-footnote-inside",
    )
    if name in KNOWN_FAULTS
}
"""Those of them that leave marks or empty spans, or raise."""


@pytest.mark.parametrize("name", parameters(case_names(), KNOWN_FAULTS))
def test_golden(name: str) -> None:
    expected = read_expected(name)
    assert actual(name, expected) == expected


@pytest.mark.parametrize("name", parameters(case_names(), TEXT_FAULTS))
def test_spans_lie_inside_texts_without_marks(name: str) -> None:
    try:
        article = parse_article(read_input(name))
    except NotAnArticleError:
        return
    assert not re.search("[\ufdd0-\ufdef]", json.dumps(render(article), ensure_ascii=False))
    for mention in (mention for figure in article.figures for mention in figure.mentions):
        assert mention.spans
        ends = [0]
        for span in mention.spans:
            assert ends[-1] <= span.start < span.end <= len(mention.text)
            words = mention.text[span.start : span.end]
            assert words == words.strip()
            ends.append(span.end)


def test_known_faults_are_cases() -> None:
    assert set(KNOWN_FAULTS) <= set(case_names())
