"""An ensemble of K = 16 routes in batched passes, against K passes one by one.

    python tests/benchmarks/ensemble.py            1, 8 and 32 rows of 32 and of 128 tokens
    python tests/benchmarks/ensemble.py --quick    8 rows of 32 tokens, under half a minute

MiniLM with bottleneck adapters of 16 (M = 4, shared up-projection) in every block, and in the top two. Batched: all
K routes in one call that shares what lies below the first site and cuts the last block to the position that the head
reads ("shared_prefix"). One by one: as it comes (`serial_over_batched`), and with the last block cut as well
(`trimmed_serial_over_batched`), so that the ratio is of batching and sharing alone. Rounds are interleaved; ratios are
of medians; the last line is one JSON object.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from common import batch_of, device, interleave, largest_difference, minilm_mixture, parse, passes, report_cases, tell

from adamix_lab.core.routing import generator_for
from adamix_lab.fast.blocks import routed_logits
from adamix_lab.models.model import MixtureModel

ROUTES = 16


@torch.no_grad()
def measure(mixture: MixtureModel, batch: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    routes = mixture.space.draw(generator_for(1), (ROUTES,))

    ways = {
        "serial": partial(passes, mixture, batch, routes),
        "trimmed": partial(passes, mixture, batch, routes, trim=True),
        "batched": partial(routed_logits, mixture, batch, routes, "shared_prefix"),
    }
    median, found = interleave(ways, rounds)
    return {
        "serial_over_batched": round(median["serial"] / median["batched"], 2),
        "trimmed_serial_over_batched": round(median["trimmed"] / median["batched"], 2),
        "max_abs_difference": float((found["serial"].transpose(0, 1) - found["batched"]).abs().max()),
        "batched_ms": round(1000 * median["batched"], 1),
    }


def main() -> None:
    quick = {"rows": [8], "lengths": [32], "rounds": 3}
    options = parse(__doc__, quick, rows=[1, 8, 32], lengths=[32, 128], rounds=7)
    where, found = device(), {}
    for name, blocks in (("all-blocks", None), ("top-two", range(-2, 0))):
        mixture = minilm_mixture(where, blocks=blocks)
        for length, rows in itertools.product(options.lengths, options.rows):
            key = f"{name}-rows{rows}-length{length}"
            found[key] = tell(key, measure(mixture, batch_of(rows, length, where), options.rounds))
    settings = {"routes": ROUTES, "rounds": options.rounds, "max_abs_difference": largest_difference(found)}
    report_cases(found, ("serial_over_batched", "trimmed_serial_over_batched"), options.out, **settings)


if __name__ == "__main__":
    main()
