"""Tiny random models of many architectures, each with the sites of a LoRA and a small batch that it takes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROWS, TOKENS, WIDTH = 4, 8, 16  # two views of 4 rows are 8: as many as tokens, where axes are easily mistaken
QUERY_VALUE = ["self.query", "self.value"]

_SIZES = {
    "vocab_size": 64, "hidden_size": WIDTH, "d_model": WIDTH, "dim": WIDTH, "n_embd": WIDTH, "embedding_size": WIDTH,
    "num_hidden_layers": 2, "n_layers": 2, "n_layer": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 2, "n_heads": 2, "n_head": 2, "num_heads": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "hidden_dim": 32, "d_ff": 32,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "ffn_dim": 32, "d_inner": 32, "d_kv": 8, "d_head": 8, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "num_labels": 3, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How to make one: classes of transformers by name, what its configuration has besides small sizes, its sites."""

    model: str
    config: str
    targets: list[str] | None = None  # None: those of the library's own table
    more: dict[str, Any] = field(default_factory=dict)
    own: Callable[[], nn.Module] | None = None


def _text(name: str, targets: list[str] | None = None, head: str = "ForSequenceClassification", **more: Any) -> Kind:
    return Kind(name + head, name + "Config", targets, more)


def _decoder(name: str, targets: list[str] | None = None, head: str = "ForCausalLM", **more: Any) -> Kind:
    return _text(name, targets, head, **more)


KINDS = {
    "BERT": _text("Bert"),
    "BERT, mean of all tokens": Kind("", "BertConfig", own=lambda: mean_bert()),
    "MiniLM": _text("Bert", num_hidden_layers=3, intermediate_size=64),
    "RoBERTa": _text("Roberta"),
    "DistilBERT": _text("DistilBert"),
    "ELECTRA": _text("Electra"),
    "XLM-RoBERTa": _text("XLMRoberta"),
    "CamemBERT": _text("Camembert"),
    "ALBERT": _text("Albert"),
    "DeBERTa": _text("Deberta", ["self.in_proj"], relative_attention=True, pos_att_type=["p2c", "c2p"],
                     pooler_hidden_size=WIDTH),
    "DeBERTa-v2": _text("DebertaV2", pooler_hidden_size=WIDTH),
    "DeBERTa-v3": _text("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
                        position_buckets=16, norm_rel_ebd="layer_norm", position_biased_input=False,
                        type_vocab_size=0, pooler_hidden_size=WIDTH),
    "MPNet": _text("MPNet", ["attn.q", "attn.v"]),
    "ModernBERT": _text("ModernBert", ["attn.Wo"], cls_token_id=0, sep_token_id=2),
    "ConvBERT": _text("ConvBert", QUERY_VALUE),
    "BigBird": _text("BigBird", QUERY_VALUE, attention_type="original_full"),
    "Longformer": _text("Longformer", QUERY_VALUE, attention_window=4, max_position_embeddings=66),
    "Nyströmformer": _text("Nystromformer", QUERY_VALUE, num_landmarks=8, segment_means_seq_len=8),
    "XLNet": _text("XLNet", ["ff.layer_1"]),
    "Funnel": _text("Funnel", ["q_head", "v_head"], block_sizes=[1, 1], num_decoder_layers=1),
    "Reformer": _text("Reformer", ["self_attention.query", "self_attention.value"],
                      local_attn_chunk_length=4, axial_pos_shape=[2, 4], axial_pos_embds_dim=[8, 8],
                      attn_layers=["local", "local"], attention_head_size=8, feed_forward_size=32, is_decoder=False),
    "GPT-2": _decoder("GPT2", head="LMHeadModel"),
    "GPT-Neo": _decoder("GPTNeo", ["q_proj", "v_proj"], attention_types=[[["global", "local"], 1]], window_size=4),
    "GPT-NeoX": _decoder("GPTNeoX", ["query_key_value"]),
    "OPT": _decoder("OPT", ["q_proj", "fc1"], word_embed_proj_dim=WIDTH),
    "BLOOM": _decoder("Bloom", ["query_key_value"]),
    "Falcon": _decoder("Falcon", ["query_key_value"]),
    "Llama": _decoder("Llama"),
    "Mistral": _decoder("Mistral"),
    "Qwen2": _decoder("Qwen2"),
    "Qwen3": _decoder("Qwen3"),
    "Gemma": _decoder("Gemma"),
    "Phi": _decoder("Phi", ["q_proj", "v_proj"]),
    "Mamba": _decoder("Mamba", ["mixer.in_proj"], state_size=4, use_mambapy=False),
    "T5": _text("T5", ["SelfAttention.v"], head="ForConditionalGeneration", decoder_start_token_id=0),
    "BART": _text("Bart", ["self_attn.v_proj"], "ForConditionalGeneration", decoder_start_token_id=0),
    "ViT": Kind("ViTForImageClassification", "ViTConfig", ["attention.q_proj", "attention.v_proj"],
                {"image_size": 16, "patch_size": 8}),
    "SigLIP": Kind("SiglipForImageClassification", "SiglipConfig", ["self_attn.q_proj", "self_attn.v_proj"],
                   {"vision_config": {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
                                      "num_attention_heads": 2, "image_size": 16, "patch_size": 8}}),
    "SigLIP, out_proj": Kind("SiglipForImageClassification", "SiglipConfig", ["head.attention.out_proj"],
                   {"vision_config": {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
                                      "num_attention_heads": 2, "image_size": 16, "patch_size": 8}}),
    "Whisper": _text("Whisper", ["self_attn.v_proj"], "ForConditionalGeneration", decoder_start_token_id=0,
                     num_mel_bins=8, max_source_positions=10, max_target_positions=20),
    "wav2vec 2.0": Kind("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", ["q_proj", "v_proj"],
                        {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3],
                         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
                         "classifier_proj_size": 16, "use_weighted_layer_sum": False}),
    "nn.TransformerEncoder": Kind("", "", ["linear2"], own=lambda: Own()),
    "nn.TransformerEncoder, no biases": Kind("", "", ["linear2"], own=lambda: Own(bias=False)),
    "nn.TransformerEncoder, out_proj": Kind("", "", ["out_proj"], own=lambda: Own()),
}  # fmt: skip


class Own(nn.Module):
    """A classifier of one's own on PyTorch's encoder."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, WIDTH)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True, **more), 2)
        self.classifier = nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.classifier(self.encoder(self.embed(input_ids)).mean(1)))


def mean_bert() -> nn.Module:
    """A class of one's own whose name ends like transformers' and that pools all tokens."""
    from transformers import BertModel, BertPreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class MeanBertForSequenceClassification(BertPreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bert, self.classifier = BertModel(config, add_pooling_layer=False), nn.Linear(WIDTH, 3)
            self.post_init()

        def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            return SequenceClassifierOutput(logits=self.classifier((states * mask).sum(1) / mask.sum(1)))

    return MeanBertForSequenceClassification(configuration("BertConfig"))


def configuration(name: str, **more: Any) -> Any:
    """Small sizes, by whichever names the configuration has for them."""
    import transformers

    made = getattr(transformers, name)
    known = made().__dict__.keys() | set(getattr(made, "attribute_map", {}))
    return made(**{key: value for key, value in _SIZES.items() if key in known} | more)


def build(name: str) -> nn.Module:
    """Seeded, weights large enough for routes to matter, in evaluation mode."""
    import transformers

    torch.manual_seed(0)
    kind = KINDS[name]
    if kind.own:
        model = kind.own()
    else:
        model = getattr(transformers, kind.model)(configuration(kind.config, **kind.more))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def inputs(model: nn.Module) -> dict[str, Tensor]:
    """A batch of ROWS rows that the model takes: tokens (the last row is shorter), pictures or sound."""
    generator = torch.Generator().manual_seed(0)
    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        return {name: torch.randn(ROWS, 3, 16, 16, generator=generator)}
    if name == "input_values":
        return {name: torch.randn(ROWS, 400, generator=generator)}
    if name == "input_features":
        ids = torch.randint(3, 64, (ROWS, 5), generator=generator)
        return {name: torch.randn(ROWS, 8, 20, generator=generator), "decoder_input_ids": ids}
    made = {"input_ids": torch.randint(3, 64, (ROWS, TOKENS), generator=generator)}
    if not isinstance(model, Own):
        made["attention_mask"] = torch.ones(ROWS, TOKENS, dtype=torch.long)
        made["attention_mask"][-1, -2:] = 0
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        made["decoder_input_ids"] = made["input_ids"][:, :5]
    return made


# -- the table of docs/architectures.md ----------------------------------------------------------------------

WAYS = ("sites called", "independent", "per example", "shared prefix", "cut last block", "cached prefix", "tree")


def row(name: str) -> dict[str, str]:
    """What each way does on a model, each answer compared with plain calls (one route a call)."""
    import close
    import tiny

    from adamix_lab.core.adaptations import LoRA
    from adamix_lab.core.errors import LabError
    from adamix_lab.fast.blocks import cut_last_block, fans_out, may_cut, routed_logits
    from adamix_lab.fast.prefix import cached_prefix, may_cache
    from adamix_lab.fast.tree import capture, tree_logits, walks
    from adamix_lab.models.check import takes_groups
    from adamix_lab.models.model import attach

    def cell(fast: bool, found: Tensor, expected: Tensor) -> str:
        close.assert_close(found, expected)
        return "fast" if fast else "plain passes"

    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        try:
            mixture = attach(build(name), LoRA(2), experts=2, share="B", targets=KINDS[name].targets)
        except LabError as error:
            assert "would have no effect" in str(error)
            return {way: "refused" if way == "sites called" else "–" for way in WAYS}
        mixture = tiny.shake(mixture).double().eval()
        checked = not any("is not known" in str(w.message) for w in said)
        batch = {n: v.double() if v.is_floating_point() else v for n, v in inputs(mixture.model).items()}
        every = mixture.space.enumerate()
        alone = torch.stack([mixture(selection=route, **batch).logits for route in every])  # plain calls
        assert all(not torch.allclose(alone[0], other) for other in alone[-1:])
        numbers = torch.stack([torch.arange(ROWS), -1 - torch.arange(ROWS)]) % len(every)  # [2, B]
        routes, mixed, by_row = every[[0, -1]], every[numbers], alone[numbers, torch.arange(ROWS)]
        groups = takes_groups(mixture, batch).permitted
        found = {
            "sites called": "yes" if checked else "not checked",
            "independent": cell(groups, routed_logits(mixture, batch, routes), alone[[0, -1]]),
            "per example": cell(groups, routed_logits(mixture, batch, mixed), by_row),
            "shared prefix": cell(
                fans_out(mixture, batch), routed_logits(mixture, batch, routes, "shared_prefix"), alone[[0, -1]]
            ),
        }
        with cut_last_block(mixture.model, batch):
            cut = mixture(selection=routes[1], **batch).logits
        found["cut last block"] = cell(may_cut(mixture.model, batch), cut, alone[-1])
        found["cached prefix"] = "refused"
        if may_cache(mixture).permitted:
            top, cache = cached_prefix(mixture)
            found["cached prefix"] = cell(True, top.eval()(selection=routes[1], **cache(batch)).logits, alone[-1])
        else:
            with contextlib.suppress(LabError):
                cached_prefix(mixture)
                raise AssertionError("a prefix was cached that a check does not permit")
        walked = capture(mixture, batch) is not None and walks(mixture, batch)
        found["tree"] = cell(walked, tree_logits(mixture, batch).transpose(0, 1), alone)
    return found


def table(names: Iterable[str] = KINDS) -> str:
    """The rows in Markdown."""
    lines = [f"| model | {' | '.join(WAYS)} |", f"|---|{'---|' * len(WAYS)}"]
    for name in names:
        found = row(name)
        lines.append(f"| {name} | {' | '.join(found[way] for way in WAYS)} |")
    return "\n".join(lines) + "\n"


PAGE = Path(__file__).resolve().parent.parent / "docs" / "architectures.md"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text(encoding="utf-8").partition("| model |")[0] + table(), encoding="utf-8")
