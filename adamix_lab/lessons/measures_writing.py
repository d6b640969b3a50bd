"""What is measured for lesson 06: slot coverage of shipped writers under ways of decoding, paired by source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adamix_lab.generation.shipped import EXPERTS as WRITER_EXPERTS
from adamix_lab.generation.shipped import TASK, load_texts
from adamix_lab.generation.tasks import load_generation_task
from adamix_lab.lessons.generation import covered

Measures = dict[str, tuple[str, Callable[[int], Tensor]]]


def expert_coverage(seed: int) -> Tensor:
    """Mean coverage of the four experts, each alone, `[sources]`."""
    return torch.stack([covered(f"fixed-{n}", seed) for n in range(WRITER_EXPERTS)]).mean(0)


def coverage_difference(first: str, second: str) -> Callable[[int], Tensor]:
    """Coverage of one strategy minus that of another, source by source."""
    return lambda seed: covered(first, seed) - covered(second, seed)


def seen_from_held_out(seed: int) -> Tensor:
    """The merge's coverage of pairs seen in training minus of pairs held out, as a number a source.

    +1 / share of the first kind or -1 / share of the second, so that the mean is the difference.
    """
    seen = torch.tensor([row["group"] == "seen" for row in load_generation_task(TASK).evaluation])
    signs = seen / seen.float().mean() - (~seen) / (~seen).float().mean()
    return covered("merged", seed) * signs


def same_text(first: str, second: str) -> Callable[[int], Tensor]:
    """Whether two strategies wrote the same text, `[sources]`, as 0 and 1."""

    def measure(seed: int) -> Tensor:
        texts = load_texts("adamix", seed)
        return torch.tensor([float(a == b) for a, b in zip(texts[first], texts[second], strict=True)])

    return measure


def writing() -> Measures:
    """Lesson 06."""
    return {
        "slots realised: merged": ("points", lambda seed: covered("merged", seed)),
        "slots realised: an expert alone (mean of 4)": ("points", expert_coverage),
        "slots realised: a new route every token": ("points", lambda seed: covered("anew", seed)),
        "slots realised: merged minus an expert alone": (
            "points",
            lambda seed: covered("merged", seed) - expert_coverage(seed),
        ),
        "slots realised: one random route a text minus a new route every token": (
            "points",
            coverage_difference("random", "anew"),
        ),
        "slots realised: merged minus a new route every token": ("points", coverage_difference("merged", "anew")),
        "slots realised, merged: 4 beams minus greedy": ("points", coverage_difference("merged, 4 beams", "merged")),
        "slots realised, merged: pairs seen in training minus pairs held out": ("points", seen_from_held_out),
        "texts that two experts alone write alike": ("points", same_text("fixed-0", "fixed-1")),
        "texts that an expert alone and the merge write alike": ("points", same_text("fixed-0", "merged")),
    }
