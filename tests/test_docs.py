"""The commands of the documentation run, in order, and the pages made from the code are fresh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import moto_bucket

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+\.md)\)")
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """What a page tells the reader to type."""
    blocks = BLOCK.findall(page.read_text())
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tour was taken."""
    folder = tmp_path_factory.mktemp("docs")
    run("biomedica tour tour", folder)
    return folder


def run(command: str, folder: Path, **environment: str) -> None:
    """Run one command of this program as a reader would."""
    words = shlex.split(command)
    assert words[0] == "biomedica"
    done = subprocess.run(
        [sys.executable, "-m", "biomedica", *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def fresh(toured: Path) -> Iterator[Path]:
    """The same folder as the tour left it, whatever other pages did there (archives know their source by
    its full path, so a copy elsewhere would not do)."""
    kept = toured.with_name(f"{toured.name}-kept")
    if not kept.exists():
        shutil.copytree(toured, kept)
    shutil.rmtree(toured)
    shutil.copytree(kept, toured)
    yield toured
    shutil.rmtree(toured)
    shutil.copytree(kept, toured)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_commands_run(page: Path, fresh: Path) -> None:
    """Every command of a page ends well, one after the other, on the tour's files."""
    with moto_bucket(fresh / "tour" / "source") as bucket:
        for command in commands(page):
            run(command, fresh, AWS_ENDPOINT_URL_S3=bucket.endpoint)


def test_the_parse_example_runs(toured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the page on parsing works as it stands."""
    monkeypatch.chdir(toured)
    for code in CODE.findall((ROOT / "docs" / "parse.md").read_text()):
        exec(compile(code, "parse.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links between pages point at pages that are there."""
    for link in LINK.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def test_made_pages_are_fresh() -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.clients
def test_the_page_of_configs_is_fresh() -> None:
    """The same of the page that counts models."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_docs.py", "--configs", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_named_that_is_not_the_project() -> None:
    """Pages with numbers say what made them."""
    for name in (
        "accuracy.md",
        "benchmarks.md",
        "benchmarks-annotation.md",
        "benchmarks-evaluation.md",
        "benchmarks-leaks.md",
        "benchmarks-stream.md",
        "benchmarks-training.md",
        "benchmarks-vqa.md",
    ):
        text = (ROOT / "docs" / name).read_text()
        assert "python bench/" in text and re.search(r"\d{4}-\d{2}-\d{2}", text)
