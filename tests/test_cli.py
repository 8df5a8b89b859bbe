"""The commands as a user types them: words in, text or JSON out, exit codes, clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image


def biomedica(*words: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Run a command; its standard output where it ends well, else its standard error."""
    command = [sys.executable, "-m", "biomedica", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=dict(os.environ))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def archive(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the sample corpus, built by the command."""
    out = tmp_path_factory.mktemp("cli") / "archive"
    biomedica("build", tour_folder, out, "--workers", "2", "--set", "shards.samples=30")
    return out


def test_build_is_up_to_date_at_once(tour_folder: Path, archive: Path) -> None:
    """The same command again builds nothing."""
    text = biomedica("build", tour_folder, archive, "--json", "--set", "shards.samples=30")
    found = json.loads(text)
    assert found["num_built"] == 0
    assert found["counts"]["pairs"] > 50


def test_dry_run_builds_nothing(tour_folder: Path, tmp_path: Path) -> None:
    """It tells articles, pictures, bytes and licences, and leaves the catalog alone behind."""
    text = biomedica("build", tour_folder, tmp_path / "out", "--dry-run")
    for word in ("articles", "pictures", "to fetch", "CC BY", "nothing was built"):
        assert word in text
    assert not (tmp_path / "out" / "shards").exists()
    found = json.loads(biomedica("build", tour_folder, tmp_path / "out", "--dry-run", "--json"))
    assert found["source_bytes"] > 0
    assert found["num_done"] == 0


def test_doctor_finds_a_flipped_byte(archive: Path, tmp_path: Path) -> None:
    """A whole archive passes with exit code 0; one changed byte is named, with exit code 1."""
    assert "whole" in biomedica("doctor", archive, "--decode")
    tar = next((archive / "shards").glob("*/*.tar"))
    data = tar.read_bytes()
    try:
        tar.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
        done = json.loads(_stdout("doctor", archive, "--json", code=1))
        assert [finding["where"] for finding in done["findings"]] == [str(tar.relative_to(archive))]
    finally:
        tar.write_bytes(data)


def _stdout(*words: str | Path, code: int) -> str:
    command = [sys.executable, "-m", "biomedica", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    return done.stdout


def test_show_saves_the_picture(archive: Path, tmp_path: Path) -> None:
    """A pair is printed, its picture saved; an unknown key names its neighbours."""
    row = pq.read_table(next((archive / "figures").glob("*/*.parquet"))).slice(1, 1).to_pylist()[0]
    text = biomedica("show", archive, row["key"], "--save", tmp_path / "a.jpg")
    assert row["caption"] in text
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.size == (row["width"], row["height"])
    error = biomedica("show", archive, row["key"] + "x", code=1)
    assert row["key"] in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "images.min_sid=3"], "did you mean 'min_side'"),
        (["--set", "image.min_side=3"], "did you mean 'images'"),
        (["--set", "images.min_side=many"], "images.min_side is 'many'"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--licence", "free"], "unknown licence group"),
        (["--limit", "0"], "at least 1"),
        (["--pmcids", "/nowhere.txt"], "/nowhere.txt"),
        (["--task", "a/b"], "I/N is expected"),
    ],
)
def test_mistakes_are_told_plainly(
    words: list[str], says: str, tour_folder: Path, tmp_path: Path
) -> None:
    """A wrong word ends with exit code 2 and one line that says what was found and what would do."""
    error = biomedica("build", tour_folder, tmp_path / "out", *words, code=2)
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize("source", ["ftp://host/x", "/nowhere"])
def test_a_source_that_is_none(source: str, tmp_path: Path) -> None:
    """An address that cannot be used ends with one line."""
    code = 2 if source.startswith("ftp") else 1
    error = biomedica("build", source, tmp_path / "out", code=code)
    assert source in error
    assert "Traceback" not in error


def test_a_folder_with_other_files_is_left_alone(tour_folder: Path, tmp_path: Path) -> None:
    """An archive is not made among somebody's files."""
    (tmp_path / "thesis.tex").write_text("x")
    assert "thesis.tex" in biomedica("build", tour_folder, tmp_path, code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_writer_is_turned_away(tour_folder: Path, archive: Path) -> None:
    """Two builds of one archive at the same time are a mistake that is told."""
    from biomedica.archive import Archive

    with Archive(archive).lock():
        error = biomedica("build", tour_folder, archive, "--set", "shards.samples=30", code=2)
    assert "another process writes" in error


def test_array_job_builds_the_same_bytes(tour_folder: Path, archive: Path, tmp_path: Path) -> None:
    """`plan`, then tasks 0/2 and 1/2, give the shards of a plain build."""
    out = tmp_path / "out"
    biomedica("plan", tour_folder, out, "--set", "shards.samples=30")
    for task in ("1/2", "0/2"):
        words = ["--task", task, "--workers", "1", "--set", "shards.samples=30"]
        biomedica("build", tour_folder, out, *words)
    for kind in ("shards", "figures", "articles"):
        names = sorted(path.relative_to(archive) for path in (archive / kind).glob("*/*"))
        assert names
        assert names == sorted(path.relative_to(out) for path in (out / kind).glob("*/*"))
        for name in names:
            assert (out / name).read_bytes() == (archive / name).read_bytes()
    assert "whole" in biomedica("doctor", out)


def test_settings_file_round_trips(tmp_path: Path) -> None:
    """What `settings` prints is a file that `--config` reads."""
    path = tmp_path / "biomedica.toml"
    path.write_text(biomedica("settings", "--set", "images.min_side=33"))
    assert "min_side = 33" in biomedica("settings", "--config", path)


def test_pmcids_choose_articles(tour_folder: Path, tmp_path: Path) -> None:
    """A file of ids, with comments, picks those; an id that is not there is a reject."""
    ids = tmp_path / "ids.txt"
    ids.write_text("# wanted\nPMC99900001\n99900003\nPMC12345\n")
    found = json.loads(
        biomedica("build", tour_folder, tmp_path / "out", "--pmcids", ids, "--json", "--no-report")
    )
    assert found["counts"]["articles"] == 2
    rejects = pq.read_table(tmp_path / "out" / "rejects" / "catalog.parquet").to_pylist()
    assert [(r["key"], r["reason"]) for r in rejects] == [("PMC12345", "metadata_missing")]


def test_tour(tmp_path: Path) -> None:
    """The tour leaves a whole archive with MeSH terms and a report."""
    text = biomedica("tour", tmp_path / "tour")
    assert "doctor: whole" in text
    archive = tmp_path / "tour" / "archive"
    assert (archive / "report.html").stat().st_size > 100_000
    terms = pq.read_table(next((archive / "figures" / "commercial").glob("*.parquet")))[
        "mesh_terms"
    ]
    assert any(terms.to_pylist())
    text = biomedica("tour", tmp_path / "tour")
    assert "0 built now" in text


def test_workers_die_with_their_runner(tour_folder: Path, tmp_path: Path) -> None:
    """Killed alone (not its workers), a build may be started again at once, and ends whole."""
    words = [sys.executable, "-m", "biomedica", "build", str(tour_folder), str(tmp_path / "out")]
    words += ["--set", "shards.samples=5", "--no-report", "--workers", "2"]
    for _ in range(3):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and not list((tmp_path / "out").glob("done/*.trace")):
            pass
        process.kill()
        process.communicate()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "whole" in biomedica("doctor", tmp_path / "out")
