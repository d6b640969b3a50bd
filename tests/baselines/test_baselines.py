"""Baselines by one word: what trains, what they compute, the same train and evaluate, saving and resuming."""

import inspect
import sys
from dataclasses import replace

import close
import pytest
import tiny
import torch
from tiny_task import apart, one_thread, recipe, task, tokenizer, weights  # noqa: F401

from adamix_lab.baselines import BASELINES
from adamix_lab.baselines.making import (
    baseline,
    costs,
    ensemble,
    fitted,
    load_baseline,
    mean_of,
    train_apart,
)
from adamix_lab.core.adaptations import ADAPTATIONS
from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import merge
from adamix_lab.core.objective import Objective
from adamix_lab.core.sites import answer_kind, class_names
from adamix_lab.core.views import WAYS as PLAIN
from adamix_lab.fast.blocks import WAYS, plan_blocks, routed_logits
from adamix_lab.models.model import detach, load_trained, trained_parameters, trained_tensors
from adamix_lab.models.saving import load
from adamix_lab.tasks.pooling import MeanForSequenceClassification
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.report import parameter_report, save
from adamix_lab.training.train import make_optimizer, train

W, L, C, INNER = tiny.WIDTH, tiny.LAYERS, tiny.LABELS, tiny.INNER
HEAD = W * C + C
PEFT = ("prefix", "prompt")

ADAPTER = 2 * W * 16 + 16 + W
COUNTS = {  # trained, stored, at inference on the tiny BERT, by hand
    "head": (HEAD, HEAD, HEAD),
    "houlsby": (2 * L * ADAPTER + HEAD,) * 3,
    "pfeiffer": (L * ADAPTER + HEAD,) * 3,
    "lora": (L * 2 * 8 * 2 * W + HEAD, L * 2 * 8 * 2 * W + HEAD, HEAD),
    "adamix-lora": (L * 2 * 8 * (4 + 1) * W + HEAD, L * 2 * 8 * 2 * W + HEAD, HEAD),  # four A, one B
    "prefix": (20 * L * 2 * W + HEAD,) * 3,
    "prompt": (20 * W + HEAD,) * 3,
    "ia3": (L * (2 * W + INNER) + HEAD, L * (2 * W + INNER) + HEAD, HEAD),
    "unipelt": (L * (ADAPTER + W + 1 + 2 * (8 * 2 * W + W + 1)) + HEAD,) * 3,
    "wide": (L * (2 * W * 64 + 64 + W) + HEAD,) * 3,
    "adamix": (L * (4 * (W * 16 + 16) + 16 * W + W) + HEAD, L * ADAPTER + HEAD, L * ADAPTER + HEAD),
}


@pytest.mark.parametrize("name", COUNTS)
def test_trained_stored_and_inference_parameters(name):
    counted = costs(name, baseline(name, tiny.bert()))
    assert (counted.trained, counted.stored, counted.inference) == COUNTS[name]


def test_full_and_bitfit_train_what_they_say():
    model = tiny.bert()
    everything = sum(p.numel() for p in model.parameters())
    counted = costs("full", baseline("full", model))
    assert (counted.trained, counted.stored, counted.inference) == (everything, everything, HEAD)
    made = baseline("bitfit", tiny.bert())
    names = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert all(name.endswith("bias") or name.startswith("classifier") for name in names)
    assert {"bert.embeddings.LayerNorm.bias", "bert.encoder.layer.2.output.dense.bias"} <= names
    assert parameter_report(made).base + parameter_report(made).own + HEAD == everything


@pytest.mark.parametrize("name", BASELINES)
def test_the_table_names_the_settings_that_a_maker_takes(name):
    taken = inspect.signature(BASELINES[name].make).parameters
    assert BASELINES[name].settings == tuple(
        "blocks" if each == "placed" else each for each in taken if each not in ("model", "head", "seed")
    )


@pytest.mark.parametrize("name", BASELINES)
def test_only_what_is_named_gets_gradients_and_moves(name):
    made = baseline(name, tiny.bert(0.1))
    named = trained_parameters(made)
    assert {id(p) for p in named.values()} == {id(p) for p in made.parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    train(made, task(24), tokenizer(), fitted(name, recipe(steps=6, lr=BASELINES[name].lr)), progress=False)
    inside = {id(p) for p in named.values()}
    moved = {n for n, p in made.named_parameters() if not torch.equal(before[n], p)}
    frozen = {n for n, p in made.named_parameters() if id(p) not in inside}
    assert moved and not moved & frozen
    still = {n for n, p in made.named_parameters() if id(p) in inside} - moved
    # full fine-tuning has rows that no token reaches in a few steps, but no tensor that nothing reaches
    assert not still - {"model.bert.embeddings.token_type_embeddings.weight"}


@pytest.mark.parametrize("name", BASELINES)
def test_saved_and_loaded_it_answers_the_same(name, tmp_path):
    made = baseline(name, tiny.bert())
    with torch.no_grad():
        for parameter in trained_parameters(made).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    (result,) = evaluate(made, task(), tokenizer())
    back = load_baseline(tiny.bert(), save(made, tmp_path)).eval()
    assert torch.equal(evaluate(back, task(), tokenizer())[0].log_probabilities, result.log_probabilities)


def test_load_says_who_loads_a_baseline_without_sites(tmp_path):
    with pytest.raises(LabError, match=r"'bitfit', which trained weights of the base.*load_baseline"):
        load(tiny.bert(), save(baseline("bitfit", tiny.bert()), tmp_path))


@pytest.mark.parametrize("name", BASELINES)
def test_load_says_who_loads_a_baseline_where_baselines_are_not_imported(name, tmp_path, monkeypatch):
    folder, base = save(baseline(name, tiny.bert()), tmp_path), tiny.bert()
    by_baseline = "load_baseline(" in (folder / "README.md").read_text(encoding="utf-8")
    for kind in ("ia3-block", "unipelt"):  # as in a fresh process
        monkeypatch.delitem(ADAPTATIONS, kind)
    if by_baseline:
        with pytest.raises(LabError, match=r"holds the baseline '.*load_baseline\(model, folder\)"):
            load(base, folder)
    else:
        load(base, folder)
    monkeypatch.undo()
    load_baseline(tiny.bert(), folder)


@pytest.mark.parametrize("name", ["bitfit", "lora"])
def test_a_base_with_other_weights_is_refused(name, tmp_path):
    folder = save(baseline(name, tiny.bert()), tmp_path)
    other = tiny.bert()
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.weight.add_(1)
    with pytest.raises(ValueError, match="fingerprint"):
        load_baseline(other, folder)


@pytest.mark.parametrize("name", ["full", "lora", "unipelt"])
def test_an_interrupted_run_goes_on_bit_for_bit(name, tmp_path):
    def settings(**more):
        return fitted(name, recipe(steps=8, dev_fraction=0.2, evaluate_every=3, checkpoint_every=4, **more))

    class Stop(Exception):
        pass

    def stop(step):
        if step == 5:
            raise Stop

    whole, cut = baseline(name, tiny.bert(0.1)), baseline(name, tiny.bert(0.1))
    train(whole, task(), tokenizer(), settings(), tmp_path / "whole", progress=False)
    with pytest.raises(Stop):
        train(cut, task(), tokenizer(), settings(), tmp_path / "cut", progress=False, on_step=stop)
    again = baseline(name, tiny.bert(0.1))
    history = train(again, task(), tokenizer(), settings(), tmp_path / "cut", progress=False)
    assert history.resumed_from == 4
    assert apart(weights(whole), weights(again)) == 0
    with pytest.raises(ValueError, match="belongs to another run"):
        train(baseline("bitfit", tiny.bert(0.1)), task(), tokenizer(), settings(), tmp_path / "cut", progress=False)


def test_full_fine_tuning_equals_a_plain_loop():
    """Gradients and one step of AdamW against torch's own on the bare model."""
    batch = tiny.batch() | {"labels": tiny.labels()}
    made, plain = baseline("full", tiny.bert()), tiny.bert().requires_grad_(True)
    settings = recipe(weight_decay=0.1)
    Objective(made, fitted("full", settings).consistency, ways=WAYS)(
        batch, torch.zeros(1, 0, 0, dtype=torch.long)
    ).total.backward()
    plain(**batch).loss.backward()
    optimizers = [make_optimizer(made, settings)]
    decayed = [p for p in plain.parameters() if p.dim() > 1]
    rest = [p for p in plain.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizers.append(torch.optim.AdamW(groups, lr=settings.lr))
    for optimizer in optimizers:
        optimizer.step()
    for (name, ours), theirs in zip(made.model.named_parameters(), plain.parameters(), strict=True):
        if not name.endswith("key.bias"):  # softmax ignores it: its gradient is rounding, which AdamW blows up
            close.assert_close(ours, theirs, close.TRAINED)


def test_lora_and_ia3_are_those_of_peft():
    peft = pytest.importorskip("peft")
    ours = {"lora": baseline("lora", tiny.bert(), rank=2, alpha=4.0), "ia3": baseline("ia3", tiny.bert())}
    configs = {
        "lora": peft.LoraConfig(r=2, lora_alpha=4.0, target_modules=[*ours["lora"].sites]),
        "ia3": peft.IA3Config(
            target_modules=[*ours["ia3"].sites],
            feedforward_modules=[path for path in ours["ia3"].sites if "dense" in path],
        ),
    }
    generator = torch.Generator().manual_seed(3)
    for name, mixture in ours.items():
        theirs = peft.inject_adapter_in_model(configs[name], tiny.bert()).eval()
        values = dict(theirs.named_parameters())
        with torch.no_grad():
            for path, layer in mixture.sites.items():
                for side, mine in layer.experts.items():
                    at = f"lora_{side}.default.weight" if name == "lora" else "ia3_l.default"
                    other = values[f"{path}.{at}"]
                    mine.copy_(torch.randn(mine.shape, generator=generator))
                    other.copy_(mine.reshape(other.shape))
            close.assert_close(mixture(**tiny.batch()).logits, theirs(**tiny.batch()).logits)


def test_ia3_leaves_the_attention_output_alone():
    """peft's own list names `output.dense`, which matches the attention's as well."""
    sites = baseline("ia3", tiny.bert()).sites
    assert len(sites) == 3 * L and not any("attention.output" in name for name in sites)


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_virtual_tokens_are_heard(name):
    made = baseline(name, tiny.bert(), tokens=3)
    before = tiny.logits(made)
    with torch.no_grad():
        for _, parameter in made.own_parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(9))
    assert tiny.relative(tiny.logits(made), before) > 0.01


def test_peft_draws_from_the_seed_and_leaves_the_global_generator():
    models = [tiny.bert() for _ in range(3)]
    state = torch.get_rng_state()
    first, again, other = (weights(baseline("prefix", m, seed=s)) for m, s in zip(models, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert apart(first, again) == 0 < apart(first, other)


def test_detach_gives_the_base_back_after_full_fine_tuning():
    model = tiny.bert()
    before = tiny.state(model)
    made = baseline("full", model)
    train(made, task(24), tokenizer(), fitted("full", recipe(steps=2)), progress=False)
    assert not tiny.same(before, tiny.state(model))
    assert tiny.same(before, tiny.state(detach(made)))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2", "llama"])
@pytest.mark.parametrize("name", ["full", "houlsby", "pfeiffer", "lora", "prefix", "ia3", "unipelt"])
def test_other_families(family, name):
    if (family, name) == ("distilbert", "prefix"):
        with pytest.raises(ValueError, match="Virtual tokens are not known to work in a model of type 'distilbert'"):
            baseline(name, tiny.FAMILIES[family]())
        return
    made = baseline(name, tiny.FAMILIES[family]())
    batch = tiny.batch()
    batch["labels"] = tiny.labels() if made.head_paths else batch["input_ids"]
    routes = made.space.draw(torch.Generator().manual_seed(0), (1,))
    Objective(made, fitted(name, recipe()).consistency, ways=WAYS)(batch, routes).total.backward()
    # from the identity (B = 0) the other factor waits one step
    assert sum(bool(p.grad is not None and p.grad.any()) for p in trained_parameters(made).values()) > 0


def test_the_cut_of_the_last_block_changes_no_gradient():
    batch = tiny.batch() | {"labels": tiny.labels()}
    routes = torch.zeros(1, 0, 0, dtype=torch.long)
    grads = []
    for views, ways in (("shared_prefix", WAYS), ("independent", WAYS), ("independent", PLAIN)):
        made = baseline("full", tiny.bert())
        consistency = fitted("full", recipe()).consistency
        Objective(made, type(consistency)(0.0, views=views), ways=ways)(batch, routes).total.backward()
        trained = {name: p.grad for name, p in made.own_parameters() if p.grad is not None}
        grads.append({n: g for n, g in trained.items() if not n.endswith("key.bias")})  # 0 but for rounding
    for found in grads[:2]:
        close.assert_all_close(found, grads[2], close.GRADIENTS)
    assert plan_blocks(made) is None


def test_r_drop_views_differ_by_dropout_alone():
    """One expert has one route, so equal views without dropout, and different ones with it."""
    consistency = fitted("r-drop", recipe()).consistency
    assert (consistency.number, consistency.views, consistency.kind) == (2, "independent", "symmetric")
    for dropout in (0.0, 0.3):
        made = baseline("r-drop", tiny.bert(dropout)).train()
        routes = made.space.draw(torch.Generator().manual_seed(0), (2,))
        assert torch.equal(routes[0], routes[1])
        first, second = routed_logits(made, tiny.batch(), routes, consistency.views)
        assert close.is_close(first, second) == (dropout == 0)


def test_the_gate_of_unipelt_closes_and_opens():
    made = baseline("unipelt", tiny.bert())
    tiny.shake(made)
    with made.disabled():
        frozen = tiny.logits(made)
    for bias, closed in ((-50.0, True), (50.0, False)):
        with torch.no_grad():
            for name, parameter in made.expert_parameters():
                if name.endswith("gate_bias"):
                    parameter.fill_(bias)
        assert close.is_close(tiny.logits(made), frozen) == closed


def test_unipelt_can_be_mixed_like_any_adaptation():
    from adamix_lab.baselines.methods import UniPELT, sites_of

    model = tiny.bert()
    sites = sites_of(model, "unipelt", "query", "value") + sites_of(model, "unipelt", "ffn")
    mixed = tiny.mixed(model, UniPELT(4, 2), experts=3, share="up", targets=sites)
    assert mixed.space.counts == ((3, 1),) * (3 * L)
    assert not close.is_close(tiny.logits(mixed), tiny.logits(mixed, selection=mixed.space.fixed(1)))


def test_a_missing_peft_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for name in PEFT:
        with pytest.raises(ImportError, match=r"pip install 'adamix-lab\[peft\]'"):
            baseline(name, tiny.bert())


@pytest.mark.parametrize(
    ("name", "family", "settings", "message"),
    [
        ("bitfitt", "bert", {}, "Did you mean 'bitfit'"),
        ("lora", "bert", {"rnak": 2}, "Setting of lora 'rnak' is not known.*Did you mean 'rank'"),
        ("full", "bert", {"size": 2}, "Setting of full 'size' is not known"),
        ("head", "gpt2", {}, "head trains the task head, and this model has none"),
        ("bitfit", "llama", {}, "has none: expected one with biases"),
        ("prompt", "gpt2", {}, 'Use "prefix" for generation'),
        ("houlsby", "albert", {}, "Architecture for houlsby, 'albert' is not known"),
    ],
)
def test_mistakes_say_what_to_do(name, family, settings, message):
    with pytest.raises(ValueError, match=message):
        baseline(name, tiny.FAMILIES[family](), **settings)


def test_a_base_whose_weights_train_takes_no_second_task():
    made = baseline("bitfit", tiny.bert())
    with pytest.raises(ValueError, match="some of its own weights train"):
        made.add_task("other", num_labels=2)


def test_weights_of_another_baseline_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        load_trained(baseline("bitfit", tiny.bert()), weights(baseline("head", tiny.bert())))


def test_the_soup_is_the_mean_of_adapters_trained_apart():
    settings, parts = recipe(steps=8, batch_size=8, dev_fraction=0.0), []

    def load():
        return tiny.bert(0.1), tokenizer()

    soup, alone = train_apart(load, task(60), settings, experts=2, size=4, progress=False)
    for seed in (0, 1):
        one = baseline("single", tiny.bert(0.1), seed=seed, size=4)
        train(one, task(60), tokenizer(), replace(settings, seed=seed), progress=False)
        parts.append({name: tensor.clone() for name, tensor in trained_tensors(one).items()})
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    for name, tensor in trained_tensors(merge(soup)).items():
        close.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2, close.ROUNDED)
    assert len(alone) == 2 and soup.mixture.tied
    assert evaluate(soup, task(60), tokenizer())[0].log_probabilities.shape == (30, 3)
    both, mean = ensemble(alone), mean_of(alone)
    close.assert_close(both.log_probabilities.exp().sum(-1), torch.ones(30), close.ROUNDED)
    assert both.passes == 2 and mean.accuracy == pytest.approx((alone[0].accuracy + alone[1].accuracy) / 2)


def test_lora_in_some_blocks_only():
    sites = baseline("lora", tiny.bert(), blocks=[-1]).sites
    assert len(sites) == 2 and all(".layer.2." in path for path in sites)


@pytest.mark.parametrize("name", ["full", "prefix", "single"])
def test_what_answers_mean_comes_back_with_a_baseline(name, tmp_path):
    made = baseline(name, tiny.bert(problem_type="multi_label_classification"), seed=4)
    made.config.id2label = {0: "red", 1: "green", 2: "blue"}
    back = load_baseline(tiny.bert(), save(made, tmp_path))
    assert answer_kind(back.model) == "labels" and class_names(back.model) == ("red", "green", "blue")
    assert back.mixture.seed == 4


@pytest.mark.parametrize("name", ["full", "bitfit", "single"])
def test_a_head_that_reads_another_place_is_refused(name, tmp_path):
    mean = MeanForSequenceClassification(tiny.bert().config).eval()
    folder = save(baseline(name, mean), tmp_path)
    with pytest.raises(LabError, match="of pooling 'cls': expected 'mean', as trained"):
        load_baseline(tiny.bert(), folder)


def test_a_layer_named_base_trains_as_any_other():
    net = torch.nn.ModuleDict({"inner": torch.nn.ModuleDict({"base": torch.nn.Linear(2, 2)})})
    assert [name for name, _ in baseline("full", net).own_parameters()] == ["inner.base.weight", "inner.base.bias"]


@pytest.mark.parametrize("strategy", ["fixed", "random", "random-token", "ensemble"])
def test_every_strategy_is_the_one_answer_of_a_baseline_without_sites(strategy):
    one, other = evaluate(baseline("full", tiny.bert()), task(), tokenizer(), ["merged", strategy])
    close.assert_close(other.log_probabilities, one.log_probabilities)


@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama])
def test_virtual_tokens_do_not_make_a_decoder_answer_at_padding(build):
    """Among embeddings its head sees no padding: the answer to a sentence would hang on the longest of its batch."""
    with pytest.raises(ValueError, match="prompt: a head at the last token sees no padding"):
        baseline("prompt", decoder(build))
    made, batch = baseline("prefix", decoder(build)).eval(), tiny.batch()
    batch["input_ids"] *= batch["attention_mask"]  # padding is token 0
    short = {name: value[-1:, :5] for name, value in batch.items()}
    with torch.no_grad():
        close.assert_close(made(**batch).logits[-1:], made(**short).logits)


def decoder(build):
    name = {tiny.gpt2: "GPT2", tiny.llama: "Llama"}[build]
    return build(cls=f"{name}ForSequenceClassification")


def test_virtual_tokens_and_a_head_on_the_mean():
    config = tiny.bert().config
    with pytest.raises(ValueError, match="prefix: peft goes past a head on the mean"):
        baseline("prefix", MeanForSequenceClassification(config))
    made = baseline("prompt", MeanForSequenceClassification(config)).eval()
    assert made(**tiny.batch()).logits.shape == (4, tiny.LABELS)
