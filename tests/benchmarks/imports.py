"""What importing the package costs beside `import torch`, each in a fresh process, interleaved, medians.

    python tests/benchmarks/imports.py [--quick]

The last line is one JSON object; `seconds_over_torch` is what `import adamix_lab` adds (warm file cache).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

STATEMENTS = {
    "torch": "import torch",
    "package": "import torch, adamix_lab",
    "core": "import torch, adamix_lab; adamix_lab.attach, adamix_lab.LoRA, adamix_lab.train, adamix_lab.evaluate",
}


def seconds(statement: str) -> float:
    script = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    rounds = 3 if parser.parse_args().quick else 9
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for n in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            taken = seconds(statement)
            if n:  # the first round warms the file cache
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "seconds_over_torch": medians["package"] - medians["torch"],
        "seconds_over_torch_with_core": medians["core"] - medians["torch"],
        "package_over_torch": medians["package"] / medians["torch"],
        "torch_seconds": medians["torch"],
        "rounds": rounds,
    }
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
