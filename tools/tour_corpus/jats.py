"""An article as JATS, in the flavours that PMC holds: old and new tag sets, PMC's own forms."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from pathlib import PurePosixPath

from PIL import Image, UnidentifiedImageError

from tour_corpus import markup
from tour_corpus.model import Article, Fig, Raw
from tour_corpus.references import POOL

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
MATHML = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'
CREATIVE_COMMONS = "https://creativecommons.org/"
LICENCE_PATHS = {
    "CC0": "publicdomain/zero/1.0/",
    "CC BY": "licenses/by/4.0/",
    "CC BY-SA": "licenses/by-sa/4.0/",
    "CC BY-ND": "licenses/by-nd/4.0/",
    "CC BY-NC": "licenses/by-nc/4.0/",
    "CC BY-NC-SA": "licenses/by-nc-sa/4.0/",
    "CC BY-NC-ND": "licenses/by-nc-nd/4.0/",
}


def doctype(name: str, file: str) -> str:
    return f'<!DOCTYPE article PUBLIC "-//NLM//DTD {name}//EN" "{file}">\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """How one kind of file differs from the others."""

    prolog: str
    root: str
    graphic: str = "stem"
    """stem, file, tif, described (PMC's processing instructions), pair or trio (alternatives)."""
    numbered: bool = False
    """Ids as PMC writes them since 2025: "PMC1", "PMC1.1", and the number."""
    local_xlink: bool = False
    old: bool = False
    """The NLM tag sets: `<citation>`, `<p>` in the licence, a bare journal title in 2.3."""
    citation: str = "mixed-citation"


FLAVOURS = {
    "archive": Flavour(
        prolog="\n"
        + doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD with MathML3 v1.4 20241031",
            "JATS-archivearticle1-4-mathml3.dtd",
        ),
        root='xml:lang="en" dtd-version="1.4"',
        graphic="described",
        numbered=True,
        local_xlink=True,
    ),
    "rendered": Flavour(
        prolog='<?xml version="1.0" encoding="UTF-8"?>',
        root='xml:lang="en"',
        graphic="pair",
        numbered=True,
        local_xlink=True,
    ),
    "jats13": Flavour(
        prolog='<?xml version="1.0" encoding="UTF-8"?>\n'
        + doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD v1.3 20210610",
            "JATS-archivearticle1-3.dtd",
        ),
        root=f'{XLINK} {MATHML} xml:lang="en" dtd-version="1.3"',
        graphic="file",
    ),
    "jats12": Flavour(
        prolog=doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD v1.2 20190208",
            "JATS-archivearticle1.dtd",
        ),
        root=f'{XLINK} {MATHML} xml:lang="en" dtd-version="1.2"',
    ),
    "jats11": Flavour(
        prolog=doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD v1.1 20151215",
            "JATS-archivearticle1.dtd",
        ),
        root=f'{XLINK} {MATHML} dtd-version="1.1"',
    ),
    "jats10": Flavour(
        prolog=doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD v1.0 20120330",
            "JATS-archivearticle1.dtd",
        ),
        root=XLINK,
    ),
    "nlm30": Flavour(
        prolog=doctype("Journal Publishing DTD v3.0 20080202", "journalpublishing3.dtd"),
        root=f"{XLINK} {MATHML}",
        old=True,
        citation="element-citation",
    ),
    "nlm23": Flavour(
        prolog=doctype("Journal Archiving and Interchange DTD v2.3 20070202", "archivearticle.dtd"),
        root=XLINK,
        old=True,
        citation="citation",
    ),
    "namespaced": Flavour(
        prolog="",
        root=f'xmlns="https://jats.nlm.nih.gov/ns/archiving/1.4/" {XLINK} {MATHML} '
        'xml:lang="en" dtd-version="1.4"',
        graphic="file",
        numbered=True,
    ),
    "scielo": Flavour(
        prolog='<?xml version="1.0" encoding="utf-8"?>\n'
        + doctype(
            "JATS (Z39.96) Journal Publishing DTD v1.1 20151215", "JATS-journalpublishing1.dtd"
        ),
        root=f'{XLINK} xml:lang="en" dtd-version="1.1" specific-use="sps-1.9"',
        graphic="trio",
    ),
    "elife": Flavour(
        prolog=doctype(
            "JATS (Z39.96) Journal Archiving and Interchange DTD v1.3 20210610",
            "JATS-archivearticle1-3.dtd",
        ),
        root=f'{XLINK} dtd-version="1.3"',
        graphic="tif",
        citation="element-citation",
    ),
}


def article_xml(article: Article, files: Mapping[str, bytes]) -> bytes:
    """The whole document; `files` are all drawn media, by name."""
    flavour = FLAVOURS[article.flavour]
    figures = {key: figure_xml(key, fig) for key, fig in article.figures.items()}
    body = markup.body(article.body, figures) if article.body.strip() else ""
    loose = [xml for key, xml in figures.items() if "{" + key + "}" not in article.body]
    parts = [
        front(article, flavour),
        f"<body>{body}</body>" if body else "",
        back(article, flavour),
        f"<floats-group>{''.join(loose)}</floats-group>" if loose else "",
        one_line(article.extra_tail),
    ]
    text = "".join(parts)
    text = re.sub(r"\{\{([^}]+)\}\}", lambda m: graphic_xml(m[1], article, flavour, files), text)
    if flavour.local_xlink:
        text = re.sub(r"<([\w-]+)(?=[^<>]* xlink:href)", rf"<\1 {XLINK}", text)
        text = text.replace("<mml:math", f"<mml:math {MATHML}")
    if article.flavour == "rendered":
        text = text.replace('ref-type="bibr"', 'ref-type="ref"')
    opening = f'<article {flavour.root} article-type="{article.article_type}">'
    return f"{flavour.prolog}{opening}{text}</article>\n".encode()


def one_line(xml: str) -> str:
    """The XML without the line ends and margins of the source it stands in."""
    lines = "\n".join(line.strip() for line in xml.strip().splitlines())
    return re.sub(r">\n(?=[<{])|(?<=\}\})\n", lambda m: m[0].strip(), lines).replace("\n", " ")


def figure_xml(key: str, figure: Fig | Raw) -> str:
    if isinstance(figure, Raw):
        return one_line(figure.xml)
    kind = f' fig-type="{figure.kind}"' if figure.kind else ""
    parts = [
        f'<object-id pub-id-type="doi">{figure.doi}</object-id>' if figure.doi else "",
        f"<label>{figure.label}</label>" if figure.label else "",
        markup.caption(figure.caption) if figure.caption else "",
        f"<alt-text>{figure.alt}</alt-text>" if figure.alt else "",
        "".join("{{" + stem + "}}" for stem in figure.graphic.split()),
        figure.rights,
    ]
    return f'<fig id="{key}" position="float"{kind}>{"".join(parts)}</fig>'


def graphic_xml(stem: str, article: Article, flavour: Flavour, files: Mapping[str, bytes]) -> str:
    """The graphic element, or elements, of the media whose name is `stem` and an extension."""
    names = [
        m.name for m in article.media if m.name.removesuffix(PurePosixPath(m.name).suffix) == stem
    ]
    name = names[0] if names else f"{stem}.jpg"
    match flavour.graphic:
        case "file":
            return f'<graphic xlink:href="{name}"/>'
        case "tif":
            return f'<graphic mime-subtype="tiff" mimetype="image" xlink:href="{stem}.tif"/>'
        case "described":
            return described_graphic(name, files.get(name), article)
        case "pair":
            return paired_graphics(name, stem, files.get(name), article)
        case "trio":
            return (
                f'<alternatives><graphic xlink:href="{stem}.tif"/>'
                f'<graphic specific-use="scielo-web" xlink:href="{stem}.png"/>'
                f'<graphic specific-use="scielo-web" content-type="scielo-267x140" '
                f'xlink:href="{stem}.thumbnail.jpg"/></alternatives>'
            )
    return f'<graphic xlink:href="{stem}"/>'


def blob_path(name: str, digest: str, article: Article) -> str:
    return f"blobs/{digest[-4:]}/{article.pmcid.removeprefix('PMC')}/{digest[:12]}/{name}"


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, or None where it is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except UnidentifiedImageError:
        return None


def described_graphic(name: str, data: bytes | None, article: Article) -> str:
    facts = [("image-name", name)]
    if data is not None:
        digest = md5(data).hexdigest()
        facts += [
            ("image-size", str(len(data))),
            ("image-md5", digest),
            ("image-image-server-status", "LOAD_COMPLETED"),
        ]
        if size := picture_size(data):
            facts += [
                ("image-original-height", str(size[1])),
                ("image-original-width", str(size[0])),
            ]
        facts.append(("image-cloudpmc-urn", "urn:cdn:" + blob_path(name, digest, article)))
        facts.append(("thumb-name", re.sub(r"\.\w+$", ".gif", name)))
    notes = "".join(f"<?{key} {value}?>" for key, value in facts)
    return f'<graphic position="float" orientation="portrait" xlink:href="{name}">{notes}</graphic>'


def paired_graphics(name: str, stem: str, data: bytes | None, article: Article) -> str:
    notes = ""
    if data is not None:
        path = blob_path(name, md5(data).hexdigest(), article)
        notes = f"<?cloudpmc-path {path}?><?cloudpmc-bucket cdn?>"
        if size := picture_size(data):
            notes += f"<?original-height {size[1]}?><?original-width {size[0]}?>"
    return (
        f'<alternatives><graphic content-type="image" xlink:href="{name}">{notes}</graphic>'
        f'<graphic content-type="thumb" xlink:href="{stem}.gif"/></alternatives>'
    )


def front(article: Article, flavour: Flavour) -> str:
    meta = article_meta(article, flavour)
    return f"<front>{journal_meta(article)}<article-meta>{meta}</article-meta></front>"


def journal_meta(article: Article) -> str:
    journal = article.journal
    title = f"<journal-title>{journal.title}</journal-title>"
    if article.flavour != "nlm23":
        title = f"<journal-title-group>{title}</journal-title-group>"
    return (
        "<journal-meta><journal-id "
        f'journal-id-type="nlm-ta">{journal.abbreviation}</journal-id>{title}'
        f'<issn pub-type="epub">{journal.issn}</issn><publisher><publisher-name>{journal.publisher}'
        "</publisher-name></publisher></journal-meta>"
    )


def article_meta(article: Article, flavour: Flavour) -> str:
    parts = [
        article_ids(article, flavour),
        categories(article),
        f"<title-group><article-title>{markup.inline(article.title)}</article-title></title-group>",
        contributors(article),
        dates(article),
        f"<volume>{article.volume}</volume><issue>{article.issue}</issue>",
        f"<elocation-id>{article.page}</elocation-id>",
        permissions(article, flavour),
        related(article),
        f"<abstract>{markup.abstract(article.abstract)}</abstract>" if article.abstract else "",
        article.extra_front,
        keywords(article),
        funding(article),
        custom_meta(article),
    ]
    return "".join(parts)


def article_ids(article: Article, flavour: Flavour) -> str:
    number = article.pmcid.removeprefix("PMC")
    if flavour.numbered:
        ids = [
            ("pmcid", article.pmcid),
            ("pmcid-ver", article.name),
            ("pmcaid", number),
            ("pmcaiid", number),
        ]
    else:
        ids = [("pmc", number)]
    if article.pmid:
        ids.append(("pmid", str(article.pmid)))
    if article.manuscript_id:
        ids.append(("manuscript", article.manuscript_id))
    if article.doi:
        ids.append(("doi", article.doi))
    return "".join(f'<article-id pub-id-type="{kind}">{value}</article-id>' for kind, value in ids)


def categories(article: Article) -> str:
    subjects = "".join(f"<subject>{subject}</subject>" for subject in article.subjects)
    group = f'<subj-group subj-group-type="discipline">{subjects}</subj-group>' if subjects else ""
    return (
        '<article-categories><subj-group subj-group-type="heading">'
        f"<subject>{article.heading}</subject></subj-group>{group}</article-categories>"
    )


def contributors(article: Article) -> str:
    people = []
    for i, name in enumerate(n for n in article.authors.split("; ") if n):
        given, surname = name.rsplit(" ", 1)
        where = 1 + i % len(article.affiliations)
        people.append(
            f'<contrib contrib-type="author"><name><surname>{surname}</surname>'
            f'<given-names>{given}</given-names></name><xref ref-type="aff" rid="aff{where}">'
            f"<sup>{where}</sup></xref></contrib>"
        )
    places = "".join(
        f'<aff id="aff{i}"><label>{i}</label>{place}</aff>'
        for i, place in enumerate(article.affiliations, 1)
    )
    return f"<contrib-group>{''.join(people)}</contrib-group>{places}" if people else ""


def dates(article: Article) -> str:
    year, month, day = article.published
    whole = f"<day>{day}</day><month>{month}</month><year>{year}</year>"
    if article.flavour in ("jats13", "elife", "scielo"):
        return (
            f'<pub-date date-type="pub" publication-format="electronic">{whole}</pub-date>'
            f'<pub-date date-type="collection" publication-format="electronic"><year>{year}</year>'
            "</pub-date>"
        )
    return (
        f'<pub-date pub-type="collection"><year>{year}</year></pub-date>'
        f'<pub-date pub-type="epub">{whole}</pub-date>'
    )


def permissions(article: Article, flavour: Flavour) -> str:
    year = article.published[0]
    holder = "The authors of this invented article"
    start = f"<permissions><copyright-statement>© {year} {holder}</copyright-statement>"
    start += f"<copyright-year>{year}</copyright-year>"
    if article.licence is None:
        words = "Free to read at the publisher's site; other uses need the publisher's consent."
        return f"{start}<license><license-p>{words}</license-p></license></permissions>"
    if article.licence == "TDM":
        words = "Author manuscript, made available for text mining only."
        return f"{start}<license><license-p>{words}</license-p></license></permissions>"
    return start + licence(article.licence, flavour) + "</permissions>"


def licence(code: str, flavour: Flavour) -> str:
    url = CREATIVE_COMMONS + LICENCE_PATHS[code]
    words = f"Distributed under the terms of {code}; see {url}."
    if flavour.old:
        url = url.replace("https", "http").replace("4.0", "2.0")
        tag = "p" if flavour.citation == "citation" else "license-p"
        terms = f"<{tag}>{words}</{tag}>"
        return f'<license license-type="open-access" xlink:href="{url}">{terms}</license>'
    if flavour.numbered:
        kind = code.lower().replace(" ", "").replace("-", "") + "license"
        return (
            '<license><ali:license_ref xmlns:ali="http://www.niso.org/schemas/ali/1.0/" '
            f'specific-use="textmining" content-type="{kind}">{url}</ali:license_ref>'
            f"<license-p>{words}</license-p></license>"
        )
    link = f'<ext-link ext-link-type="uri" xlink:href="{url}">{url}</ext-link>'
    words = f"Distributed under the terms of {code} ({link})."
    return f'<license xlink:href="{url}"><license-p>{words}</license-p></license>'


def related(article: Article) -> str:
    if article.article_type != "correction":
        return ""
    return (
        '<related-article related-article-type="corrected-article" id="d1" ext-link-type="doi" '
        'xlink:href="10.5555/tour.2024.001"/>'
    )


def keywords(article: Article) -> str:
    words = "".join(f"<kwd>{markup.inline(word)}</kwd>" for word in article.keywords)
    return f'<kwd-group kwd-group-type="author">{words}</kwd-group>' if words else ""


def funding(article: Article) -> str:
    if not article.funding:
        return ""
    source, _, award = article.funding.partition(", grant ")
    number = f"<award-id>{award}</award-id>" if award else ""
    return (
        "<funding-group><award-group>"
        f"<funding-source>{source}</funding-source>{number}</award-group>"
        f"<funding-statement>This work was funded by {article.funding}.</funding-statement>"
        "</funding-group>"
    )


def custom_meta(article: Article) -> str:
    def yes(flag: bool) -> str:
        return "yes" if flag else "no"

    if article.flavour == "rendered":
        facts = [
            ("status", "released"),
            ("is-manuscript", yes(bool(article.manuscript_id))),
            ("is-scanned", yes(article.historical_ocr)),
            ("is-retracted", yes(article.retracted)),
        ]
    elif FLAVOURS[article.flavour].numbered:
        facts = [
            ("pmc-status-live", "yes"),
            ("pmc-prop-open-access", "yes"),
            ("pmc-prop-manuscript", yes(bool(article.manuscript_id))),
            ("pmc-prop-is-scanned-article", yes(article.historical_ocr)),
            ("pmc-license-ref", article.licence or ""),
        ]
    else:
        return ""
    inner = "".join(
        f"<custom-meta><meta-name>{name}</meta-name><meta-value>{value}</meta-value></custom-meta>"
        for name, value in facts
        if value
    )
    return f"<custom-meta-group>{inner}</custom-meta-group>"


def back(article: Article, flavour: Flavour) -> str:
    if not article.references:
        return ""
    rows = "".join(
        reference(f"R{i}", i, number, flavour.citation)
        for i, number in enumerate(article.references, 1)
    )
    thanks = "<ack><p>We thank nobody in particular, as none of this happened.</p></ack>"
    return f"<back>{thanks}<ref-list><title>References</title>{rows}</ref-list></back>"


def reference(key: str, label: int, number: int, tag: str) -> str:
    work = POOL[number]
    names = "".join(
        "<name><surname>{}</surname><given-names>{}</given-names></name>".format(
            *name.rsplit(" ", 1)
        )
        for name in work.authors.split("; ")
    )
    ids = "".join(
        f'<pub-id pub-id-type="{kind}">{value}</pub-id>'
        for kind, value in (("doi", work.doi), ("pmid", work.pmid))
        if value
    )
    kind = "citation-type" if tag == "citation" else "publication-type"
    return (
        f'<ref id="{key}"><label>{label}</label><{tag} {kind}="journal"><person-group '
        f'person-group-type="author">{names}</person-group> '
        f"<article-title>{work.title}</article-title> "
        f"<source>{work.source}</source> <year>{work.year}</year> <volume>{work.volume}</volume> "
        f"<fpage>{work.page}</fpage> {ids}</{tag}></ref>"
    )
