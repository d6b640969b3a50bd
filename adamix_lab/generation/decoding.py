"""Beam search through transformers' `generate`, under one selection of experts for the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from adamix_lab.core.errors import LabError, check_decoded, positive
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.generation.training import check_decoder, ids_of, prompts, separators
from adamix_lab.models.model import MixtureModel


@dataclass(frozen=True)
class Decoding:
    """Settings of beam search; the defaults are the authors' (`run_eval_*.sh`, all three tasks).

    Attributes:
        beams: hypotheses kept; 1 is greedy.
        length_penalty: a hypothesis' log-likelihood is divided by its length to this power.
        no_repeat: no n-gram of so many tokens is written twice; 0 allows it. Tokens of the source do not count, as in
            the authors' code (transformers' own setting counts them, which forbids copying names).
        new_tokens: at most so many are written.
        batch_size: sources at a time; results do not depend on it but for rounding.
    """

    beams: int = 10
    length_penalty: float = 0.8
    no_repeat: int = 4
    new_tokens: int = 64
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("beams", "new_tokens", "batch_size"):
            positive(name, getattr(self, name))
        if self.no_repeat:
            positive("no_repeat", self.no_repeat)


def generate_texts(
    model: MixtureModel | nn.Module,
    sources: Sequence[str],
    tokenizer: Any,
    settings: Decoding | None = None,
    strategy: str = "merged",
    seed: int = 0,
) -> list[str]:
    """A text for each source, in order, cut at the end-of-text token or the first line break.

    Args:
        model: a mixture, merged or not, or a plain decoder (which has "merged" only).
        sources: linearised, as `GenerationTask.sources` has them.
        tokenizer: of the model.
        settings: None takes the authors'.
        strategy: "merged" (averaged weights), "fixed" or "fixed-N" (expert 0 or N everywhere), "random" (one route a
            batch), "random-example" (one a source); a route is held for the whole text.
        seed: of random routes.

    Raises ValueError for a model that writes no texts, no sources, or an unknown strategy.
    """
    settings = settings or Decoding()
    plain = model.model if isinstance(model, MixtureModel) else model
    positions = check_decoder(plain, settings.new_tokens + 1) or 1024
    if isinstance(sources, str) or not len(sources):
        raise LabError(f"sources = {sources!r}: expected a list of texts, at least one.")
    space = model.space if isinstance(model, MixtureModel) else RouteSpace(())
    selection_of(strategy, space, generator_for(seed), 1)  # a mistake shows before the long work
    ids = prompts(sources, tokenizer, positions - settings.new_tokens)
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    texts = [""] * len(ids)
    with evaluating(model):
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            selection = selection_of(strategy, space, generator_for(seed, start), len(rows))
            made = _search(model, [ids[n] for n in rows], tokenizer, settings, selection)
            for n, tokens in zip(rows, made, strict=True):
                texts[n] = trim(tokenizer.decode(tokens, skip_special_tokens=False), tokenizer)
    return texts


def selection_of(strategy: str, space: RouteSpace, generator: Generator, rows: int) -> Tensor | None:
    """None for the merge, a route `[sites, sides]`, or one an example `[rows, sites, sides]`. Raises ValueError."""
    check_decoded("Strategy of decoding", strategy)
    if strategy == "merged":
        return None
    if not space.counts:
        raise LabError(f"Strategy {strategy!r} needs experts: expected a mixture. Use 'merged' for a plain model.")
    if strategy.startswith("fixed"):
        return space.fixed(int(strategy[len("fixed-") :] or 0))
    return space.draw(generator, () if strategy == "random" else (rows,))


def trim(text: str, tokenizer: Any) -> str:
    """The text up to the end-of-text token or, after leading white space, the first line break.

    The authors cut at a blank line; targets here are single lines.
    """
    return text.split(tokenizer.eos_token)[0].strip().split("\n")[0].strip()


@torch.no_grad()
def _search(
    model: MixtureModel | nn.Module, ids: list[list[int]], tokenizer: Any, settings: Decoding, selection: Tensor | None
) -> list[list[int]]:
    """What is written after each prompt, as token ids. Prompts are padded on the left."""
    _, end = separators(tokenizer)
    width = max(map(len, ids))
    device = next(model.parameters()).device
    batch = {
        "input_ids": torch.tensor([[end] * (width - len(row)) + row for row in ids], device=device),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device),
    }
    # Beams of a row lie together, so a route a row is repeated like the row.
    if selection is not None and selection.dim() == 3:
        selection = selection.repeat_interleave(settings.beams, 0)
    blank = ids_of(["\n\n"], tokenizer)[0]
    ends = [end, blank[0]] if len(blank) == 1 else [end]
    chosen = "merge" if selection is None else selection
    more: dict[str, Any] = {"selection": chosen} if isinstance(model, MixtureModel) else {}
    if settings.beams > 1:
        more["length_penalty"] = settings.length_penalty
    made = model.generate(  # type: ignore[operator]
        **batch,
        **more,
        do_sample=False,
        num_beams=settings.beams,
        max_new_tokens=settings.new_tokens,
        eos_token_id=ends,
        pad_token_id=end,
        logits_processor=_processors(settings, width),
    )
    return [[*takewhile(lambda token: token not in ends, row)] for row in made[:, width:].tolist()]


def _processors(settings: Decoding, written_from: int) -> Any:
    from transformers import LogitsProcessorList
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    if not settings.no_repeat:
        return LogitsProcessorList()
    inner = NoRepeatNGramLogitsProcessor(settings.no_repeat)
    # transformers' rule, shown only what is written
    return LogitsProcessorList([lambda input_ids, scores: inner(input_ids[:, written_from:], scores)])


# -- beam search in one screen, with a route for each step: the contrast to one route a text -----------------------
# The search of transformers holds one selection for a whole text. Here the selection may change
# from token to token; keys and values that were computed stay as the routes of their time made them.


RouteAt = Callable[[int], Tensor | None]  # step -> a route [sites, sides], or None for the merge


class Hypothesis(NamedTuple):
    """Tokens that were written, the end's not among them, and their score: log-likelihood / length, the end counted."""

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
    mixture: MixtureModel, prompt: Sequence[int], end: int, route_at: RouteAt, beams: int = 1, new_tokens: int = 40
) -> Hypothesis:
    """The best text after one prompt.

    Args:
        mixture: a decoder with experts, in evaluation mode.
        prompt: token ids `[T]`, the separator last.
        end: the id that ends a text.
        route_at: step 0 reads the prompt and writes the first token.
        beams: hypotheses kept; 1 is greedy.
        new_tokens: at most so many are written, the end among them.

    Raises ValueError for an empty prompt, beams below 1, or a model that writes no texts.
    """
    positive("beams", beams)
    positive("new_tokens", new_tokens)
    check_decoder(mixture.model, len(prompt) + new_tokens)
    if not len(prompt):
        raise LabError("The prompt is empty: expected token ids that end in the separator.")
    running, totals = [list[int]()], torch.zeros(1)  # what is written, and its log-likelihood [beams]
    inputs, cache, finished = torch.tensor([list(prompt)]), None, list[Hypothesis]()
    for step in range(new_tokens):
        seen = torch.ones(len(inputs), len(prompt) + step, dtype=torch.long)  # nothing is padded
        route = route_at(step)
        selection = "merge" if route is None else route
        made = mixture(
            selection=selection, input_ids=inputs, attention_mask=seen, past_key_values=cache, use_cache=True
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
                finished.append(Hypothesis(running[parent], total / (step + 1)))
        rows = torch.tensor(kept)
        running = [[*running[parents[n]], int(tokens[n])] for n in kept]
        totals, inputs = best.values[rows], tokens[rows, None]
        cache.reorder_cache(parents[rows])
        finished = sorted(finished, key=lambda h: -h.score)[:beams]
        ahead = float(totals[0]) / (step + 1)
        if len(finished) == beams and (beams == 1 or finished[-1].score >= ahead):
            break
    return max(finished or [Hypothesis(running[0], float(totals[0]) / new_tokens)], key=lambda h: h.score)
