"""Beam search in one screen, with a route for each step: what one route a text is compared with.

`decoding.py` holds one selection for a whole text and leaves the search to transformers. Here the selection may change
from token to token; keys and values that were computed stay as the routes of their time made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adamix_lab.core.errors import positive
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.generation.encoding import check_decoder

RouteAt = Callable[[int], Tensor | None]  # step -> a route [sites, sides], or None for the merge


class Hypothesis(NamedTuple):
    """Tokens that were written, the end's not among them, and their score: log-likelihood / length ** penalty."""

    tokens: list[int]
    score: float


def one_route(route: Tensor | None) -> RouteAt:
    """The same route at every step; None is the merge."""
    return lambda step: route


def a_route_each(space: RouteSpace, seed: int = 0) -> RouteAt:
    """A route for each step, a function of (seed, step)."""
    return lambda step: space.draw(generator_for(seed, step))


@torch.no_grad()
def search(
    mixture: MixtureModel,
    prompt: Sequence[int],
    end: int,
    route_at: RouteAt,
    beams: int = 1,
    length_penalty: float = 1.0,
    new_tokens: int = 40,
) -> Hypothesis:
    """The best text after one prompt.

    Args:
        mixture: a decoder with experts, in evaluation mode.
        prompt: token ids `[T]`, the separator last.
        end: the id that ends a text.
        route_at: step 0 reads the prompt and writes the first token.
        beams: hypotheses kept; 1 is greedy.
        length_penalty: as `Decoding`'s; a length counts the end.
        new_tokens: at most so many are written, the end among them.

    Raises ValueError for an empty prompt, beams below 1, or a model that writes no texts.
    """
    positive("beams", beams)
    positive("new_tokens", new_tokens)
    check_decoder(mixture.model, len(prompt) + new_tokens)
    if not len(prompt):
        raise ValueError("The prompt is empty: expected token ids that end in the separator.")
    running, totals = [list[int]()], torch.zeros(1)  # what is written, and its log-likelihood [beams]
    inputs, cache, finished = torch.tensor([list(prompt)]), None, list[Hypothesis]()
    for step in range(new_tokens):
        seen = torch.ones(len(inputs), len(prompt) + step, dtype=torch.long)  # nothing is padded
        made = mixture(
            selection=route_at(step), input_ids=inputs, attention_mask=seen, past_key_values=cache, use_cache=True
        )
        cache = made.past_key_values
        scores = totals[:, None] + made.logits[:, -1].float().log_softmax(-1)  # [beams, V]
        best = scores.flatten().topk(2 * beams)
        parents, tokens = best.indices // scores.shape[1], best.indices % scores.shape[1]
        kept: list[int] = []
        for n, (total, parent, token) in enumerate(
            zip(best.values.tolist(), parents.tolist(), tokens.tolist(), strict=True)
        ):
            if token != end and len(kept) < beams:
                kept.append(n)
            elif token == end and n < beams:  # an end counts where it is among the best
                finished.append(Hypothesis(running[parent], total / (step + 1) ** length_penalty))
        rows = torch.tensor(kept)
        running = [[*running[parents[n]], int(tokens[n])] for n in kept]
        totals, inputs = best.values[rows], tokens[rows, None]
        cache.reorder_cache(parents[rows])
        finished = sorted(finished, key=lambda h: -h.score)[:beams]
        ahead = float(totals[0]) / (step + 1) ** length_penalty
        if len(finished) == beams and (beams == 1 or finished[-1].score >= ahead):
            break
    return max(
        finished or [Hypothesis(running[0], float(totals[0]) / new_tokens**length_penalty)], key=lambda h: h.score
    )
