"""Architectures x libraries: how far stock libraries' logits are from the mixture's, in several environments.

    python tests/benchmarks/interop.py --environments adapters oldest --out data/results/costs/interop.json
    python tests/benchmarks/interop.py --quick      # the exports' own checks, in this environment alone

Environments are made from tests/environments/NAME.txt (a package registry is needed once).
`tests/environments/check.py NAME` runs tests in them besides.
"""

from __future__ import annotations

import sys

from common import ROOT, parse, report

sys.path.insert(0, str(ROOT / "tests" / "environments"))

from check import make_exports, python_of, read_exports


def main() -> None:
    options = parse(__doc__, environments=[])
    rows = make_exports()
    for row in rows:
        print(f"{row['architecture']:12}{row['library']:14}{row['adaptation']:12}{row['own_check']:.2g}", flush=True)
    chosen = [] if options.quick else options.environments
    found = {name: read_exports(python_of(name)) for name in chosen}
    largest = max(row["own_check"] for row in rows)
    report({"largest": largest, "own_checks": rows, "environments": found}, options.out)


if __name__ == "__main__":
    main()
