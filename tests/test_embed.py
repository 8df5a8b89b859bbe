"""Encoders, and feature files of an archive: resumed, linked to their tables, honest about bad pictures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from biomedica.archive import Archive
from biomedica.embed import Embedded, EmbedSettings, embed, waiting
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet, figures_path, the_set
from biomedica.models import Preprocessing, open_encoder, short_name
from biomedica.run import RunSettings
from biomedica.run.engines import open_engine
from feature_archives import small_archive
from samples import archive_bytes, encoded, jpeg, picture

DINO = Path(__file__).parents[2] / "shared" / "corpus" / "models" / "dinov2_vits14.onnx"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return small_archive(tmp_path, 20)


def run(
    archive: Archive, encoder: str = "tiny", engine: str = "inline", **more: object
) -> Embedded:
    """Embed with one worker."""
    settings = EmbedSettings(batch=4)
    return embed(archive, encoder, settings, RunSettings(), open_engine(engine, 1, None), **more)  # type: ignore[arg-type]


def test_rows_follow_the_figures_file(archive: Archive) -> None:
    """Row i is picture i, of length 1, whichever batch it was in."""
    found = run(archive)
    assert (found.num_shards, found.num_embedded, found.num_rows, found.num_bad) == (2, 2, 40, 0)
    features = the_set(archive, None)
    model = open_encoder("tiny")
    for shard in features.shards():
        rows = pq.read_table(figures_path(archive, shard)).to_pylist()
        matrix = features.read(shard)
        tar = (archive.root / "shards" / "commercial" / f"{shard}.tar").read_bytes()
        for row, vector in zip(rows, matrix, strict=True):
            data = tar[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]]
            alone = model.images(model.preprocessing.pixels(data)[None])[0]
            np.testing.assert_allclose(vector, alone, atol=1e-3)
            assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=2e-3)


def test_what_stands_is_left_alone(archive: Archive) -> None:
    """A second call does nothing; a lost, a cut and a replaced file are made anew."""
    run(archive)
    before = archive_bytes(archive.root / "features")
    assert run(archive).num_embedded == 0
    assert waiting(archive, "tiny", None, False).num_waiting == 0
    (archive.root / "features" / "tiny" / "commercial-000000.npy").unlink()
    (archive.root / "features" / "tiny" / "commercial-000001.json").write_text("{")
    with pytest.raises(ArchiveError, match="lack 2 of 2 shards"):
        the_set(archive, "tiny").shards()
    assert waiting(archive, "tiny", None, False).num_rows == 40
    assert run(archive, limit=1).num_embedded == 1
    assert run(archive).num_embedded == 1
    assert archive_bytes(archive.root / "features") == before


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_engines_agree(archive: Archive, engine: str) -> None:
    """Worker processes and Ray's actors make the bytes that this process makes."""
    if engine == "ray":
        pytest.importorskip("ray")
    run(archive)
    before = archive_bytes(archive.root / "features")
    for path in (archive.root / "features" / "tiny").glob("commercial*"):
        path.unlink()
    settings = EmbedSettings(batch=4)
    worker = open_engine(engine, 1, None, 0.0 if engine == "ray" else None)
    assert embed(archive, "tiny", settings, RunSettings(), worker).num_embedded == 2
    assert archive_bytes(archive.root / "features") == before


def test_other_weights_need_another_name(archive: Archive) -> None:
    run(archive)
    with pytest.raises(ConfigError, match="choose another --name"):
        embed(
            archive,
            "tiny",
            EmbedSettings(fit="crop"),
            RunSettings(),
            open_engine("inline", 1, None),
        )
    with pytest.raises(ConfigError, match="pictures only"):
        run(archive, text=True)


def test_a_picture_that_does_not_decode_is_nan(archive: Archive) -> None:
    """Its row is NaN and noted; the others have their vectors."""
    shard = "commercial-000000"
    row = pq.read_table(figures_path(archive, shard)).to_pylist()[2]
    tar = archive.root / "shards" / "commercial" / f"{shard}.tar"
    with tar.open("r+b") as file:
        file.seek(row["jpg_offset"])
        file.write(bytes(row["jpg_size"]))
    assert run(archive).num_bad == 1
    features = the_set(archive, None)
    matrix = features.read(shard)
    assert np.isnan(matrix[2]).all()
    assert np.isfinite(np.delete(matrix, 2, axis=0)).all()
    noted = features.sidecar(shard)
    assert noted is not None
    assert noted.bad == (2,)


def test_a_disk_that_fails_is_no_bad_picture(archive: Archive) -> None:
    """A tar that ends too early or is not there stops the run: no row of NaN is noted as done."""
    tar = archive.root / "shards" / "commercial" / "commercial-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveError, match="ends before byte"):
        run(archive)
    tar.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        run(archive)
    tar.write_bytes(whole)
    assert run(archive).num_bad == 0
    assert all(the_set(archive, None).states().values())


def test_names_are_no_paths(archive: Archive) -> None:
    for name in ("../out", "a/b", "", ".hidden", "x" * 80):
        with pytest.raises(ConfigError, match="no name for a feature set"):
            run(archive, name=name)


def test_actors_that_do_not_fit_are_not_waited_for(archive: Archive) -> None:
    """More workers than CPUs: as many actors as there is room for."""
    pytest.importorskip("ray")
    worker = open_engine("ray", 64, None, 0.0)
    assert embed(archive, "tiny", EmbedSettings(), RunSettings(), worker).num_embedded == 2


def test_a_rewritten_shard_is_embedded_again(archive: Archive) -> None:
    """Features belong to a figures file by its digest: after a compaction they are stale."""
    from biomedica.compact import compact

    run(archive)
    row = pq.read_table(figures_path(archive, "commercial-000000")).to_pylist()[0]
    about = {name: row[name] for name in ("key", "shard", "pmcid", "version")}
    archive.set_tombstones([about | {"reason": "withdrawn", "since": None}])
    compact(archive)
    assert [*the_set(archive, "tiny").states().values()] == [False, True]
    assert run(archive).num_rows == 19


@pytest.mark.slow
def test_killed_it_goes_on(archive: Archive) -> None:
    """SIGKILL between and within shards: nothing half-written counts, the rest is kept."""
    run(archive)
    whole = archive_bytes(archive.root / "features")
    program = (
        "import sys, time; from pathlib import Path; from biomedica.archive import Archive\n"
        "from biomedica import models; from biomedica.embed import *; from biomedica.run import *\n"
        "from biomedica.run.engines import open_engine\n"
        "slow = models.TinyEncoder.images\n"
        "models.TinyEncoder.images = lambda self, x: (time.sleep(0.02), slow(self, x))[1]\n"
        "embed(Archive(Path(sys.argv[1])), 'tiny', EmbedSettings(batch=4), RunSettings(),\n"
        "      open_engine('inline', 1, None))\n"
    )
    for delay in (0.3, 0.5, 0.7, 0.9):
        for path in (archive.root / "features" / "tiny").glob("commercial*"):
            path.unlink()
        child = subprocess.Popen([sys.executable, "-c", program, str(archive.root)])
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        run(archive)
        found = archive_bytes(archive.root / "features")
        assert {n: d for n, d in found.items() if not Path(n).name.startswith(".")} == whole


def test_aspect_is_kept() -> None:
    """`pad` shows the whole picture between white bars; `crop` fills the square with its middle."""
    wide = encoded(picture(1, 200, 50), "JPEG", quality=95)
    padded = Preprocessing(size=64, fit="pad").pixels(wide)
    assert (padded[:20] == 255).all() and (padded[-20:] == 255).all()
    assert not (padded[28:36] == 255).all()
    cropped = Preprocessing(size=64, fit="crop").pixels(wide)
    assert not (cropped[:20] == 255).all()
    tall = Preprocessing(size=64, fit="pad").pixels(encoded(picture(1, 50, 200), "JPEG"))
    assert (tall[:, :20] == 255).all()
    with pytest.raises(OSError):
        Preprocessing(size=64, fit="pad").pixels(b"no picture")


def test_names() -> None:
    assert short_name("timm:vit_large_patch14_reg4_dinov2.lvd142m") == (
        "vit_large_patch14_reg4_dinov2.lvd142m"
    )
    assert short_name("open_clip:local-dir:/models/mine") == "mine"
    assert short_name("tiny") == "tiny"
    for name in ("onnx", "resnet", "onnx:", "tiny:x"):
        with pytest.raises(ConfigError, match="known are tiny"):
            open_encoder(name)
    with pytest.raises(ConfigError, match="no such ONNX file"):
        open_encoder("onnx:/nowhere.onnx")


def test_onnx(tmp_path: Path) -> None:
    """A model in ONNX gets pictures in ImageNet's scale; its vectors are scaled to length 1."""
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_model())
    model = open_encoder(f"onnx:{path}")
    assert (model.dims, model.preprocessing.size) == (3, 32)
    pixels = model.preprocessing.pixels(jpeg(3))
    found = model.images(np.stack([pixels, pixels[::-1]]))
    values = (pixels.reshape(-1, 3).mean(axis=0) / 255 - (0.485, 0.456, 0.406)) / (
        0.229,
        0.224,
        0.225,
    )
    np.testing.assert_allclose(found[0], values / np.linalg.norm(values), atol=1e-4)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    other = tmp_path / "other.onnx"
    other.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read as ONNX"):
        open_encoder(f"onnx:{other}")
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        open_encoder(f"onnx:{path}", device="cuda")


def mean_model() -> bytes:
    """ONNX (protobuf by hand): the mean of each colour of a 32 x 32 picture."""

    def field(number: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    def tensor(name: bytes, sides: tuple[int | bytes, ...]) -> bytes:
        dims = b"".join(
            field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in sides
        )
        kind = field(1, field(1, 1) + field(2, dims))
        return field(1, name) + field(2, kind)

    node = field(1, b"x") + field(2, b"y") + field(4, b"GlobalAveragePool")
    graph = field(1, node) + field(2, b"g")
    graph += field(11, tensor(b"x", (b"n", 3, 32, 32))) + field(12, tensor(b"y", (b"n", 3, 1, 1)))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.mark.corpus
@pytest.mark.skipif(not DINO.exists(), reason="../shared/corpus is not here")
def test_dinov2() -> None:
    """The real model: the class token, 384 numbers, the same alone and in a batch."""
    model = open_encoder(f"onnx:{DINO}")
    pixels = np.stack([model.preprocessing.pixels(jpeg(seed, 300, 200)) for seed in range(3)])
    found = model.images(pixels)
    assert found.shape == (3, 384)
    np.testing.assert_allclose(found[1], model.images(pixels[1:2])[0], atol=1e-4)


@pytest.mark.clients
def test_torch_models(archive: Archive) -> None:
    """timm and open_clip, with weights made of a seed: pictures in both, captions in open_clip."""
    pytest.importorskip("open_clip")
    name = "timm:vit_tiny_patch16_224,pretrained=none"
    found = run(archive, name)
    assert (found.features, found.dims, found.num_bad) == ("vit_tiny_patch16_224-none", 192, 0)
    assert run(archive, name).num_embedded == 0  # the same weights: the same digest
    clip = "open_clip:RN50,pretrained=none"
    assert run(archive, clip, text=True).num_rows == 40
    features = FeatureSet.open(archive, "RN50-none-text")
    assert features.info["kind"] == "text"
    captions = open_encoder(clip).texts(["Blobs of colour, as seen from above."])
    assert np.isfinite(features.read("commercial-000000")).all()
    assert captions.shape == (1, features.dims)
    with pytest.raises(ConfigError, match="states no weights"):
        open_encoder("open_clip:RN50")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_encoder("timm:no_such_model")
    with pytest.raises(ConfigError, match="unknown option"):
        open_encoder("timm:resnet18,weights=none")
    with pytest.raises(ConfigError, match="finds no GPU"):
        open_encoder(name, device="cuda")


def test_feature_files_that_lie_are_refused(archive: Archive) -> None:
    run(archive)
    features = the_set(archive, None)
    np.save(features.folder / "commercial-000000.npy", np.zeros((3, 5), np.float16))
    with pytest.raises(ArchiveError, match="is expected"):
        features.read("commercial-000000")
    with pytest.raises(ConfigError, match="has no features 'other'"):
        the_set(archive, "other")
