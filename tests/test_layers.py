"""Data flows one way: a module imports only what stands below it, and starting costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import biomedica

ROOT = Path(biomedica.__file__).parent
ORDER = (
    "cli __main__",
    "tour",
    "report charts statistics sheets annotations scoreboard",
    "flow annotate",
    "config",
    "explore",
    "publish",
    "export",
    "evaluate",
    "train",
    "stream",
    "select",
    "foreign",
    "label",
    "votes",
    "agreement",
    "duplicates cluster",
    "embed",
    "features",
    "clip",
    "models",
    "published",
    "taxonomy",
    "build compact doctor show",
    "enrich",
    "plan",
    "catalog",
    "run",
    "archive",
    "shards",
    "sources",
    "images",
    "parse",
    "settings",
    "records errors numbering ranks preprocessing",
)
"""From top to bottom; modules of one line do not import each other, but for the named exceptions."""
SIDEWAYS = {
    ("cli", "__main__"),
    ("report", "charts"),
    ("report", "statistics"),
    ("statistics", "charts"),
    ("report", "annotations"),
    ("sheets", "report"),
    ("scoreboard", "report"),
    ("scoreboard", "charts"),
}
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names.split()}
PARTS = {"__init__", "data"}


def imports(path: Path) -> set[str]:
    """Top-level modules of this package that a file imports, at whatever place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("biomedica"):
            parts = (node.module or "").split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found - {"__version__"}


def module_of(path: Path) -> str:
    """Name of the module or package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [p for p in sorted(ROOT.rglob("*.py")) if module_of(p) not in PARTS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    """Every module stands in the order, and imports only from below."""
    module = module_of(path)
    for other in imports(path) - {module}:
        allowed = LEVEL[module] < LEVEL[other] or {(module, other), (other, module)} & SIDEWAYS
        assert allowed, f"{module} imports {other}, which does not stand below it"


def test_starting_is_cheap() -> None:
    """`import biomedica` and `--help` load none of the heavy libraries, and take little CPU."""
    code = (
        "import sys, time; started = time.process_time(); import biomedica.cli\n"
        "try: biomedica.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pyarrow', 'duckdb', 'numpy', 'lxml', 'PIL', 'torch', 'ray', 'pydantic', 'scipy',\n"
        "         'onnxruntime', 'fastapi', 'huggingface_hub', 'mlcroissant'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert time.monotonic() - started < 30
