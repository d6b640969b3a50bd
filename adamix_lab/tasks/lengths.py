"""How long a row may be: the positions that a model has, and what a caller asks for."""

from __future__ import annotations

from typing import Any

from torch import nn

from adamix_lab.core.errors import LabError, positive

TOKENS = 128  # where nobody says otherwise
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")  # names of tables of positions


def positions(model: nn.Module) -> int | None:
    """The longest sequence that the model takes; None where nothing limits it (relative positions).

    A table of positions counts as it is used: RoBERTa's begins behind the padding's place, BART's at an offset. Without
    a table (rotary positions) it is the length that the configuration names.
    """
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    limits, both = [], getattr(config, "is_encoder_decoder", False)  # of which a text enters the encoder
    for path, module in model.named_modules():
        read = path.rpartition(".")[2] in _TABLES and "vision" not in path
        if read and hasattr(module, "num_embeddings") and not (both and ".decoder." in f".{path}"):
            before = -1 if getattr(module, "padding_idx", None) is None else module.padding_idx
            limits.append(module.num_embeddings - before - 1 - getattr(module, "offset", 0))
    named = getattr(config, "max_position_embeddings", None) or 0
    if named > 0 and (limits or not getattr(config, "relative_attention", False)):  # DeBERTa-v3's number is no limit
        limits.append(named)
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return min(limits) - virtual if limits else None


def allowed_length(max_length: int | None, model: nn.Module, tokenizer: Any) -> int:
    """Tokens a row, to which `encode` cuts: as asked for; None takes 128, or what model and tokenizer take if less.

    Raises ValueError where more is asked for than the model has positions.
    """
    most = positions(model)
    if max_length is None:
        return min(TOKENS, most or TOKENS, getattr(tokenizer, "model_max_length", None) or TOKENS)
    positive("max_length", max_length)
    if most is not None and max_length > most:
        raise LabError(
            f"max_length = {max_length}: expected at most {most}, the positions of {type(model).__name__}. Lower it "
            "or leave it out: longer texts are cut."
        )
    return max_length
