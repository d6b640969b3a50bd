"""Where adaptations go: the right sites of known models, patterns for any other, near misses named."""

from dataclasses import FrozenInstanceError

import pytest
import tiny
import torch
from torch import nn

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.core.sites import (
    ARCHITECTURES,
    Architecture,
    class_names,
    count_answers,
    declare,
    find_head,
    find_sites,
    head_pooling,
    new_head,
    read_contract,
    write_contract,
)
from adamix_lab.models.model import attach, detach

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


def test_what_is_promised_of_architectures():
    def having(what):
        return {kind for kind, known in ARCHITECTURES.items() if getattr(known, what)}

    encoders = {"bert", "roberta", "electra", "xlm-roberta", "camembert"}
    decoders = {"gpt2", "llama", "mistral", "qwen2", "qwen3"}
    assert having("fans_out") == encoders | decoders | {"distilbert"}  # several routes share what lies below them
    assert having("cut") == encoders | {"distilbert"}  # the last block works for one position
    assert having("attention") == having("cut")  # whose scores are then those of one query
    assert having("prompts") == encoders | decoders  # prompt and prefix tuning
    assert having("adapters") == {"bert", "roberta", "electra", "deberta-v2", "distilbert", "gpt2", "llama"}  # exports


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


def test_blocks_count_within_a_stack():
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        CLIPConfig,
        CLIPModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    def found(model, targets, blocks):
        return [path.replace("layers.", "layer.") for path in find_sites(model, targets, blocks)]

    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=4, num_decoder_layers=2)
    )
    ends = ["encoder.block.3.layer.1.DenseReluDense.wo", "decoder.block.1.layer.2.DenseReluDense.wo"]
    assert found(t5, "DenseReluDense.wo", [-1]) == ends
    assert found(t5, "DenseReluDense.wo", [3]) == ends[:1] and len(found(t5, "DenseReluDense.wo", [-4, 0])) == 2
    assert found(t5, "lm_head|DenseReluDense.wo".split("|"), [-1]) == ends  # the head lies in no block
    small = {
        "d_model": 8,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8,
        "vocab_size": 9,
    }
    bart = BartForConditionalGeneration(BartConfig(**small, decoder_ffn_dim=8, encoder_layers=3, decoder_layers=1))
    assert found(bart, "layers.*.fc2", [-1]) == ["model.encoder.layer.2.fc2", "model.decoder.layer.0.fc2"]
    part = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "projection_dim": 4}
    text = {**part, "num_hidden_layers": 3, "vocab_size": 9}
    clip = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**part, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4})
    )
    assert found(clip, "mlp.fc2", [-1]) == [
        "text_model.encoder.layer.2.mlp.fc2",
        "vision_model.encoder.layer.1.mlp.fc2",
    ]
    for block in (4, -5):
        with pytest.raises(ValueError, match=rf"Block {block} holds no site: expected one of \[0, 1, 2, 3\]"):
            find_sites(t5, "DenseReluDense.wo", [block])
    with pytest.raises(ValueError, match=r"Block -1 holds no site: expected one of \[0\]"):
        find_sites(tiny.bert(), "layer.0.output.dense", [-1])  # the last block is the model's, with a site or without


def test_near_misses_are_told_where_there_are_some():
    with pytest.raises(ValueError, match=r"matches no module.*\. Near misses: '.*intermediate\.dense'"):
        find_sites(tiny.bert(), "bert.encoder.layer.*.intermediate.dens")
    with pytest.raises(ValueError, match=r"\*\* for several\.$"):
        find_sites(tiny.bert(), "qqqqqqq")


def test_sites_in_the_head_are_left_out_and_said():
    with pytest.warns(UserWarning, match=r"No experts at classifier\.dense: the head trains whole"):
        mixture = attach(tiny.roberta(), LoRA(2), targets="dense")
    assert mixture.mixture.sites == tuple(find_sites(tiny.roberta(), "roberta.**.dense"))
    with pytest.raises(ValueError, match=r"Every target lies in the head \(classifier\.dense, .*train_head=False"):
        attach(tiny.roberta(), LoRA(2), targets=["classifier.dense", "out_proj"])
    frozen = attach(tiny.roberta(), LoRA(2), targets="classifier.dense", train_head=False)
    assert list(frozen.sites) == ["classifier.dense"] and not frozen.head


def test_a_site_inside_another_is_refused_before_anything_is_attached():
    class Wrapped(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.inner = nn.Linear(4, 4)

    model = nn.Sequential(Wrapped(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"Site '0\.inner' lies inside site '0'"):
        attach(model, LoRA(2), targets="**")
    assert type(model[0].inner) is type(model[1]) is nn.Linear


@pytest.mark.filterwarnings("ignore:.*(quantization|quantize_per).*")
def test_weights_that_cannot_be_trained_around_are_named():
    from accelerate import cpu_offload

    packed = torch.ao.quantization.quantize_dynamic(tiny.bert(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match=r"layer\.0\.attention\.self\.query'.*quantised for inference.*what fold gives"):
        attach(packed, Bottleneck(4))
    model = tiny.bert()
    model.classifier = packed.classifier  # far from the sites, and no gradient reaches them
    with pytest.raises(TypeError, match=r"'classifier', a Linear, holds no parameters"):
        attach(model, Bottleneck(4))
    model = tiny.bert()
    whole = torch.ones(tiny.WIDTH, tiny.INNER, dtype=torch.int8)
    model.bert.encoder.layer[1].output.dense.weight = nn.Parameter(whole, requires_grad=False)
    with pytest.raises(TypeError, match=r"layer\.1\.output\.dense', a Linear, holds torch\.int8; .*expected floats"):
        attach(model, Bottleneck(4))
    model = tiny.bert()
    model.classifier.weight = nn.Parameter(torch.ones(3, tiny.WIDTH, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"head's 'weight' is torch\.int8 and would train"):
        attach(model, Bottleneck(4))
    model = tiny.bert()
    cpu_offload(model, torch.device("cpu"))
    with pytest.raises(TypeError, match=r"output\.dense', a Linear, is offloaded.*expected floats in memory"):
        attach(model, Bottleneck(4))


def test_of_an_architecture_nothing_is_assumed():
    known = Architecture("layers", "mlp.down")
    with pytest.raises(FrozenInstanceError):
        known.fused = True
    assert not (known.fused or known.fans_out or known.prompts)
    assert known.patterns("ffn") == ["layers.*.mlp.down"] and known.patterns("ffn", "query") == []


def test_names_of_classes_are_those_that_somebody_gave():
    model = tiny.bert()
    assert class_names(model) == () and class_names(nn.Linear(2, 2)) == ()
    declare(model, "classes", ["no", "yes", "who knows"])
    assert class_names(model) == ("no", "yes", "who knows") and head_pooling(model) == "cls"
    declare(nn.Linear(2, 2), "classes", ["no", "yes"])  # which has no configuration to say it in
    before = read_contract(model)
    declare(model, "spans", ["no"])  # answers that nobody names
    assert read_contract(model) == before


def test_answers_are_counted_where_the_head_counts_them():
    model = tiny.bert()
    model.config.num_labels = 7
    assert count_answers(model) == tiny.LABELS  # as the model was built
    del model.num_labels
    assert count_answers(model) == 7  # BART and T5 look it up
    assert count_answers(tiny.gpt2()) is None and tiny.gpt2().config.num_labels == 2  # a head of another kind


def test_a_contract_is_put_back_and_nothing_beside_it():
    model = tiny.bert()
    before = read_contract(model)
    model.config.num_labels, model.num_labels = 7, 7
    write_contract(model, before)
    assert read_contract(model) == before and model.num_labels == tiny.LABELS
    decoder = tiny.gpt2()  # which counts no answers
    write_contract(decoder, read_contract(decoder))
    assert not hasattr(decoder, "num_labels")
    plain = nn.Linear(2, 2)  # without a configuration
    plain.num_labels = 2
    write_contract(plain, read_contract(plain))
    assert plain.num_labels == 2


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


def test_what_knows_no_start_of_its_own_starts_small():
    """A part without `reset_parameters` in a model without `_init_weights`: matrices small, vectors one, biases 0."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.bias = nn.Parameter(torch.full((7,), 5.0)), nn.Parameter(torch.full((7,), 5.0))
            self.matrix = nn.Parameter(torch.full((40, 50), 5.0), requires_grad=False)

    fresh = new_head(nn.Linear(2, 2), {"own": Own()}, None, torch.Generator().manual_seed(0))["own"]
    assert fresh.scale.tolist() == [1] * 7 and fresh.bias.tolist() == [0] * 7 and fresh.matrix.requires_grad
    assert float(fresh.matrix.detach().std()) == pytest.approx(0.02, rel=0.1)
    other = new_head(nn.Linear(2, 2), {"own": Own()}, None, torch.Generator().manual_seed(1))["own"]
    assert not torch.equal(fresh.matrix, other.matrix)


def test_a_hidden_layer_as_wide_as_there_are_answers_keeps_its_width():
    model = tiny.roberta(num_labels=tiny.WIDTH)
    fresh = new_head(model, find_head(model), 5, torch.Generator().manual_seed(0))["classifier"]
    assert (fresh.dense.out_features, fresh.out_proj.out_features) == (tiny.WIDTH, 5)


class Head(nn.Module):
    """A head of many kinds of layers, and bare parameters."""

    def __init__(self):
        super().__init__()
        self.dense, self.out = nn.Linear(4, 4), nn.Linear(4, tiny.LABELS)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4)])
        self.conv, self.table, self.slope = nn.Conv1d(4, 4, 1), nn.Embedding(5, 4, padding_idx=0), nn.PReLU()
        self.attention, self.cell = nn.MultiheadAttention(4, 2), nn.GRU(4, 4)
        self.query, self.scale = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.rand(4))


def test_a_new_head_is_wholly_fresh():
    model = tiny.bert()
    head = {"classifier": Head()}
    with torch.no_grad():
        for tensor in head["classifier"].state_dict().values():
            tensor.fill_(7)

    def drawn(seed):
        return new_head(model, head, 5, torch.Generator().manual_seed(seed))["classifier"]

    state, before = torch.get_rng_state(), head["classifier"].state_dict()
    fresh, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all((tensor == 7).all() for tensor in before.values())
    assert not any((tensor == 7).any() for tensor in fresh.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(fresh.conv.weight, other.conv.weight) and not torch.equal(fresh.query, other.query)
    assert fresh.out.weight.shape == (5, 4) and fresh.out.bias.shape == (5,) and fresh.out.out_features == 5
    assert (fresh.norms[0].weight == 1).all() and (fresh.scale == 1).all() and not fresh.table.weight[0].any()
    assert (fresh.norms[1].running_var == 1).all() and all(p.requires_grad for p in fresh.parameters())
    plain = new_head(model, {"classifier": nn.ModuleList([head["classifier"].dense, head["classifier"].out])}, 5,
                     torch.Generator().manual_seed(0))["classifier"]  # fmt: skip
    assert torch.equal(plain[0].weight, fresh.dense.weight)  # linear layers have the numbers they had


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
