"""SHA256SUMS: written once all files stand, checked before they leave the machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from biomedica.errors import ArchiveError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\\]+)")


def sums_text(digests: Mapping[str, str]) -> bytes:
    """Content of the file: a digest and a path a line, sorted by path, as `sha256sum -c` reads it."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """Digest of every file by its path. Raises `ArchiveError` where there is no such list."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except OSError as error:
        raise ArchiveError(
            f"{folder} has no {SUMS} ({error.strerror}); `biomedica export` writes a complete folder"
        ) from None
    found = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2].startswith("/") or ".." in match[2].split("/"):
            raise ArchiveError(f"{folder / SUMS} has the line {line[:80]!r}; it is damaged")
        found[match[2]] = match[1]
    return found


def check_sums(
    folder: Path, on_file: Callable[[str, int], None] = lambda path, size: None
) -> dict[str, str]:
    """Read every file and compare; the digests by path. Raises `ArchiveError` at what differs.

    on_file   gets the path and the bytes of each file after it was checked
    """
    digests = read_sums(folder)
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / SUMS
    }
    for difference, words in (
        (digests.keys() - present, "is missing"),
        (present - digests.keys(), "is not listed"),
    ):
        if difference:
            raise ArchiveError(
                f"{folder}: {min(difference)} {words}, by {SUMS}; export again, or mend the folder"
            )
    for path, digest in sorted(digests.items()):
        with (folder / path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ArchiveError(
                f"{folder / path} does not have the digest in {SUMS}: it was changed or damaged; "
                "export again"
            )
        on_file(path, (folder / path).stat().st_size)
    return digests
