"""Real labelled images with a real encoder: clusters are pure, neighbours agree, later images join."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.cluster import ClusterSettings, cluster
from biomedica.config import load_settings
from biomedica.duplicates import find_duplicates
from biomedica.embed import embed
from biomedica.features import the_set
from biomedica.flow import build_archive
from biomedica.run.engines import open_engine
from biomedica.sheets import write_sheets

ROOT = Path(__file__).parent.parent
CORPUS = ROOT.parent / "shared" / "corpus"
sys.path.insert(0, str(ROOT / "bench"))

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS} is not here"),
]


def make_source(out: Path, per_set: int) -> None:
    script = ROOT / "bench" / "labelled_source.py"
    command = [sys.executable, script, CORPUS, out, "--per-set", str(per_set)]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def test_modalities(tmp_path: Path) -> None:
    """Five kinds of image: clusters of one kind, and a second build whose images join them."""
    from modalities import measure

    settings = load_settings(None, ["shards.samples=60"])
    archive = Archive(tmp_path / "archive")
    encoder = f"onnx:{CORPUS / 'models' / 'dinov2_vits14.onnx'}"

    def grow(per_set: int) -> None:
        source = tmp_path / "source"
        make_source(source, per_set)
        build_archive(str(source), archive.root, Selection(), settings, engine="local", workers=2)
        embed(archive, encoder, settings.embed, settings.run, open_engine("inline", 1, None))

    grow(36)
    small = ClusterSettings(clusters=25)
    features = the_set(archive, None)
    first = cluster(archive, features, small)
    assert first.num_images == 180
    found = measure(archive, None, 10)
    assert found["purity_mean"] >= 0.95
    assert found["knn_set"] >= 0.95
    grow(40)
    second = cluster(archive, features, small)
    assert not second.trained
    assert second.drift["num_later"] > 0
    assert second.drift["divergence"] < 0.5
    assert find_duplicates(archive, settings.duplicates, features).num_groups <= 3
    assert write_sheets(archive, "default").exists()
