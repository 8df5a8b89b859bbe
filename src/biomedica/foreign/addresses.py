"""The words of the command to tars: brace ranges, folders, patterns, buckets; and a name for each."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from biomedica.errors import ConfigError, SourceError
from biomedica.foreign.requests import shown
from biomedica.foreign.streams import list_bucket
from biomedica.sources import SourceSettings

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000
"""Addresses that one word may stand for."""
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
_NUMBERED = re.compile(r".+-\d+")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 100


def expand(words: Sequence[str], settings: SourceSettings) -> list[str]:
    """Addresses of the tars that words stand for, in their order, each once; files by their full path.

    A word is a file, a folder (every `.tar` below it), a pattern as in a shell, an http(s):// address, or
    `s3://bucket/key` (with a slash at the end: every `.tar` below it); each may have braces, `{a,b}` or
    `{000..123}`. Raises `ConfigError` for an address that may hold a secret, `SourceError` where there is
    no tar.
    """
    found: dict[str, None] = {}
    for word in words:
        for each in [word] if Path(word).exists() else braces(word):
            urls = _tars(each, settings)
            if not urls:
                raise SourceError(f"{shown(each)} holds no .tar")
            found.update(dict.fromkeys(urls))
    return list(found)


def braces(word: str) -> list[str]:
    """What the braces of a word stand for.

    >>> braces("s{08..10}-{a,b}.tar")
    ['s08-a.tar', 's08-b.tar', 's09-a.tar', 's09-b.tar', 's10-a.tar', 's10-b.tar']
    """
    parts = _BRACES.split(word)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise ConfigError(f"{shown(word)}: a brace is not closed, or stands in another one")
    choices = [[part] if at % 2 == 0 else _choices(word, part) for at, part in enumerate(parts)]
    number = 1
    for each in choices:
        number *= len(each)
    if number > _MOST:
        raise ConfigError(f"{shown(word)} stands for {number:,} addresses; {_MOST:,} at the most")
    return ["".join(each) for each in itertools.product(*choices)]


def _choices(word: str, inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        if "," in inside:
            return inside.split(",")
        raise ConfigError(f"{{{inside}}} in {shown(word)}: {{000..123}} or {{a,b}} is expected")
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MOST:
        raise ConfigError(
            f"{{{inside}}} in {shown(word)}: from the lower to the higher is expected"
        )
    width = len(match[1]) if match[1].startswith("0") or len(match[1]) == len(match[2]) else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _tars(word: str, settings: SourceSettings) -> list[str]:
    scheme = urlsplit(word).scheme
    if scheme in ("http", "https"):
        return [_checked(word)]
    if scheme == "s3":
        folder = word.endswith("/") or not urlsplit(word).path
        return list_bucket(word, settings) if folder else [word]
    if scheme == "file":
        word = unquote(urlsplit(word).path)
    elif "://" in word:
        raise ConfigError(f"{shown(word)}: a path, http(s):// or s3:// is expected")
    return _files(word)


def _checked(url: str) -> str:
    """Raise `ConfigError` for an address that could not be written down, or is none of a tar."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{shown(url)}: an address with a password would be written to places.json; for a hub, "
            "set HF_TOKEN"
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{shown(url)}: an address with a query (?) may be signed, and would be written to places.json; "
            "give the plain address (for a hub, with HF_TOKEN)"
        )
    if not parts.hostname or parts.path.endswith("/") or not parts.path:
        raise ConfigError(
            f"{shown(url)}: the address of a tar is expected, or of several: …/{{000000..000123}}.tar"
        )
    _check_plain(parts.path)
    return url


def _check_plain(path: str) -> None:
    if path.endswith(_PACKED):
        raise ConfigError(f"{path} is compressed by its name; a plain .tar is expected")


def _files(word: str) -> list[str]:
    path = Path(word)
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*.tar") if each.is_file())
    elif path.is_file():
        _check_plain(word)
        paths = [path]
    else:
        paths = [Path(each) for each in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207
        paths = [each for each in paths if each.suffix == ".tar" and each.is_file()]
        if not paths:
            raise SourceError(f"{word}: there is no such file, and no .tar of that pattern")
    return [str(each.absolute()) for each in paths]


def new_names(urls: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """(url: name of its shard) for tars that have none yet, in their order.

    `commercial/000012.tar` is `commercial-000012`; a name with a number behind a dash stays, `x-0001.tar` is
    `x-0001`. Where that is taken, folders go before it. The part before the last dash is the group.
    """
    used, found = set(taken), {}
    for url in urls:
        found[url] = next(name for name in _candidates(url) if name not in used)
        used.add(found[url])
    return found


def _candidates(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    path = PurePosixPath(unquote(parts.path) if parts.scheme else url)
    words = [_ODD.sub("_", word).strip("_") or "x" for word in (*path.parts[:-1], path.stem)]
    words = [word for word in words if word != "x"] or ["x"]
    name = words[-1]
    if not _NUMBERED.fullmatch(name):
        name = f"{words[-2] if len(words) > 1 else 'shards'}-{name}"
        words = words[:-1] if len(words) > 1 else words
    yield name[-_LONGEST_NAME:].lstrip("-")
    for word in words[-2::-1]:
        name = f"{word}-{name}"
        yield name[-_LONGEST_NAME:].lstrip("-")
    group, _, number = name[-_LONGEST_NAME:].lstrip("-").rpartition("-")
    for count in itertools.count(2):
        yield f"{group}_{count}-{number}"
