"""JATS by hand with a few marks: `*italic*`, `**bold**`, `x^{2}`, `x_{i}`, `[F1|Fig. 1]`, `[R1]`.

Tags and entities pass through as they are. In a body, `# ` opens a section, `## ` one inside it,
a blank line ends a paragraph, and `{F1}` alone on a line places a figure.
"""

import re

MARKS = (
    (r"\*\*([^*]+)\*\*", r"<bold>\1</bold>"),
    (r"\*([^*]+)\*", r"<italic>\1</italic>"),
    (r"\^\{([^}]*)\}", r"<sup>\1</sup>"),
    (r"_\{([^}]*)\}", r"<sub>\1</sub>"),
    (r"\[([TFSC][\w -]*)\|([^\]]*)\]", r'<xref ref-type="fig" rid="\1">\2</xref>'),
    (r"\[R(\d+)\]", r'[<xref ref-type="bibr" rid="R\1">\1</xref>]'),
)
KEPT = re.compile(
    r"(<inline-formula>.*?</inline-formula>|<disp-formula.*?</disp-formula>)", re.DOTALL
)


def inline(text: str) -> str:
    """Inline marks as JATS; formulas are left alone, white space is made single."""
    parts = KEPT.split(" ".join(text.split()))
    for i in range(0, len(parts), 2):
        for pattern, replacement in MARKS:
            parts[i] = re.sub(pattern, replacement, parts[i])
    return "".join(parts).replace('ref-type="fig" rid="T', 'ref-type="table" rid="T')


def blocks(text: str) -> list[str]:
    return [block.strip() for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]


def paragraphs(text: str) -> str:
    return "".join(f"<p>{inline(block)}</p>" for block in blocks(text))


def abstract(text: str) -> str:
    """Paragraphs, or sections where they begin with "Word: "."""
    out = []
    for block in blocks(text):
        label = re.match(r"([A-Z]\w+): ", block)
        if label:
            rest = inline(block[label.end() :])
            out.append(f"<sec><title>{label[1]}</title><p>{rest}</p></sec>")
        else:
            out.append(f"<p>{inline(block)}</p>")
    return "".join(out)


def caption(text: str) -> str:
    """`Title || text || text` as a caption element; without bars, one paragraph."""
    parts = [inline(part) for part in text.split("||")]
    if len(parts) == 1:
        return f"<caption><p>{parts[0]}</p></caption>"
    rest = "".join(f"<p>{part}</p>" for part in parts[1:] if part)
    return f"<caption><title>{parts[0]}</title>{rest}</caption>"


def body(text: str, placed: dict[str, str]) -> str:
    """Sections with paragraphs, and figures where they are named."""
    out: list[str] = []
    depth = 0
    for block in blocks(text):
        heading = re.match(r"(#+) (.*)", block)
        if heading:
            level = len(heading[1])
            out.append("</sec>" * max(0, depth - level + 1))
            out.append(f'<sec id="sec{len(out)}"><title>{inline(heading[2])}</title>')
            depth = level
        elif re.fullmatch(r"\{[\w.-]+\}", block):
            out.append(placed[block[1:-1]])
        elif block.startswith("<") and not block.startswith(("<italic", "<xref", "<inline")):
            out.append(" ".join(block.split()))
        else:
            out.append(f"<p>{inline(block)}</p>")
    return "".join(out) + "</sec>" * depth
