"""Tiny random models of every family, and small batches for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.merging import relative_difference
from adamix_lab.models.model import MixtureModel, attach

WIDTH, LAYERS, HEADS, INNER, VOCABULARY, LABELS = 16, 3, 2, 32, 50, 3


def _bert_like(**more: object) -> dict[str, object]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": 40, "num_labels": LABELS, **more,
    }  # fmt: skip


def bert(dropout: float = 0.0, cls: str = "BertForSequenceClassification", **more: object) -> nn.Module:
    from transformers.models.bert import modeling_bert as m

    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return build(getattr(m, cls), m.BertConfig, **_bert_like(**rates, **more))


def roberta(dropout: float = 0.0, cls: str = "RobertaForSequenceClassification", **more: object) -> nn.Module:
    from transformers.models.roberta import modeling_roberta as m

    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "pad_token_id": 1}
    return build(getattr(m, cls), m.RobertaConfig, **_bert_like(**rates, **more))


def distilbert(dropout: float = 0.0, cls: str = "DistilBertForSequenceClassification") -> nn.Module:
    from transformers.models.distilbert import modeling_distilbert as m

    return build(
        getattr(m, cls), m.DistilBertConfig, vocab_size=VOCABULARY, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS,
        hidden_dim=INNER, max_position_embeddings=40, num_labels=LABELS, dropout=dropout, attention_dropout=dropout,
        seq_classif_dropout=dropout,
    )  # fmt: skip


def electra(dropout: float = 0.0) -> nn.Module:
    from transformers.models.electra import modeling_electra as m

    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "embedding_size": WIDTH}
    return build(m.ElectraForSequenceClassification, m.ElectraConfig, **_bert_like(**rates))


def deberta(dropout: float = 0.0) -> nn.Module:
    from transformers.models.deberta_v2 import modeling_deberta_v2 as m

    rates = {
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pooler_dropout": dropout,
    }
    more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": WIDTH}
    return build(m.DebertaV2ForSequenceClassification, m.DebertaV2Config, **_bert_like(**rates, **more))


def albert(dropout: float = 0.0) -> nn.Module:
    from transformers.models.albert import modeling_albert as m

    rates = {
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout_prob": dropout,
    }
    more = {"embedding_size": 8, "num_hidden_groups": 1}
    return build(m.AlbertForSequenceClassification, m.AlbertConfig, **_bert_like(**rates, **more))


def gpt2(dropout: float = 0.0, cls: str = "GPT2LMHeadModel", **more: object) -> nn.Module:
    from transformers.models.gpt2 import modeling_gpt2 as m

    return build(
        getattr(m, cls), m.GPT2Config, vocab_size=VOCABULARY, n_positions=40, n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, **more,
    )  # fmt: skip


def t5(dropout: float = 0.0) -> nn.Module:
    from transformers.models.t5 import modeling_t5 as m

    return build(
        m.T5ForConditionalGeneration, m.T5Config, vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=INNER,
        num_layers=2, num_heads=HEADS, dropout_rate=dropout, decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip


def llama(dropout: float = 0.0, cls: str = "LlamaForCausalLM") -> nn.Module:
    from transformers.models.llama import modeling_llama as m

    return build(
        getattr(m, cls), m.LlamaConfig, vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=1, max_position_embeddings=40,
        attention_dropout=dropout, num_labels=LABELS, pad_token_id=0,
    )  # fmt: skip


FAMILIES = {
    "bert": bert, "roberta": roberta, "distilbert": distilbert, "deberta-v2": deberta, "albert": albert,
    "gpt2": gpt2, "t5": t5, "llama": llama,
}  # fmt: skip


def build(model_class: type, config_class: type, **settings: object) -> nn.Module:
    """A seeded model whose weights are large enough for routes to matter."""
    torch.manual_seed(0)
    model = model_class(config_class(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def batch(rows: int = 4, tokens: int = 7, seed: int = 0, pad: bool = True) -> dict[str, Tensor]:
    """Token ids (none is padding) and a mask; the last rows are shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    if pad and tokens > 3:
        mask[-1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def labels(rows: int = 4, classes: int = LABELS) -> Tensor:
    return torch.arange(rows) % classes


def inputs(model: nn.Module, rows: int = 4, tokens: int = 7) -> dict[str, Tensor]:
    """A batch that suits the model: T5 also reads decoder ids."""
    made = batch(rows, tokens)
    if model.config.is_encoder_decoder:
        made["decoder_input_ids"] = made["input_ids"][:, :4]
    return made


def shake(mixture: MixtureModel, scale: float = 0.3, seed: int = 1) -> MixtureModel:
    """Random experts (LoRA's B starts at zero, where routes would not show)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in mixture.expert_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return mixture


def mixed(model: nn.Module, adaptation: Adaptation, **settings: object) -> MixtureModel:
    """Attached and shaken."""
    return shake(attach(model, adaptation, **settings))  # type: ignore[arg-type]


def gradients(mixture: MixtureModel) -> dict[str, Tensor]:
    """Gradients of experts and head by name, and cleared."""
    named = [*mixture.expert_parameters(), *mixture.head_parameters()]
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}
    mixture.zero_grad(set_to_none=True)
    return found


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest max|difference| / max|gradient| over the tensors."""
    assert a.keys() == b.keys()
    return max(relative(a[name], b[name]) for name in a)


def relative(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max|b|."""
    return relative_difference(a, b)


def state(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    return {name: (t.clone(), t.requires_grad) for name, t in [*model.named_parameters(), *model.named_buffers()]}


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def classes(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def same(before: dict, after: dict) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(before[k][0], after[k][0]) and before[k][1] == after[k][1] for k in before
    )


def logits(model: nn.Module, **more: object) -> Tensor:
    plain = model.model if isinstance(model, MixtureModel) else model
    with torch.no_grad():
        return model(**inputs(plain), **more).logits
