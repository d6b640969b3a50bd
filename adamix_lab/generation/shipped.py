"""Writers: experts on the embedded decoder and the task "notices", and what they wrote.

Each folder `data/generators/adamix/seedN` holds experts (float16; LoRA with a shared B, independent routes, consistency
1) and `texts.json`: a text for every evaluation source,
by strategy ("random" holds one random route a text, "anew" draws a new one for every token); seed 0 has
`explored.json`, too: ten sources by route and number of beams.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from adamix_lab.core.files import CONFIG
from adamix_lab.core.routing import generator_for
from adamix_lab.generation.comparison import load_generator
from adamix_lab.generation.decoding import a_route_each, one_route, search, selection_of, trim
from adamix_lab.generation.training import prompts, separators
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.tasks import data_root

TASK, BACKBONE, EXPERTS, SEEDS = "notices", "books-gpt2", 4, (0, 1, 2)
NEW_TOKENS = 40
ROUTES = (*(f"fixed-{n}" for n in range(EXPERTS)), "anew", "merged")
STRATEGIES = (*ROUTES, "random", "merged, 4 beams")
EXPLORED, BEAMS = 10, (1, 4)  # sources, and numbers of beams, of the explorer
TEXTS, EXPLORED_TEXTS = "texts.json", "explored.json"


def place_of(seed: int = 0, folder: Path | None = None) -> Path:
    """The folder of a writer. Raises FileNotFoundError where nothing lies there."""
    place = (folder or data_root() / "generators") / "adamix" / f"seed{seed}"
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"{place} holds no experts: expected shipped writers of seeds {SEEDS}. data/generators/make.py makes them."
        )
    return place


def load_writer(seed: int = 0, folder: Path | None = None) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped experts. Raises as `place_of`."""
    return load_generator(place_of(seed, folder))


@lru_cache(maxsize=16)
def load_texts(seed: int = 0, folder: Path | None = None) -> dict[str, list[str]]:
    """What shipped experts wrote for every evaluation source, by strategy. Raises as `place_of`."""
    return json.loads((place_of(seed, folder) / TEXTS).read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def load_explored(folder: Path | None = None) -> dict[str, dict[str, list[str]]]:
    """What ten sources became, by route and number of beams (as text). Raises as `place_of`."""
    return json.loads((place_of(0, folder) / EXPLORED_TEXTS).read_text(encoding="utf-8"))


def write_one(
    mixture: MixtureModel, source: str, tokenizer: Any, strategy: str = "merged", beams: int = 1, seed: int = 0
) -> str:
    """A text for one source by `search`.

    strategy: "merged", "fixed-N", "random" (a route a text) or "anew" (a route each token). seed: of drawn routes.
    """
    (prompt,) = prompts([source], tokenizer, 256 - NEW_TOKENS)
    if strategy == "anew":
        routes = a_route_each(mixture.space, seed)
    else:
        routes = one_route(selection_of(strategy, mixture.space, generator_for(seed), 1))
    found = search(mixture, prompt, separators(tokenizer)[1], routes, beams, new_tokens=NEW_TOKENS)
    return trim(tokenizer.decode(found.tokens), tokenizer)
