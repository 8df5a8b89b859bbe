"""Rewrite the `expected.json` of the parser's golden cases: all of them, or those named.

    python tools/rewrite_golden.py [CASE ...]

Only the keys that a case compares are rewritten; a new case, with an `article.xml` alone, gets the
whole article, to be checked and cut down by hand. Cases in `KNOWN_FAULTS` are left alone unless they
are named: what they expect is right, and what the parser finds is not. Review the difference as code.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from golden_cases import GOLDEN, WHOLE, actual, case_names, read_expected, write_expected
from test_golden import KNOWN_FAULTS


def main(named: list[str]) -> int:
    if unknown := sorted(set(named) - set(case_names())):
        print(f"no such case: {', '.join(unknown)}", file=sys.stderr)
        return 2
    changed = 0
    for name in named or [name for name in case_names() if name not in KNOWN_FAULTS]:
        is_new = not (GOLDEN / name / "expected.json").exists()
        expected = {WHOLE: True} if is_new else read_expected(name)
        result = actual(name, expected)
        if is_new or result != expected:
            write_expected(name, result)
            print(f"rewrote {name}")
            changed += 1
    print(f"{changed} cases rewritten; {len(KNOWN_FAULTS)} known faults")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
