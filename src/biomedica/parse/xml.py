"""Bytes to the one `article` element, whatever flavour of JATS they are, with nothing fetched.

What is made uniform here, so that the rest of `parse` need not know of it: namespaces (OAI-PMH
records carry a default one), entity references that no DTD defines, comments and processing
instructions, and wrappers (`pmc-articleset`, OAI records).
"""

from __future__ import annotations

import html
import re
from functools import cache

from lxml import etree

MATHML = "{http://www.w3.org/1998/Math/MathML}"

OPEN, INDEX, CLOSE, BREAK, TITLE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
START, END = "\ufdd5", "\ufdd6"
"""Marks that `mentions` and `text` put into the tree. They are Unicode noncharacters, which no text
may exchange; should an input hold one it is taken out first."""

_ODD = re.compile(rb"&(?:#[xX]0*[fF][dD]|#0*649|(?!#|amp;|lt;|gt;|quot;|apos;))")
"""An entity by name, or a mark written as a number."""
_MARK_BYTES = b"\xef\xb7"
"""How the marks begin in UTF-8."""
_MARKS = re.compile("[\ufdd0-\ufdef]")
_GIVEN_UP = (etree.ErrorTypes.ERR_RESOURCE_LIMIT, etree.ErrorTypes.ERR_NO_MEMORY)
"""After these recovery leaves out the rest of a document in silence."""
_TEX_BODY = ("\\begin{document}", "\\end{document}")
_LOOSE = re.compile(rb"&(?!#\w+;|(?:amp|lt|gt|quot|apos);)(\w+;)?")


class NotAnArticleError(ValueError):
    """The bytes are XML, but not one JATS article that can be read without looking elsewhere."""


@cache
def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=recover,  # at first libxml2's limits hold, against bombs in attributes
        remove_comments=True,
        remove_pis=True,
        recover=recover,
    )


def read_article(data: bytes) -> etree._Element:
    """The `article` element of a file, ready to be read (and taken apart) by the other modules.

    Markup that is broken is read a second time with recovery. Raises `NotAnArticleError`, or
    `etree.XMLSyntaxError` where even recovery finds no tree, where it is nested past libxml2's limit, or
    where it declares entities of its own and needs them. No DTD, entity or address is read.
    """
    data = data.lstrip()
    is_wide = b"\0" in data[:64]  # UTF-16 or UTF-32
    try:
        root = etree.fromstring(data, _parser(recover=False))
    except etree.XMLSyntaxError:
        if b"<!ENTITY" in data or is_wide:
            raise
        parser = _parser(recover=True)
        root = etree.fromstring(_LOOSE.sub(_as_number, data), parser)
        if root is None or any(entry.type in _GIVEN_UP for entry in parser.error_log):
            raise
    article = _only_article(root)
    if is_wide or _ODD.search(data) or (not data.isascii() and _MARK_BYTES in data):
        _resolve_entities(article)
        _drop_marks(article)
    return article


def _as_number(match: re.Match[bytes]) -> bytes:
    """A reference by name as one by number, a bare ampersand as what it means: libxml2's recovery
    loses every `&` after the first one that it cannot read."""
    name = match[1].decode("ascii", "replace") if match[1] else ""
    text = html.unescape(f"&{name}")
    if not name or text == f"&{name}":
        return b"&#38;" + (match[1] or b"")
    return "".join(f"&#{ord(character)};" for character in text).encode()


def _only_article(root: etree._Element) -> etree._Element:
    if root.tag == "article":
        return root
    found = [e for e in root.iter("{*}article") if _not_nested(e)]
    if len(found) != 1:
        name = str(root.tag).rsplit("}")[-1]
        raise NotAnArticleError(f"<{name}> holds {len(found)} articles; one is expected")
    article = found[0]
    if article.tag != "article":
        namespace = article.tag[: -len("article")]
        for element in article.iter(f"{namespace}*"):
            element.tag = element.tag[len(namespace) :]
    return article


def _not_nested(article: etree._Element) -> bool:
    return next(article.iterancestors("{*}article"), None) is None


def _resolve_entities(article: etree._Element) -> None:
    """Put the character (HTML's names, which include all of ISO's that JATS uses) for `&name;`."""
    for entity in list(article.iter(etree.Entity)):
        text = html.unescape(entity.text)
        if text == entity.text:
            raise NotAnArticleError(f"the entity {entity.text[:40]} has no meaning here")
        replace_by_text(entity, text)


def _drop_marks(article: etree._Element) -> None:
    for element in article.iter(etree.Element):
        if element.text:
            element.text = _MARKS.sub("", element.text)
        if element.tail:
            element.tail = _MARKS.sub("", element.tail)


def replace_by_text(element: etree._Element, text: str) -> None:
    """Take `element` out of its parent, leaving `text` and what followed it."""
    parent = element.getparent()
    if parent is None:
        return
    text += element.tail or ""
    previous = element.getprevious()
    parent.remove(element)
    if previous is not None:
        previous.tail = (previous.tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def flatten_formulas(formulas: list[etree._Element]) -> None:
    """Leave each formula once: the tokens of its MathML, else its TeX without the preamble.

    formulas   `math` and `tex-math` elements in document order
    """
    holders = set()
    for math in formulas:
        if math.tag == "tex-math":
            continue
        for annotation in list(math.iter(f"{MATHML}annotation", f"{MATHML}annotation-xml")):
            replace_by_text(annotation, "")
        tokens = "".join(" ".join(token.split()) for token in math.itertext())
        math.clear(keep_tail=True)
        math.text = tokens
        holders.add(math.getparent())
    for tex in formulas:
        if tex.tag != "tex-math":
            continue
        source = "" if tex.getparent() in holders else "".join(tex.itertext())
        start, end = _TEX_BODY
        body = source.partition(start)[2].partition(end)[0] if start in source else source
        tex.clear(keep_tail=True)
        tex.text = body.strip().strip("$").strip()
