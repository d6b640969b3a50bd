"""Prompt-based fine-tuning: a task as a blank in a sentence, answered by words of the vocabulary.

Templates and label words are LM-BFF's manual ones (Gao et al., ACL 2021), which the paper's few-shot runs take over
through LiST. Sentences stay as they are: LM-BFF also drops a final full stop before "?" and lower-cases the second
sentence's first letter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import during, here, hooked
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import Encoder, Example, TextsCut, label_tensor
from adamix_lab.tasks.labels import Prompt
from adamix_lab.tasks.tasks import Task, text_of


class PromptModel(nn.Module):
    """A masked language model that answers with the logits `[B, C]` of the label words at the mask.

    Attributes:
        language_model: from `AutoModelForMaskedLM`; its head stays frozen, so nothing but experts trains.
        num_labels: C.
    """

    def __init__(self, language_model: nn.Module, words: Sequence[int], mask: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.config = language_model.config
        self.num_labels = len(words)
        self.mask = mask
        self.register_buffer("words", torch.tensor(list(words)), persistent=False)
        self.train(language_model.training)

    def forward(self, input_ids: Tensor, **batch: Any) -> Any:
        """The language model's output with logits `[B, C]`. Raises ValueError for a row without exactly one mask."""
        masks = input_ids == self.mask
        if not bool((masks.sum(1) == 1).all()):
            counts = sorted(set(masks.sum(1).tolist()))
            raise LabError(f"Rows hold {counts} masks: expected one each. Encode them with `prompt_encoder`.")
        places = masks.int().argmax(1)

        base: Any = self.language_model.base_model
        with hooked(base, _at_mask, base.register_forward_hook), during({base: {"places": places}}):
            output = self.language_model(input_ids=input_ids, **batch)
        output.logits = output.logits[:, 0, self.words]
        return output


def _at_mask(module: nn.Module, args: Any, output: Any) -> Any:
    places = here(module, "places")
    if places is not None:
        states = output[0]  # only one position a row goes on to the vocabulary
        output.last_hidden_state = states[torch.arange(len(states), device=states.device), places][:, None]
    return output


def load_prompted(name: str, prompt: Prompt, task: Task, seed: int = 0) -> tuple[PromptModel, Any]:
    """(model, tokenizer): a backbone with its masked-LM head, ready for `attach`.

    Raises ValueError where prompt and task do not fit, a label word is several tokens, or the backbone has no
    masked-LM head.
    """
    prompt.check(task)
    model, tokenizer = load_backbone(name, kind="masked", seed=seed)
    return PromptModel(model, word_ids(prompt, tokenizer), tokenizer.mask_token_id).eval(), tokenizer


def word_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """The label words' token ids, as they stand inside a sentence. Raises ValueError for one of several tokens."""
    ids = []
    for word in prompt.words:
        found = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(found) != 1 or found[0] == tokenizer.unk_token_id:
            pieces = tokenizer.convert_ids_to_tokens(found)
            raise LabError(
                f"Label word {word!r} is {len(found)} tokens here ({', '.join(map(str, pieces))}): expected one token "
                "of the vocabulary. Choose a more common word."
            )
        ids.append(int(found[0]))
    return ids


def prompt_encoder(prompt: Prompt) -> Encoder:
    """An encoder for `train` and `evaluate` that puts rows into the template.

    Longer rows lose the ends of their sentences, never the template or the mask; a warning says how many.
    """

    def encode(rows: Sequence[Mapping[str, Any]], task: Task, tokenizer: Any, max_length: int = 128) -> list[Example]:
        positive("max_length", max_length)
        prompt.check(task)
        if not rows:
            raise LabError("No rows to encode: expected at least one.")
        examples, cut = [], 0
        for n, row in enumerate(rows, start=1):
            # A mask in the text would be a second place to answer at.
            texts = [text_of(row, column, f"Row {n}").replace(tokenizer.mask_token, " ") for column in task.text]
            encoded, shortened = _fit(prompt, texts, tokenizer, max_length)
            cut += shortened
            example = {name: torch.tensor(encoded[name], dtype=torch.long) for name in encoded}
            if task.label in row:
                example["labels"] = label_tensor(row[task.label], task)
            examples.append(example)
        if cut:
            warnings.warn(
                f"{cut} of {len(rows)} rows are longer than max_length = {max_length} tokens with their template and "
                "their sentences were cut. Raise max_length if their ends matter.",
                TextsCut,
                stacklevel=2,
            )
        return examples

    return encode


def _fit(prompt: Prompt, texts: list[str], tokenizer: Any, max_length: int) -> tuple[dict[str, list[int]], bool]:
    """(the encoded template, whether sentences were cut): words go from the end of the longer sentence."""
    words = [text.split() for text in texts]
    shortened = False
    while True:
        parts = [" ".join(part) for part in words] if shortened else texts
        encoded = tokenizer(prompt.fill(parts[0], parts[1] if len(parts) > 1 else "", tokenizer.mask_token))
        over = len(encoded["input_ids"]) - max_length
        if over <= 0:
            return {name: encoded[name] for name in encoded if name in tokenizer.model_input_names}, shortened
        longest = max(words, key=len)
        if not longest:
            raise LabError(
                f"max_length = {max_length}: the template {prompt.template!r} alone takes {max_length + over} tokens. "
                "Raise max_length."
            )
        # A word is one token at least, so most of what is over may go at once only when words are whole tokens.
        del longest[-max(1, min(over // 8, len(longest) - 1)) :]
        shortened = True
