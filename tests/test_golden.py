"""Each golden case parses to what its `expected.json` says."""

from __future__ import annotations

import json
import re

import pytest

from biomedica.parse import NotAnArticleError, parse_article
from golden_cases import actual, case_names, parameters, read_expected, read_input, render

KNOWN_FAULTS: dict[str, str] = {
    "affiliations": "text after the label of an affiliation is lost, and with it whole affiliations",
    "affiliation-without-registry-number": "`institution-id` is taken for text",
    "affiliations-in-parts-without-punctuation": "parts of an affiliation run into each other",
    "affiliation-shared-by-a-group": "an `aff` beside the contributors of a group is no one's",
    "authors-that-are-groups": "text inside the children of a `collab` is lost",
    "date-of-the-volume-is-no-earlier-day": "a year alone counts as its first of January",
    "date-season-of-months": "the months of a season are not read",
    "date-that-does-not-exist": "an impossible day loses the month too",
    "date-with-numbers-out-of-range": "a huge day raises OverflowError",
    "date-from-the-publishing-history": "the type of a date is looked for on `date`, not on `event`",
    "title-with-markup-and-footnote-mark": "the mark of a footnote stays in the title",
    "abstract-with-a-heading-of-its-own": "the heading 'Abstract' is taken for text",
    "keywords-in-two-languages": "keywords of every language are taken",
    "funding-source-without-registry-number": "`institution-id` is taken for text",
    "funding-contract-sponsor": "`contract-num` is not read",
    "licence-absent-copyright-only": "`permissions/copyright-statement` is not read",
    "licence-address-as-license-ref": "`ali:license_ref` is taken for text",
    "references": "ids at the end of a citation run into each other",
    "figure-permissions-and-attribution": "statements of `permissions` run into each other",
    "attribution-on-the-graphic": "`attrib` and `permissions` of a graphic are not read",
    "graphic-alternate-form-of": "a graphic with `alternate-form-of` is dropped, not kept as alternate",
    "print-and-web-graphics-side-by-side": "a picture given for print and for the web counts twice",
    "graphic-alone-in-a-section": "the caption of a graphic that stands alone is in the body's text",
    "caption-for-print-and-online": "the first caption is taken, not the one for the screen",
    "caption-with-display-formula": "the number of a formula stays in the caption",
    "formula-mathml-words": "white space inside `mtext` is removed",
    "mention-in-a-section-title": "marks are left in the section's name",
    "mention-sections-nested": "a section without title gets the title of the one before it",
    "mention-after-a-box-with-sections": "a title holds on after its section has ended",
    "mention-in-the-caption-of-an-image-table": "the caption is recorded twice",
    "mention-by-an-empty-link": "a link without words becomes an empty span",
    "mention-without-a-link-in-capitals": "'FIG. 2' is not seen",
    "mention-without-a-link-in-another-caption": "captions are not searched for words",
    "mention-without-a-link-with-letters": "letters after the first are left out of the span",
    "words-that-cite-several-figures-of-another-paper": "'Figures 1 and 2 of [12]' counts",
    "broken-stray-ampersands": "recovery drops what follows a stray `&`",
    "entities-without-doctype": "recovery drops `&amp;` and `&lt;`",
    "alternative-text-in-paragraphs": "marks are left in the text",
    "links-to-figures-outside-running-text": "marks are left in title, keywords, references, labels",
    "title-with-a-footnote-inside": "a footnote is taken for text, and a mark left in it",
    "whole-article-nlm-2.3": "affiliation after its label; year of the volume",
    "whole-article-nlm-3.0": "affiliation after its label; season",
    "whole-article-jats-1.4-archive": "affiliation after its label; `ali:license_ref`",
}
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
