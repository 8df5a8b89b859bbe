"""The takedown list: what people asked to have removed, one a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from biomedica.errors import ConfigError

_PMCID = re.compile(r"PMC[1-9][0-9]*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_KEY = re.compile(r"PMC[1-9][0-9]*-[0-9]+-[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Takedown:
    """Articles, samples and picture bytes that may not be given to anyone."""

    pmcids: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    """As `of_any_version` gives them: a request holds for later versions of the figure too."""
    digests: frozenset[str] = frozenset()
    """SHA-256 of JPEGs, in hex: the same picture under any key."""

    def covers(self, pmcid: str, key: str, sha256: str) -> bool:
        """Whether a sample must go."""
        return pmcid in self.pmcids or of_any_version(key) in self.keys or sha256 in self.digests


def of_any_version(key: str) -> str:
    """A key without the article's version and in small letters.

    >>> of_any_version("PMC12-3-Fig1")
    'pmc12-fig1'
    """
    article, _, rest = key.partition("-")
    return f"{article}-{rest.partition('-')[2]}".lower()


def read_takedown(path: Path | None) -> Takedown:
    """The list in a file: PMC ids, keys or SHA-256 digests, one a line, `#` starts a comment.

    Raises `ConfigError` at a line that is none of these: a request must not be lost to a typing error.
    """
    if path is None:
        return Takedown()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a takedown list: {error}") from None
    found: dict[str, set[str]] = {"pmcids": set(), "keys": set(), "digests": set()}
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        word = f"PMC{word[3:]}" if word[:3].lower() == "pmc" else word
        if not word:
            continue
        if _PMCID.fullmatch(word):
            found["pmcids"].add(word)
        elif _SHA256.fullmatch(word):
            found["digests"].add(word.lower())
        elif _KEY.fullmatch(word):
            found["keys"].add(of_any_version(word))
        else:
            raise ConfigError(
                f"{path}, line {number}: {word[:80]!r} is no PMC id (PMC123), key of a sample or "
                "SHA-256 (64 hex digits)"
            )
    return Takedown(**{name: frozenset(words) for name, words in found.items()})
