"""A classifier that reads the mean of all tokens' states, where the families' own heads read one position.

It is a model of transformers like any other, the family's base model under the family's own name and a linear layer:
sites, heads and checks find in it what they look for. No stock class of transformers has such a head.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from adamix_lab.core.errors import LabError

DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "summary_first_dropout")


class MeanForSequenceClassification(PreTrainedModel):
    """Dropout and a linear layer on the mean of the last states over the attention mask; the loss is transformers' own.

    Raises ValueError for a family that has no states of one row of tokens: encoder-decoders, those without a name for
    their base model.
    """

    config_class: Any = AutoConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        if getattr(config, "is_encoder_decoder", False):
            raise _unfit(config, "an encoder-decoder, whose answers come from a decoder")
        config.architectures = getattr(config, "architectures", None) or []  # families of two bases choose by it
        base = AutoModel.from_config(config)  # first: it settles how the family computes attention
        if not base.base_model_prefix or getattr(config, "hidden_size", None) is None:
            raise _unfit(config, "without one name or one width")
        if "add_pooling_layer" in inspect.signature(type(base)).parameters:
            base.pooler = None
        super().__init__(config)
        self.base_model_prefix = base.base_model_prefix
        self.num_labels = config.num_labels
        self.add_module(self.base_model_prefix, base)
        self.dropout = nn.Dropout(next((p for n in DROPOUTS if (p := getattr(config, n, None)) is not None), 0.0))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Logits `[B, num_labels]`, and the loss where labels are given. Without a mask every position counts."""
        named = {"token_type_ids": token_type_ids, "inputs_embeds": inputs_embeds, **inputs, "return_dict": True}
        given = {name: value for name, value in named.items() if value is not None}
        output = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **given)
        logits = self.classifier(self.dropout(mean_of_tokens(output.last_hidden_state, attention_mask)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        found = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.get("hidden_states"), attentions=output.get("attentions")
        )
        return found if inputs.get("return_dict", True) else found.to_tuple()


def mean_of_tokens(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """`[B, d]` from `[B, T, d]`: the mean over the positions where the mask `[B, T]` is not 0; without one over all.

    The states may hold several copies of the mask's rows, one copy after another. Raises ValueError for a mask of
    other positions.
    """
    if mask is None:
        return states.mean(1)
    if mask.dim() != 2 or mask.shape[1] != states.shape[1] or states.shape[0] % mask.shape[0]:
        raise LabError(f"A mask {list(mask.shape)} for states {list(states.shape)}: expected their rows and positions.")
    copies = states.shape[0] // mask.shape[0]  # not of len, which would fix the number of rows in a graph
    kept = (mask != 0).to(states.dtype).repeat(copies, 1).unsqueeze(-1)
    return torch.sum(states * kept, 1) / kept.sum(1).clamp(min=1)


def _unfit(config: Any, why: str) -> LabError:
    return LabError(
        f'pooling = "mean" with a model of type {config.model_type!r}, {why}: expected an encoder or a decoder. Take '
        'the family\'s own head: pooling="cls".'
    )
