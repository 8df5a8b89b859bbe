"""Lists of keys that a recipe leaves out: plain text, one key a line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedica.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """The keys of all lists of a recipe."""

    keys: pa.Array
    """Each once, sorted."""
    files: tuple[dict[str, Any], ...]
    """Of each list: `path`, `sha256` of its bytes, number of `keys`."""

    def among(self, keys: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
        """(N,) True for keys that a list holds."""
        found = pc.is_in(keys, self.keys)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


def read_excluded(paths: Sequence[Path]) -> Excluded:
    """The lists of these files; empty lines and spaces around keys mean nothing.

    Raises `ConfigError` where one cannot be read, or a line holds more than a key.
    """
    keys: set[str] = set()
    files = []
    for path in paths:
        try:
            content = path.read_bytes()
            lines = [line.strip() for line in content.decode("utf-8").splitlines()]
        except OSError as error:
            raise ConfigError(f"exclude: {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"exclude: {path} is not UTF-8: {error}") from None
        own = {line for line in lines if line}
        odd = sorted(key for key in own if len(key.split()) > 1)
        if odd:
            raise ConfigError(f"exclude: {path}: {odd[0][:80]!r} is no key; one a line is expected")
        keys |= own
        digest = hashlib.sha256(content).hexdigest()
        files.append({"path": str(path), "sha256": digest, "keys": len(own)})
    return Excluded(keys=pa.array(sorted(keys), pa.string()), files=tuple(files))
