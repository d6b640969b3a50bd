"""The authors' vectors: their model rebuilt with Hugging Face classes, their weights in our places.

Their keys are remapped here and nowhere else (`adamix_lab` reads their files by code of its own).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation, Bottleneck, LoRA
from adamix_lab.core.objective import IGNORED, Consistency, next_token_loss
from adamix_lab.models.model import MixtureModel, attach

NAMES = [
    "bert_upshared", "roberta_upshared", "roberta_downshared", "roberta_unshared", "gpt2_bottleneck",
    "gpt2_lora_shareB", "gpt2_lora_unshared",
]  # fmt: skip


@dataclass
class Vector:
    """One reference file: its settings, its tensors, and the mixture that holds its weights."""

    settings: dict[str, str]
    tensors: dict[str, Tensor]
    mixture: MixtureModel

    @property
    def kind(self) -> str:
        return self.settings["kind"]

    @property
    def consistency(self) -> Consistency:
        """BERT none (the reference ignores the flag), RoBERTa 1, GPT-2 100 a target token."""
        return Consistency(weight={"bert": 0.0, "roberta": 1.0, "gpt2": 100.0}[self.kind])

    @property
    def views(self) -> int:
        return self.consistency.number

    def inputs(self) -> dict[str, Tensor]:
        names = ["input_ids", "attention_mask"] if self.kind != "gpt2" else ["input_ids"]
        return {name: self.tensors[name] for name in names}

    def training_batch(self) -> dict[str, Tensor]:
        """With labels. GPT-2's are already shifted by one in the file; ours are not, so a last token is appended."""
        if self.kind != "gpt2":
            return {**self.inputs(), "labels": self.tensors["labels"]}
        ids, targets, mask = (self.tensors[name] for name in ("input_ids", "lm_labels", "lm_mask"))
        labels = torch.where(mask.bool(), targets, -100)
        return {
            "input_ids": torch.cat([ids, targets[:, -1:]], 1),
            "labels": torch.cat([torch.full_like(labels[:, :1], -100), labels], 1),
        }

    def expected_gradients(self) -> dict[str, Tensor]:
        """The authors' gradients under our names."""
        given = {key.removeprefix("grad."): t for key, t in self.tensors.items() if key.startswith("grad.")}
        stacked, head = split(given, self.mixture)
        return {**stacked, **head}


def reference_next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`next_token_loss` as the authors' GPT-2 code has it: the sum over N tokens, divided by N + 0.0001."""
    tokens = (labels[:, 1:] != IGNORED).sum()
    return next_token_loss(logits, labels) * (tokens / (tokens + 0.0001))


def load(shared: Path, name: str) -> Vector:
    """The file's model, attached, with every weight copied in."""
    with safe_open(shared / "reference" / f"{name}.safetensors", "pt") as file:
        settings, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    mixture = attach(model_of(settings), adaptation_of(settings), int(settings["experts"]), shared_sides(settings))
    given = {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}
    stacked, plain = split(given, mixture)
    ours = dict(mixture.expert_parameters())
    assert ours.keys() == stacked.keys()
    with torch.no_grad():
        for key, parameter in ours.items():
            assert parameter.shape == stacked[key].shape, key
            parameter.copy_(stacked[key])
    copy_plain(mixture, plain)
    return Vector(settings, tensors, mixture.eval())


def model_of(settings: dict[str, str]) -> nn.Module:
    sizes = json.loads(settings["config"])
    if settings["kind"] == "gpt2":
        from transformers.models.gpt2.modeling_gpt2 import GPT2Config, GPT2LMHeadModel

        none = {
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        return GPT2LMHeadModel(GPT2Config(activation_function="gelu_new", **none, **sizes))
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if settings["kind"] == "bert":
        from transformers.models.bert.modeling_bert import BertConfig, BertForSequenceClassification

        return BertForSequenceClassification(BertConfig(**none, **sizes))
    from transformers.models.roberta.modeling_roberta import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(**none, **sizes))


def adaptation_of(settings: dict[str, str]) -> Adaptation:
    if settings.get("adaptation") == "lora":
        return LoRA(rank=int(settings["rank"]), alpha=float(settings["lora_alpha"]))
    if settings["kind"] == "gpt2":
        return Bottleneck(size=int(settings["rank"]), activation="gelu_new")
    return Bottleneck(size=int(settings["bottleneck"]))


def shared_sides(settings: dict[str, str]) -> list[str]:
    lora = settings.get("adaptation") == "lora"
    first, second = ("A", "B") if lora else ("down", "up")
    flags = {
        first: settings.get("share_down", settings.get("share_A")),
        second: settings.get("share_up", settings.get("share_B")),
    }
    return [side for side, flag in flags.items() if flag == "1"]


EXPERT = re.compile(
    r"(?P<block>.+)\.(?:ExpertSoup\.MoA_(?P<half>[AB])\.deepspeed_experts\.(?P<n>\d+)\.(?P<what>weight|bias)"
    r"|experts_lora_(?P<lora>[AB])\.(?P<m>\d+))"
)


def split(given: dict[str, Tensor], mixture: MixtureModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(experts stacked under our names, everything else)."""
    lists: dict[str, dict[int, Tensor]] = {}
    plain = {}
    for key, tensor in given.items():
        match = EXPERT.fullmatch(key)
        if match is None:
            plain[key] = tensor
        elif match["lora"]:
            # A is (2r, in): q's rows, then v's; the grouped convolution's B is (2d, r): likewise
            for n, half in enumerate(tensor.chunk(2)):
                lists.setdefault(f"{match['block']}.{match['lora']}{n}", {})[int(match["m"])] = half
        else:
            name = {"A": "down", "B": "up"}[match["half"]] + ("_bias" if match["what"] == "bias" else "")
            lists.setdefault(f"{site(match['block'], mixture)}.{name}", {})[int(match["n"])] = tensor
    return {name: torch.stack([found[n] for n in range(len(found))]) for name, found in lists.items()}, plain


def site(block: str, mixture: MixtureModel) -> str:
    """`bert.encoder.layer.0.output` holds the authors' module; ours wraps its `dense` (GPT-2: `c_proj`)."""
    return next(path for path in mixture.mixture.sites if path.rpartition(".")[0] == block)


def copy_plain(mixture: MixtureModel, plain: dict[str, Tensor]) -> None:
    """The frozen weights and the head, every one of ours filled exactly once."""
    ours = {key.replace(".base.", "."): p for key, p in mixture.model.named_parameters() if ".experts." not in key}
    with torch.no_grad():
        for key, parameter in ours.items():
            parameter.copy_(plain[key])
    rest = {key for key in plain.keys() - ours.keys() if not key.endswith("expert_score_weight")}
    buffers = (
        "position_ids",
        "attn.bias",
        "masked_bias",
        "lm_head.decoder.weight",
    )  # the last is tied to wte
    assert all(key.endswith(buffers) for key in rest), rest
