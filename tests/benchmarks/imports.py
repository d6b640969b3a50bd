"""What importing the package costs beside `import torch`, each in a fresh process, interleaved, medians.

    python tests/benchmarks/imports.py [--quick]

The last line is one JSON object; `seconds_over_torch` is what `import adamix_lab` adds (warm file cache).
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from common import interleave, parse, report

STATEMENTS = {
    "torch": "import torch",
    "package": "import torch, adamix_lab",
    "core": "import torch, adamix_lab; adamix_lab.attach, adamix_lab.LoRA, adamix_lab.train, adamix_lab.evaluate",
}


def seconds(statement: str) -> float:
    script = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    options = parse(__doc__, {"rounds": 3}, rounds=9)
    ways = {name: partial(seconds, statement) for name, statement in STATEMENTS.items()}
    medians, _ = interleave(ways, options.rounds, clock=lambda work: (work(), None))  # warm: the file cache
    result = {
        "seconds_over_torch": medians["package"] - medians["torch"],
        "seconds_over_torch_with_core": medians["core"] - medians["torch"],
        "package_over_torch": medians["package"] / medians["torch"],
        "torch_seconds": medians["torch"],
    }
    report({name: round(value, 3) for name, value in result.items()} | {"rounds": options.rounds}, options.out)


if __name__ == "__main__":
    main()
