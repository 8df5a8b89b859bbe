"""Names as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The different names in order, and the index of each name among them.

    As numpy's unique, but of memory that does not grow with the longest name times their number.

    >>> numbered(["b", "a", "b"])
    (['a', 'b'], array([1, 0, 1]))
    """
    different = sorted(set(names))
    index = {name: i for i, name in enumerate(different)}
    return different, np.fromiter((index[name] for name in names), np.int64, len(names))
