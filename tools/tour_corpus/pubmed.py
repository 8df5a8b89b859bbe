"""A file like those of PubMed's baseline, for the articles of the tour."""

import gzip
import random
from collections.abc import Iterable, Sequence

from tour_corpus import markup
from tour_corpus.model import MONTHS, Article, Mesh
from tour_corpus.references import POOL

NOTICE_PMID = 99900990
"""The notice that retracts an article; PMC does not hold it."""
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" \
"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">
"""


def baseline(articles: Sequence[Article]) -> bytes:
    """The file, gzipped; records in shuffled order, one for each PMID."""
    by_pmid = {a.pmid: a for a in articles if a.pmid and a.in_pubmed}
    records = [record(article) for article in by_pmid.values()]
    records.extend(notice(article) for article in by_pmid.values() if article.retracted)
    random.Random(26).shuffle(records)
    text = f"{HEADER}<PubmedArticleSet>\n{''.join(records)}</PubmedArticleSet>\n"
    return gzip.compress(text.encode(), mtime=0)


def record(article: Article) -> str:
    parts = [
        f'<PMID Version="{article.version}">{article.pmid}</PMID>',
        article_part(article),
        medline_journal(article),
        corrections(article),
        mesh_list(article.mesh),
        keyword_list(article.keywords),
    ]
    year, month, day = article.published
    date = f"<Year>{year}</Year><Month>{month:02d}</Month><Day>{day:02d}</Day>"
    parts.insert(1, f"<DateCompleted>{date}</DateCompleted>")
    return (
        '<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM" '
        f'IndexingMethod="Manual">{"".join(parts)}'
        "</MedlineCitation><PubmedData>"
        f"<PublicationStatus>epublish</PublicationStatus>{id_list(article)}"
        f"{reference_list(article)}</PubmedData></PubmedArticle>\n"
    )


def article_part(article: Article) -> str:
    year, month, day = article.published
    title = markup.inline(article.title).replace("italic>", "i>")
    doi = (
        f'<ELocationID EIdType="doi" ValidYN="Y">{article.doi}</ELocationID>' if article.doi else ""
    )
    kinds = "".join(
        f'<PublicationType UI="{ui}">{name}</PublicationType>'
        for name, ui in article.publication_types
    )
    return (
        '<Article PubModel="Electronic"><Journal><ISSN '
        f'IssnType="Electronic">{article.journal.issn}</ISSN>'
        f'<JournalIssue CitedMedium="Internet"><Volume>{article.volume}</Volume>'
        f"<Issue>{article.issue}</Issue>"
        f"<PubDate><Year>{year}</Year><Month>{MONTHS[month - 1]}</Month><Day>{day}</Day>"
        "</PubDate></JournalIssue>"
        f"<Title>{article.journal.title}</Title><ISOAbbreviation>{article.journal.abbreviation}"
        f"</ISOAbbreviation></Journal><ArticleTitle>{title}.</ArticleTitle>"
        f"<Pagination><StartPage>{article.page}</StartPage>"
        f"<MedlinePgn>{article.page}</MedlinePgn></Pagination>"
        f"{doi}{abstract(article)}{author_list(article)}<Language>eng</Language>{grants(article)}"
        f"<PublicationTypeList>{kinds}</PublicationTypeList></Article>"
    )


def abstract(article: Article) -> str:
    """`AbstractText`, with `Label` and `NlmCategory` where the abstract has sections."""
    out = []
    for block in markup.blocks(article.abstract):
        label, colon, rest = block.partition(": ")
        if colon and label.isalpha():
            category = {"PURPOSE": "OBJECTIVE"}.get(label.upper(), label.upper())
            out.append(
                f'<AbstractText Label="{label.upper()}" '
                f'NlmCategory="{category}">{tidy(rest)}</AbstractText>'
            )
        else:
            out.append(f"<AbstractText>{tidy(block)}</AbstractText>")
    return f"<Abstract>{''.join(out)}</Abstract>" if out else ""


def tidy(text: str) -> str:
    return markup.inline(text).replace("italic>", "i>").replace("bold>", "b>")


def author_list(article: Article) -> str:
    people = []
    for i, name in enumerate(article.authors.split("; ")):
        given, surname = name.rsplit(" ", 1)
        place = article.affiliations[i % len(article.affiliations)]
        initials = "".join(word[0] for word in given.split())
        people.append(
            f'<Author ValidYN="Y"><LastName>{surname}</LastName><ForeName>{given}</ForeName>'
            f"<Initials>{initials}"
            f"</Initials><AffiliationInfo><Affiliation>{place}.</Affiliation></AffiliationInfo>"
            "</Author>"
        )
    return f'<AuthorList CompleteYN="Y">{"".join(people)}</AuthorList>'


def grants(article: Article) -> str:
    agency, comma, award = article.funding.partition(", grant ")
    if not comma:
        return ""
    facts = f"<GrantID>{award}</GrantID><Agency>{agency}</Agency><Country>Nowhere</Country>"
    return f'<GrantList CompleteYN="Y"><Grant>{facts}</Grant></GrantList>'


def medline_journal(article: Article) -> str:
    journal = article.journal
    return (
        "<MedlineJournalInfo><Country>Nowhere</Country>"
        f"<MedlineTA>{journal.abbreviation}</MedlineTA>"
        f"<NlmUniqueID>{journal.nlm_id}</NlmUniqueID><ISSNLinking>{journal.issn}</ISSNLinking>"
        "</MedlineJournalInfo>"
    )


def corrections(article: Article) -> str:
    links = []
    if article.retracted:
        links.append(("RetractionIn", f"{article.journal.abbreviation}. 2019 Jul 1", NOTICE_PMID))
    if article.article_type == "correction":
        links.append(("ErratumFor", f"{article.journal.abbreviation}. 2024 Mar 5", 99900001))
    if article.number == 1:
        links.append(("ErratumIn", f"{article.journal.abbreviation}. 2024 Sep 17", 99900013))
    return correction_list(links)


def correction_list(links: Iterable[tuple[str, str, int | None]]) -> str:
    rows = "".join(
        f'<CommentsCorrections RefType="{kind}"><RefSource>{source}</RefSource><PMID '
        f'Version="1">{pmid}</PMID>'
        "</CommentsCorrections>"
        for kind, source, pmid in links
    )
    return f"<CommentsCorrectionsList>{rows}</CommentsCorrectionsList>" if rows else ""


def mesh_list(headings: Iterable[Mesh]) -> str:
    rows = "".join(heading(mesh) for mesh in headings)
    return f"<MeshHeadingList>{rows}</MeshHeadingList>" if rows else ""


def heading(mesh: Mesh) -> str:
    major = "Y" if mesh.major else "N"
    out = f'<DescriptorName UI="{mesh.ui}" MajorTopicYN="{major}">{mesh.name}</DescriptorName>'
    for qualifier in mesh.qualifiers:
        name, ui, topic = qualifier.split("|")
        out += f'<QualifierName UI="{ui}" MajorTopicYN="{topic}">{name}</QualifierName>'
    return f"<MeshHeading>{out}</MeshHeading>"


def keyword_list(words: Iterable[str]) -> str:
    rows = "".join(f'<Keyword MajorTopicYN="N">{tidy(word)}</Keyword>' for word in words)
    return f'<KeywordList Owner="NOTNLM">{rows}</KeywordList>' if rows else ""


def id_list(article: Article) -> str:
    ids = [
        ("pubmed", article.pmid),
        ("pmc", article.pmcid),
        ("doi", article.doi),
        ("mid", article.manuscript_id),
    ]
    rows = "".join(
        f'<ArticleId IdType="{kind}">{value}</ArticleId>' for kind, value in ids if value
    )
    return f"<ArticleIdList>{rows}</ArticleIdList>"


def reference_list(article: Article) -> str:
    rows = []
    for number in article.references:
        work = POOL[number]
        ids = "".join(
            f'<ArticleId IdType="{kind}">{value}</ArticleId>'
            for kind, value in (("doi", work.doi), ("pubmed", work.pmid))
            if value
        )
        known = f"<ArticleIdList>{ids}</ArticleIdList>" if ids else ""
        rows.append(
            f"<Reference><Citation>{work.authors}. {work.title}. {work.source}. "
            f"{work.year};{work.volume}:"
            f"{work.page}.</Citation>{known}</Reference>"
        )
    return f"<ReferenceList>{''.join(rows)}</ReferenceList>" if rows else ""


def notice(article: Article) -> str:
    """The retraction notice, which has a PMID and no full text."""
    link = correction_list(
        [("RetractionOf", f"{article.journal.abbreviation}. {article.published[0]}", article.pmid)]
    )
    return (
        '<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID '
        f'Version="1">{NOTICE_PMID}</PMID>'
        '<Article PubModel="Electronic"><Journal><ISSN '
        f'IssnType="Electronic">{article.journal.issn}</ISSN>'
        '<JournalIssue CitedMedium="Internet"><Volume>19</Volume><PubDate><MedlineDate>2019 '
        "Jul-Aug</MedlineDate>"
        f"</PubDate></JournalIssue><Title>{article.journal.title}</Title></Journal>"
        "<ArticleTitle>Retraction: LUMA1 "
        "rises with dose in two cell lines.</ArticleTitle><Language>eng</Language>"
        "<PublicationTypeList>"
        '<PublicationType UI="D016440">Retraction of Publication</PublicationType>'
        "</PublicationTypeList></Article>"
        f"{medline_journal(article)}{link}</MedlineCitation><PubmedData><PublicationStatus>epublish"
        "</PublicationStatus><ArticleIdList><ArticleId "
        f'IdType="pubmed">{NOTICE_PMID}</ArticleId></ArticleIdList>'
        "</PubmedData></PubmedArticle>\n"
    )
