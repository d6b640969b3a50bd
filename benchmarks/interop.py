"""Architectures x libraries: how far stock libraries' logits are from the mixture's, in several environments.

    python benchmarks/interop.py --environment adapters --environment oldest
    python benchmarks/interop.py --quick      # the exports' own checks, in this environment alone

Environments are made from environments/NAME.txt (a package registry is needed once). Results are added to
data/results/interop.json, an environment at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from adamix_lab.doctor import versions

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "environments"))

from check import check  # noqa: E402
from make import make  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--environment", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "data/results/interop.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = make(Path(folder))
    for row in rows:
        print(f"{row['architecture']:12}{row['library']:14}{row['adaptation']:12}{row['own_check']:.2g}", flush=True)
    result = {"versions": versions(), "own_checks": rows, "environments": {}}
    if not options.quick:
        if options.out.is_file():
            result["environments"] = json.loads(options.out.read_text(encoding="utf-8"))["environments"]
        for name in options.environment:
            result["environments"][name] = check(name)
            options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"largest": max(row["own_check"] for row in rows)}))


if __name__ == "__main__":
    main()
