"""What the tests share: no way out of this machine, the sample corpus, a small bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import biomedica
from small_bucket import SmallArticle, write_bucket

_TOUR = Path(biomedica.__file__).parent / "data" / "tour"
_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session", autouse=True)
def no_way_out() -> Iterator[None]:
    """Send every request that is not to this machine to a port that nobody listens on.

    Holds for child processes and for clients that are not written in Python too.
    """
    ours = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE)
    ours |= {"NO_PROXY": "127.0.0.1,localhost", "AWS_EC2_METADATA_DISABLED": "true"}
    ours |= {name.lower(): value for name, value in ours.items() if name.endswith("PROXY")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ours.items():
            patch.setenv(name, value)
        for name in [n for n in os.environ if n.startswith(("AWS_ACCESS", "AWS_SECRET", "NCBI_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def tour_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus in the bucket's layout; a plain one where that was not made yet."""
    if (_TOUR / "metadata").is_dir():
        return _TOUR
    folder = tmp_path_factory.mktemp("tour")
    licences = ("CC BY", "CC BY-NC", None)
    write_bucket(
        folder,
        [
            SmallArticle(number=99900001 + i, pictures=1 + i % 3, licence=licences[i % 3])
            for i in range(24)
        ],
    )
    return folder
