"""Parameter counts of the reference, to the unit, on models of the real sizes without memory (device meta)."""

import pytest
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.models.model import attach, detach
from adamix_lab.training.report import parameter_report


def bert_base():
    from transformers.models.bert.modeling_bert import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=3))


def roberta_large():
    from transformers.models.roberta.modeling_roberta import RobertaConfig, RobertaForSequenceClassification

    sizes = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    more = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "num_labels": 3}
    return RobertaForSequenceClassification(RobertaConfig(**sizes, **more))


def gpt2_medium():
    from transformers.models.gpt2.modeling_gpt2 import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))


CASES = [  # model, adaptation, M, shared side: trained experts, merged, head, frozen base
    (bert_base, Bottleneck(48), 4, "up", 2_223_360, 894_528, 2_307, 109_482_240),
    (roberta_large, Bottleneck(16), 4, "up", 1_992_192, 811_392, 1_052_675, 354_310_144),
    (gpt2_medium, Bottleneck(8, "gelu_new"), 8, "up", 1_795_584, 417_984, 0, 354_823_168),
    (gpt2_medium, LoRA(4, alpha=32), 8, "B", 1_769_472, 393_216, 0, 354_823_168),
]
NAMES = ["bert-base r48", "roberta-large r16", "gpt2-medium adapter r8", "gpt2-medium LoRA r4"]


@pytest.mark.parametrize(
    ("build", "adaptation", "experts", "share", "trained", "merged", "head", "base"), CASES, ids=NAMES
)
def test_counts_of_the_paper(build, adaptation, experts, share, trained, merged, head, base):
    with torch.device("meta"):
        model = build()
        mixture = attach(model, adaptation, experts, share)  # inside the block, too: starts are drawn on the CPU
    assert {parameter.device.type for parameter in mixture.parameters()} == {"meta"}
    report = parameter_report(mixture)
    assert (report.experts, report.merged, report.head, report.base) == (trained, merged, head, base)
    trainable = sum(p.numel() for p in mixture.parameters() if p.requires_grad)
    assert trainable == trained + head
    plain = sum(p.numel() for p in detach(mixture).parameters())
    assert plain == base + head
