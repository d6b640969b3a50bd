"""A small text with enough order to learn from, and a tiny decoder's settings."""

from __future__ import annotations

import random
from pathlib import Path

from adamix_lab.generation.decoder import Pretraining

WORDS = {
    "who": "the cook, a waiter, my aunt, the old man, their dog, a child".split(", "),
    "does": "likes finds eats hides brings wants".split(),
    "what": "warm soup, a red apple, the big fish, some bread, green tea, a small cake".split(", "),
}
SETTINGS = Pretraining(
    vocab_size=400, context=32, width=16, layers=2, heads=2, steps=8, batch_size=4, warmup=2, checkpoint_every=3,
    log_every=1, lr=1e-2,
)  # fmt: skip


def sentences(count: int, seed: int = 0) -> str:
    """Documents of four paragraphs, an empty line between them."""
    draw = random.Random(seed)
    lines = []
    for n in range(count):
        lines.append(f"{' '.join(draw.choice(WORDS[part]) for part in ('who', 'does', 'what'))}.")
        if n % 4 == 3:
            lines.append("")
    return "\n".join(lines) + "\n"


def write(folder: Path, count: int = 200) -> Path:
    """A folder with text to train on and a held-out file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(sentences(count), encoding="utf-8")
    (folder / "valid.txt").write_text(sentences(12, seed=1), encoding="utf-8")
    return folder
