"""The whole way on real articles, where the corpus stands beside the project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.doctor import examine
from biomedica.flow import build_archive
from biomedica.shards import tables

ROOT = Path(__file__).parent.parent
BUCKET = Path(os.environ.get("BIOMEDICA_CORPUS", ROOT.parent / "shared" / "corpus")) / "bucket"
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not BUCKET.is_dir(), reason=f"no real articles: {BUCKET} is not there"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the articles with the pictures that are really there."""
    out = tmp_path_factory.mktemp("corpus") / "archive"
    build_archive(str(BUCKET), out, Selection(), load_settings(), workers=2)
    return out


def test_every_article_is_accounted_for(archive: Path) -> None:
    """Each of the listed versions has an article's row; nothing was rejected that the source holds."""
    rows = [row for path in tables(archive, "articles") for row in _rows(path, "pmcid", "version")]
    listed = sum(1 for _ in BUCKET.glob("metadata/*.json"))
    assert len(rows) == len({tuple(row.values()) for row in rows}) == listed
    reasons = {
        r["reason"] for p in (archive / "rejects").glob("*.parquet") for r in _rows(p, "reason")
    }
    assert reasons <= {"media_missing", "no_caption", "no_graphic"}


def _rows(path: Path, *columns: str) -> list[dict[str, object]]:
    return list(pq.read_table(path, columns=list(columns)).to_pylist())


def test_archive_is_whole(archive: Path) -> None:
    """Every promise of the layout holds, every picture decodes."""
    assert examine(Archive(archive), decode=True).is_whole


def test_accuracy(tmp_path: Path) -> None:
    """Figures, graphics, captions and mentions against an independent count, with a small picture in
    place of every one that is not there: the bars are in the script, which fails below them."""
    run("bench/standin.py", BUCKET, tmp_path / "bucket")
    archive = tmp_path / "archive"
    build_archive(str(tmp_path / "bucket"), archive, Selection(), load_settings(), workers=2)
    words = [archive, tmp_path / "bucket", "--date", "2000-01-01", "--out", tmp_path / "a.md"]
    run("bench/accuracy.py", *words, "--json", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_bytes())


def run(*words: str | Path) -> None:
    """Run one of the project's scripts."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
