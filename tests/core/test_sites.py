"""Where adaptations go: the right sites of known models, patterns for any other, near misses named."""

import pytest
import tiny
import torch
from torch import nn

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.core.model import attach, detach
from adamix_lab.core.sites import find_head, find_sites, new_head

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)

# The paper's sites: one FFN output a layer; query and value.
FFN = {
    "bert": (3, "bert.encoder.layer.0.output.dense"),
    "roberta": (3, "roberta.encoder.layer.0.output.dense"),
    "distilbert": (3, "distilbert.transformer.layer.0.ffn.lin2"),
    "deberta-v2": (3, "deberta.encoder.layer.0.output.dense"),
    "albert": (1, "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output"),
    "gpt2": (3, "transformer.h.0.mlp.c_proj"),
    "t5": (4, "encoder.block.0.layer.1.DenseReluDense.wo"),
    "llama": (3, "model.layers.0.mlp.down_proj"),
}
QV = {
    "bert": (6, "bert.encoder.layer.0.attention.self.query"),
    "roberta": (6, "roberta.encoder.layer.0.attention.self.query"),
    "distilbert": (6, "distilbert.transformer.layer.0.attention.q_lin"),
    "deberta-v2": (6, "deberta.encoder.layer.0.attention.self.query_proj"),
    "albert": (2, "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query"),
    "gpt2": (3, "transformer.h.0.attn.c_attn"),
    "t5": (12, "encoder.block.0.layer.0.SelfAttention.q"),  # 2 self, 2 self and 2 cross, q and v each
    "llama": (6, "model.layers.0.self_attn.q_proj"),
}
HEADS = {
    "bert": ["classifier"], "roberta": ["classifier"], "distilbert": ["pre_classifier", "classifier"],
    "deberta-v2": ["pooler", "classifier"], "albert": ["classifier"], "gpt2": [], "t5": [], "llama": [],
}  # fmt: skip


@every_family
@pytest.mark.parametrize(("adaptation", "sites"), [(Bottleneck(4), FFN), (LoRA(2), QV)], ids=["ffn", "qv"])
def test_known_sites(family, adaptation, sites):
    mixture = attach(tiny.FAMILIES[family](), adaptation)
    assert (len(mixture.sites), next(iter(mixture.sites))) == sites[family]
    assert list(mixture.head_paths) == HEADS[family]
    kinds = {path.rpartition(".")[2] for path in mixture.sites}
    assert len(kinds) == (1 if sites is FFN or family == "gpt2" else 2)
    assert not any("attention.output" in path for path in mixture.sites)


def test_gpt2_gets_query_and_value_slices():
    mixture = attach(tiny.gpt2(), LoRA(2))
    assert mixture.mixture.adaptation.slices == ((0, tiny.WIDTH), (2 * tiny.WIDTH, 3 * tiny.WIDTH))
    layer = next(iter(tiny.shake(mixture).sites.values()))
    x = torch.randn(2, tiny.WIDTH)
    q, k, v = (layer(x) - layer.base(x)).chunk(3, -1)
    assert q.any() and v.any() and not k.any()


def test_ia3_sites_follow_its_form():
    assert all("output.dense" in path for path in attach(tiny.bert(), IA3(feedforward=True)).sites)
    assert all("attention.self" in path for path in attach(tiny.bert(), IA3()).sites)
    assert all("output.dense" in path for path in attach(tiny.bert(), Bias()).sites)


def test_any_other_model_by_pattern():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    mixture = attach(model, LoRA(2), targets=["0", "2.*"])
    assert list(mixture.sites) == ["0", "2.0", "2.1"] and mixture.head == {}
    assert mixture(torch.randn(3, 4), selection=mixture.space.fixed(1)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"No targets are known for lora in a model of type 'Sequential'.*targets="):
        attach(nn.Sequential(nn.Linear(4, 8)), LoRA(2))


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("output.dense", 6),  # also after attention: said as it is
        ("layer.*.output.dense", 3),
        ("encoder.layer.2.output.dense", 1),
        ("bert.**.dense", 10),
        ("attention.self.*", 12),  # its dropout, too
        ("layer.[0].output.dense", None),
        ("layer.*.ouput.dense", None),
    ],
)
def test_patterns(pattern, number):
    model = tiny.bert()
    if number is None:
        with pytest.raises(ValueError, match=r"matches no module of Bert.*Near misses: .*layer\.\*\.output\.dense"):
            find_sites(model, pattern)
    else:
        assert len(find_sites(model, pattern)) == number


def test_blocks_are_chosen_by_number():
    assert list(attach(tiny.bert(), Bottleneck(4), blocks=[-1]).sites) == ["bert.encoder.layer.2.output.dense"]
    assert len(attach(tiny.t5(), Bottleneck(4), blocks=[1]).sites) == 2  # encoder and decoder
    assert list(attach(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), LoRA(1), targets="*", blocks=[-1]).sites) == [
        "1"
    ]
    for blocks, message in [
        ([5], r"Block 5 holds no site: expected one of \[0, 1, 2\]"),
        ([-4], "Block -4"),
        ([], "blocks is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            attach(tiny.bert(), Bottleneck(4), blocks=blocks)


# -- heads --------------------------------------------------------------------------------------


def test_a_new_head_has_the_build_of_the_old():
    model = tiny.roberta()
    fresh = new_head(model, find_head(model), 5, torch.Generator().manual_seed(0))["classifier"]
    assert fresh.dense.weight.shape == (tiny.WIDTH, tiny.WIDTH) and fresh.out_proj.weight.shape == (
        5,
        tiny.WIDTH,
    )
    assert not fresh.dense.bias.any() and not fresh.out_proj.bias.any()
    assert float(fresh.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    again = new_head(model, find_head(model), 5, torch.Generator().manual_seed(0))["classifier"]
    assert torch.equal(fresh.out_proj.weight, again.out_proj.weight)
    assert model.classifier.out_proj.out_features == tiny.LABELS  # the old one is left alone


def test_tasks_are_swapped_in_a_line():
    model = tiny.roberta(dropout=0.5)
    model.config.id2label, model.config.label2id = (
        {0: "no", 1: "maybe", 2: "yes"},
        {"no": 0, "maybe": 1, "yes": 2},
    )
    before, names = tiny.state(model), dict(model.config.id2label)
    mixture = tiny.mixed(model, Bottleneck(4)).eval()
    first = tiny.logits(mixture)
    mixture.add_task("five", num_labels=5)
    second = tiny.logits(mixture)
    assert mixture.tasks == ["default", "five"] and mixture.task == "five"
    assert second.shape == (4, 5) and mixture.model.config.num_labels == mixture.model.num_labels == 5
    assert all(p.requires_grad for _, p in [*mixture.expert_parameters(), *mixture.head_parameters()])
    mixture.train()
    mixture.switch("default")
    mixture.eval()
    assert torch.equal(tiny.logits(mixture), first) and model.config.id2label == names
    mixture.train().switch("five")
    assert all(module.training for module in mixture.head["classifier"].modules())
    mixture.eval().switch("default")
    mixture.switch("five")  # its head was last seen in training mode: dropout must not come back
    assert torch.equal(tiny.logits(mixture), second)
    detach(mixture)
    assert tiny.same(before, tiny.state(model)) and model.num_labels == 3 and model.config.id2label == names


def test_tasks_start_apart_and_from_seeds():
    def experts(mixture):
        return [p.detach().clone() for _, p in mixture.expert_parameters()]

    mixture = attach(tiny.bert(), Bottleneck(4))
    default = experts(mixture)
    mixture.add_task("a")
    a = experts(mixture)
    mixture.add_task("b")
    assert not torch.equal(default[0], a[0]) and not torch.equal(a[0], experts(mixture)[0])
    again = attach(tiny.bert(), Bottleneck(4))
    again.add_task("a")
    assert all(map(torch.equal, a, experts(again)))
    mixture.switch("default")
    assert all(map(torch.equal, default, experts(mixture)))


def test_task_refusals():
    mixture = attach(tiny.bert(), Bottleneck(4))
    mixture.add_task("sentiment")
    with pytest.raises(ValueError, match="Task 'sentiment' exists already"):
        mixture.add_task("sentiment")
    with pytest.raises(ValueError, match=r"Task 'sentimnet' is not known.*Did you mean 'sentiment'"):
        mixture.switch("sentimnet")
    with pytest.raises(ValueError, match="num_labels = 2, but the model trains no head"):
        attach(tiny.gpt2(), Bottleneck(4)).add_task("a", num_labels=2)


@every_family
def test_tasks_on_every_family(family):
    mixture = tiny.mixed(tiny.FAMILIES[family](), LoRA(2))
    first = tiny.logits(mixture)
    mixture.add_task("more", num_labels=5 if mixture.head_paths else None)
    assert tiny.logits(mixture).shape[-1] == (5 if mixture.head_paths else tiny.VOCABULARY)
    mixture.switch("default")
    assert torch.equal(tiny.logits(mixture), first)
