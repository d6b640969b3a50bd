"""Architectures x libraries: how far stock libraries' logits are from the mixture's, in several environments.

    python tests/benchmarks/interop.py --environment adapters --environment oldest
    python tests/benchmarks/interop.py --quick      # the exports' own checks, in this environment alone

Environments are made from tests/environments/NAME.txt (a package registry is needed once). Writes
data/results/interop.json (not with --quick). `tests/environments/check.py NAME` runs tests in them besides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from adamix_lab.training.doctor import versions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "environments"))

from check import make_exports, python_of, read_exports  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--environment", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "data/results/interop.json")
    options = parser.parse_args()
    rows = make_exports()
    for row in rows:
        print(f"{row['architecture']:12}{row['library']:14}{row['adaptation']:12}{row['own_check']:.2g}", flush=True)
    result = {"versions": versions(), "own_checks": rows, "environments": {}}
    if not options.quick:
        for name in options.environment:
            result["environments"][name] = read_exports(python_of(name))
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"largest": max(row["own_check"] for row in rows)}))


if __name__ == "__main__":
    main()
