"""What holds of the parser for any input: captions keep their text, and bad bytes do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from biomedica.parse import NotAnArticleError, parse_article
from biomedica.records import Article
from golden_cases import parameters, read_input

KNOWN_FAULTS: dict[str, str] = {}
"""Inputs that the parser should bear and does not yet: name and fault."""

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
FIGURE = '<fig id="F1"><label>Figure 1</label><caption><p>{}</p></caption></fig>'


def article(body: str = "", meta: str = "", head: str = "") -> str:
    front = f"<front><article-meta>{meta}</article-meta></front>"
    return f"{head}<article {XLINK}>{front}<body>{body}</body></article>"


def check_spans(found: Article) -> None:
    for mention in (mention for figure in found.figures for mention in figure.mentions):
        assert mention.spans
        assert all(0 <= s.start <= s.end <= len(mention.text) for s in mention.spans)


# Captions: an element of a caption is drawn as a pair, its XML and its text.

LETTERS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=6)
BLANKS = st.sampled_from([" ", "  ", "\n", "\t\n  ", "\u00a0", "\u2009", "\u3000"])
WORDS = st.sampled_from(["growth", "of", "E. coli", "(A)", "p < 0.05", "R&D", "10 µm", "]]", "."])
TEXT = st.one_of(WORDS, BLANKS, LETTERS).map(lambda text: (escape(text, {">": "&gt;"}), text))
SILENT = st.sampled_from(["<!-- note -->", "<!---->", "<?page 3?>", "<?x <p>?>"])
INLINE = st.sampled_from(
    [
        ("italic", ""),
        ("bold", ""),
        ("sub", ""),
        ("sup", ""),
        ("sc", ""),
        ("underline", ""),
        ("named-content", ' content-type="gene"'),
        ("styled-content", ' style="color:red"'),
        ("ext-link", ' xlink:href="https://example.org"'),
        ("xref", ' ref-type="bibr" rid="B1 B2"'),
        ("xref", ' ref-type="fig" rid="F1"'),
        ("xref", ' ref-type="fig" rid="F2"'),
    ]
)
Pair = tuple[str, str]


def joined(parts: list[Pair]) -> Pair:
    return "".join(xml for xml, _ in parts), "".join(text for _, text in parts)


def wrapped(tag: Pair, inner: Pair) -> Pair:
    if tag[0] == "xref" and "<xref" in inner[0]:  # JATS has no link inside a link
        return inner
    if "fig" in tag[1] and not inner[1].strip():  # a golden case is about links without words
        inner = inner[0] + "here", inner[1] + "here"
    return f"<{tag[0]}{tag[1]}>{inner[0]}</{tag[0]}>", inner[1]


def inside(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.builds(wrapped, INLINE, st.lists(children, max_size=3).map(joined))


NODE = st.recursive(st.one_of(TEXT, SILENT.map(lambda xml: (xml, ""))), inside, max_leaves=8)
LINE = st.lists(NODE, max_size=8).map(joined)


def squeezed(text: str) -> str:
    return " ".join(text.split())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(title=st.none() | LINE, paragraphs=st.lists(LINE, max_size=3), gap=SILENT | BLANKS)
def test_caption_is_the_text_of_its_parts(
    title: Pair | None, paragraphs: list[Pair], gap: str
) -> None:
    gap = gap if gap.isascii() else ""
    parts = [f"<title>{title[0]}</title>"] if title else []
    parts += [f"<p>{xml}</p>" for xml, _ in paragraphs]
    caption = f"<caption>{gap.join(parts)}</caption>"
    other = '<fig id="F2"><label>Figure 2</label></fig>'
    body = f'<fig id="F1"><label>Figure 1</label>{gap}{caption}</fig>{other}'
    found = parse_article(article(body).encode())
    lines = [squeezed(text) for _, text in ([title] if title else []) + paragraphs]
    assert found.figures[0].caption == (" ".join(filter(None, lines)) or None)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=LINE, words=WORDS.filter(lambda text: "<" not in text and "&" not in text), after=LINE
)
def test_a_mention_is_the_paragraph_and_its_span_the_link(
    before: Pair, words: str, after: Pair
) -> None:
    link = f'<xref ref-type="fig" rid="F9">{words}</xref>'
    body = f'<p>{before[0]}{link}{after[0]}</p><fig id="F9"><label>Figure 9</label></fig>'
    found = parse_article(article(body).encode())
    check_spans(found)
    (mention,) = found.figures[0].mentions
    assert mention.text == squeezed(before[1] + words + after[1]) == found.body_text
    assert words in [mention.text[span.start : span.end] for span in mention.spans]


# Damage

SAMPLES = [read_input("whole-article-jats-1.4-archive"), read_input("mention-range-by-dash")]


def parse_or_refuse(data: bytes) -> None:
    try:
        found = parse_article(data)
    except (NotAnArticleError, etree.XMLSyntaxError):
        return
    check_spans(found)


@pytest.mark.parametrize("sample", SAMPLES, ids=["archive", "range"])
def test_a_file_cut_short_is_read_or_refused(sample: bytes) -> None:
    for end in range(0, len(sample), 7):
        parse_or_refuse(sample[:end])


@settings(max_examples=150, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    place=st.floats(0, 1),
    length=st.integers(0, 40),
    noise=st.binary(max_size=20) | st.sampled_from([b"<", b"&", b"</p>", b"<fig>", b'"', b"]]>"]),
)
def test_a_damaged_file_is_read_or_refused(
    sample: bytes, place: float, length: int, noise: bytes
) -> None:
    head = sample.index(b"<front")  # `root-with-an-undeclared-prefix` is about what stands before
    start = head + int(place * (len(sample) - head))
    parse_or_refuse(sample[:start] + noise + sample[start + length :])


MANY = "1" * 5000
ODD = {
    "nothing": b"",
    "blanks": b" \n ",
    "zero-bytes": bytes(100),
    "words": b"hello",
    "web-page": b"<!DOCTYPE html><html><body><p>Not found</p></body></html>",
    "no-front": b"<article/>",
    "root-with-an-undeclared-prefix": b"<x:note><x:p>Not found</x:p></x:note>",
    "article-in-another-namespace": b'<x:article xmlns:x="urn:x"><x:body/></x:article>',
    "digits-in-a-label": article(f'<fig id="F1"><label>Figure {MANY}</label></fig>').encode(),
    "digits-in-a-link": article(
        f'<p><xref rid="F1">Figs 1-{MANY}</xref></p>' + FIGURE.format("")
    ).encode(),
    "digits-in-words": article(f"<p>Fig {MANY}</p>" + FIGURE.format("")).encode(),
    "digits-in-a-pmid": article("", f'<article-id pub-id-type="pmid">{MANY}</article-id>').encode(),
    "digits-in-a-pmcid": article(
        "", f'<article-id pub-id-type="pmcid">PMC{MANY}</article-id>'
    ).encode(),
    "digits-in-a-day": article(
        "", f"<pub-date><day>{MANY[:20]}</day><month>5</month><year>2019</year></pub-date>"
    ).encode(),
    "year-zero": article("", "<pub-date><year>0000</year></pub-date>").encode(),
    "other-digits": article("", "<pub-date><day>²</day><year>٢٠١٩</year></pub-date>").encode(),
}
"""Inputs that need odd handling somewhere."""


@pytest.mark.parametrize("name", parameters(ODD, KNOWN_FAULTS))
def test_odd_input_is_read_or_refused(name: str) -> None:
    parse_or_refuse(ODD[name])


MARKED = article(FIGURE.format("a\ufdd099\ufdd1b\ufdd2c\ufdd3d\ufdd4e"))
MARKS = {
    "marks": MARKED.encode(),
    "marks-as-references": article(
        FIGURE.format("a&#xFDD0;99&#x00fdd1;b&#64978;c&#0064979;d&#xfdd4;e")
    ).encode(),
    "marks-in-utf-16": ('<?xml version="1.0" encoding="UTF-16"?>' + MARKED).encode("utf-16"),
}


@pytest.mark.parametrize("name", parameters(MARKS, KNOWN_FAULTS))
def test_characters_that_the_parser_uses_as_marks_are_left_out(name: str) -> None:
    assert parse_article(MARKS[name]).figures[0].caption == "a99bcde"


# Harm


def declared(entities: str, body: str = "", meta: str = "") -> bytes:
    head = f'<?xml version="1.0"?>\n<!DOCTYPE article [{entities}]>\n'
    return article(body, meta, head).encode()


LAUGHS = '<!ENTITY a0 "lolololololol">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
)
LARGE = f'<!ENTITY a "{"x" * 50_000}">'
PARAMETERS = '<!ENTITY % p0 "lolololololol">' + "".join(
    f'<!ENTITY % p{n} "{f"&#37;p{n - 1};" * 10}">' for n in range(1, 10)
)
BOMBS = {
    "laughs-in-text": declared(LAUGHS, "<p>&a9;</p>"),
    "laughs-in-a-caption": declared(LAUGHS, FIGURE.format("&a9;")),
    "laughs-in-an-attribute": declared(LAUGHS, '<fig id="&a9;"/>'),
    "laughs-in-a-default": declared(LAUGHS + '<!ATTLIST p x CDATA "&a9;">', "<p/><p/><p/>"),
    "laughs-in-the-dtd": declared(PARAMETERS + "%p9;", "<p>x</p>"),
    "large-entity-in-text": declared(LARGE, f"<p>{'&a;' * 20_000}</p>"),
    "large-entity-in-an-attribute": declared(LARGE, f'<fig id="{"&a;" * 2000}"/>'),
    "entity-in-itself": declared('<!ENTITY a "&b;"><!ENTITY b "&a;">', "<p>&a;</p>"),
    "depth": article("<italic>" * 200_000 + "x").encode(),
    "depth-of-figures": article('<fig id="F">' * 1000 + "</fig>" * 1000).encode(),
    "digits-in-a-link-without-a-range": article(
        f'<p><xref rid="F1">{"1" * 10_000}</xref></p>' + FIGURE.format("")
    ).encode(),
    "blanks-after-a-link": article(
        f'<p><xref rid="F1">1</xref>{" " * 100_000}x</p>' + FIGURE.format("")
    ).encode(),
    "words-of-a-list-without-end": article(
        f"<p>Figs 1{', 1' * 30_000} of [2]</p>" + FIGURE.format("")
    ).encode(),
    "tex-that-never-ends": article(
        "<p><tex-math>" + "\\begin{document}" * 5_000 + "</tex-math></p>"
    ).encode(),
}
"""Small inputs that may grow large or take long."""

SECONDS = 1.0
MEGABYTES = 100
CHILD = """
import json, resource, sys, time
from lxml import etree
from biomedica.parse import NotAnArticleError, parse_article
data = sys.stdin.buffer.read()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
try:
    text = repr(parse_article(data))
except (NotAnArticleError, etree.XMLSyntaxError) as error:
    text = str(error)
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "megabytes": peak() - before, "characters": len(text)}))
"""


@pytest.mark.parametrize("name", parameters(BOMBS, KNOWN_FAULTS))
def test_small_inputs_stay_small_and_end_soon(name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=BOMBS[name],
        capture_output=True,
        timeout=30,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    cost = json.loads(child.stdout)
    assert cost["seconds"] < SECONDS
    assert cost["megabytes"] < MEGABYTES
    assert cost["characters"] < 20 * len(BOMBS[name])


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!ENTITY leak 'SECRET-7f3a'>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    thread.join()
    server.server_close()


OUTSIDE = {
    "entity": ('<!DOCTYPE article [<!ENTITY leak SYSTEM "{}">]>', "&leak;"),
    "public-entity": ('<!DOCTYPE article [<!ENTITY leak PUBLIC "-//X//EN" "{}">]>', "&leak;"),
    "parameter-entity": ('<!DOCTYPE article [<!ENTITY % all SYSTEM "{}"> %all;]>', "&leak;"),
    "dtd": ('<!DOCTYPE article SYSTEM "{}">', "&leak;"),
    "public-dtd": ('<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.2//EN" "{}">', "&leak;"),
    "include": (
        "",
        '<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="{}" parse="text"/>',
    ),
    "stylesheet": ('<?xml-stylesheet href="{}"?>', "x"),
}


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_nothing_outside_the_file_is_read(
    name: str, tmp_path: Path, asked: tuple[str, list[str]]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET-7f3a", "utf-8")
    dtd = tmp_path / "leak.dtd"
    dtd.write_text("<!ENTITY leak 'SECRET-7f3a'>", "utf-8")
    address, paths = asked
    head, body = OUTSIDE[name]
    for place in (secret.as_uri(), str(secret), dtd.as_uri(), str(dtd), f"{address}/x.dtd"):
        data = article(
            f"<p>{body.format(place)}</p>" + FIGURE.format(body.format(place)),
            f"<title-group><article-title>{body.format(place)}</article-title></title-group>",
            head.format(place),
        ).encode()
        try:
            found = repr(parse_article(data))
        except (NotAnArticleError, etree.XMLSyntaxError) as error:
            found = str(error)
        assert "SECRET" not in found
    assert paths == []
