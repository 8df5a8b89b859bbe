"""The commands: parse the words, call, print. Everything else stands in the modules."""

from __future__ import annotations

import logging
import signal
import sys

from biomedica.cli import annotate, archive, datasets, evaluation, labels, leaks, training
from biomedica.cli.options import FAULT, INTERRUPTED, TERMINATED, USAGE, app
from biomedica.errors import BiomedicaError, ConfigError

__all__ = [
    "annotate",
    "app",
    "archive",
    "datasets",
    "evaluation",
    "labels",
    "leaks",
    "main",
    "training",
]


def main() -> None:
    """Entry point. A mistake or a failing source ends with one clear line and exit code 2 or 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that workers are stopped
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app()
    except ConfigError as error:
        print(f"biomedica: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except BiomedicaError as error:
        print(f"biomedica: {error}", file=sys.stderr)
        sys.exit(FAULT)
    except KeyboardInterrupt:
        print("biomedica: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(INTERRUPTED)
