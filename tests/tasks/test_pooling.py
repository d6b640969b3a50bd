import json
from pathlib import Path

import architectures
import close
import pytest
import tiny
import tiny_grid
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import fold, merge
from adamix_lab.core.sites import count_answers, declare, head_kind, head_pooling
from adamix_lab.experiments.running import load as load_run
from adamix_lab.experiments.settings import Run
from adamix_lab.fast.blocks import fans_out, may_cut, routed_logits
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.fast.tree import tree_logits
from adamix_lab.interop.export import ONNX_FILE, export, run_onnx
from adamix_lab.models.model import attach, detach
from adamix_lab.models.saving import load
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.pooling import mean_of_tokens
from adamix_lab.training.evaluation import predict
from adamix_lab.training.report import save
from adamix_lab.training.shipped import load_saved
from adamix_lab.training.train import train

FAMILIES = {name: build for name, build in {**tiny.FAMILIES, "electra": tiny.electra}.items() if name != "t5"}


def folder_of(model, place):
    model.save_pretrained(place)
    tiny_task.tokenizer().save_pretrained(place)
    return str(place)


@pytest.fixture
def stock(tmp_path):
    """A tiny BERT with a head of its own, as a local folder."""
    return folder_of(tiny.bert(), tmp_path / "stock")


def mean_model(place, **more):
    return load_backbone(place, tiny.LABELS, pooling="mean", **more)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_reads_the_mean_of_the_positions_that_count(name, tmp_path):
    place = folder_of(FAMILIES[name](), tmp_path)
    model, _ = mean_model(place)
    assert head_kind(model) == "classification" and count_answers(model) == tiny.LABELS
    batch = tiny.batch()
    with torch.no_grad():
        states = model.base_model(**batch).last_hidden_state
        kept = batch["attention_mask"].bool()
        means = torch.stack([row[mask].mean(0) for row, mask in zip(states, kept, strict=True)])
        expected = model.classifier(means)
        close.assert_close(model(**batch).logits, expected)
        short = {key: value[-1:, : int(kept[-1].sum())] for key, value in batch.items()}
        close.assert_close(model(**short).logits, expected[-1:])
        close.assert_close(model(input_ids=short["input_ids"]).logits, expected[-1:])
    mixture = tiny.mixed(model, Bottleneck(4), experts=2)
    assert mixture.head_paths == ("classifier",)
    assert len(mixture.sites) == len(attach(FAMILIES[name](), Bottleneck(4), experts=2).sites)


def test_the_base_is_the_stock_one_and_the_head_follows_from_the_seed(stock):
    first, again, other = (mean_model(stock, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    kept = load_backbone(stock, tiny.LABELS)[0]  # it holds a head, for the first token: not this one's
    assert first.classifier.weight.shape == kept.classifier.weight.shape
    assert not torch.equal(first.classifier.weight, kept.classifier.weight)
    theirs = kept.bert.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in first.bert.state_dict().items())
    assert theirs.keys() - first.bert.state_dict().keys() == {"pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_the_loss_is_that_of_transformers(kind, stock):
    model, _ = mean_model(stock)
    declare(model, kind)
    batch = tiny.batch()
    labels = tiny.labels() if kind == "classes" else torch.rand(4, tiny.LABELS).round()
    found = model(**batch, labels=labels)
    loss = {
        "classes": torch.nn.functional.cross_entropy,
        "labels": torch.nn.functional.binary_cross_entropy_with_logits,
        "numbers": torch.nn.functional.mse_loss,
    }[kind]
    close.assert_close(found.loss.detach(), loss(found.logits.detach(), labels))
    assert torch.equal(model(**batch, labels=labels, return_dict=False)[1], found.logits)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_fast_ways_are_taken_or_refused_by_their_checks(name, tmp_path):
    model, _ = mean_model(folder_of(FAMILIES[name](), tmp_path))
    mixture = tiny.mixed(model, Bottleneck(4), experts=2, share="up", blocks=[-2, -1])
    batch = tiny.batch()
    routes = torch.stack([mixture.space.fixed(n) for n in (0, 1, 0)])
    assert fans_out(mixture, batch)
    assert not may_cut(mixture.model, batch)
    top, cache = cached_prefix(mixture)
    with torch.no_grad():
        expected = routed_logits(mixture, batch, routes)
        close.assert_close(routed_logits(mixture, batch, routes, "shared_prefix"), expected)
        close.assert_close(routed_logits(top, cache(batch), routes, "shared_prefix"), expected)
    with pytest.warns(UserWarning, match="its head reads every position"):
        every = tree_logits(mixture, batch)
    plain = [routed_logits(mixture, batch, route[None])[0] for route in mixture.space.enumerate()]
    close.assert_close(every, torch.stack(plain, 1).detach())


def test_trained_saved_and_loaded_with_the_same_head_only(stock, tmp_path):
    model, tokenizer = mean_model(stock)
    mixture = attach(model, Bottleneck(4), experts=2, share="up", blocks=[-1])
    task = tiny_task.task(24)
    before = mixture.model.classifier.weight.detach().clone()
    train(mixture, task, tokenizer, tiny_task.recipe(steps=2, cache_prefix=True))
    assert not torch.equal(mixture.model.classifier.weight, before)
    texts = [row["sentence"] for row in task.evaluation]
    expected = predict(mixture, tokenizer, texts)
    save(mixture, tmp_path / "saved", {"backbone": stock})
    assert "| head | on the mean of all tokens |" in (tmp_path / "saved" / "README.md").read_text()
    back, _, _ = load_saved(tmp_path / "saved")
    close.assert_close(predict(back, tokenizer, texts), expected)
    close.assert_close(predict(merge(back), tokenizer, texts), expected)
    with pytest.raises(ValueError, match="of pooling 'cls': expected 'mean', as trained"):
        load(load_backbone(stock, tiny.LABELS)[0], tmp_path / "saved", any_base=True)
    plain = attach(load_backbone(stock, tiny.LABELS)[0], Bottleneck(4), experts=2)
    save(plain, tmp_path / "plain")
    with pytest.raises(ValueError, match="of pooling 'mean': expected 'cls', as trained"):
        load(mean_model(stock)[0], tmp_path / "plain", any_base=True)


def test_a_folded_model_is_a_backbone_again(stock, tmp_path):
    mixture = tiny.mixed(mean_model(stock)[0], LoRA(2), experts=2)
    plain = fold(mixture)
    batch = tiny.batch()
    close.assert_close(plain(**batch).logits.detach(), mixture(**batch).logits.detach())
    place = folder_of(plain, tmp_path / "folded")
    again, _ = mean_model(place)
    assert torch.equal(again(**batch).logits, plain(**batch).logits)  # its trained head, too
    with pytest.raises(ValueError, match=r'a head that reads the mean of all tokens: expected pooling="mean"'):
        load_backbone(place, tiny.LABELS)
    assert type(detach(tiny.mixed(again, LoRA(2)))) is type(again)


@pytest.mark.parametrize("format", ["peft", "transformers", "peft-experts"])
def test_exports_that_stock_classes_read_are_refused(format, stock, tmp_path):
    mixture = tiny.mixed(mean_model(stock)[0], LoRA(2), experts=2)
    with pytest.raises(ValueError, match=f"^{format} is read into a class of transformers.*expected format 'onnx'"):
        export(mixture, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_onnx_leaves_padding_out(stock, tmp_path):
    pytest.importorskip("onnxruntime")
    mixture = tiny.mixed(mean_model(stock)[0], Bottleneck(4), experts=2)
    assert export(mixture, tmp_path / "out", "onnx").difference <= close.REORDERED.share
    batch = tiny.batch(3, 9)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    close.assert_close(run_onnx(tmp_path / "out" / ONNX_FILE, batch), mixture(**batch).logits.detach())


def test_a_family_of_two_bases_is_read_where_its_files_name_no_class(tmp_path):
    place = Path(folder_of(architectures.build("Funnel"), tmp_path / "funnel"))
    config = json.loads((place / "config.json").read_text())
    del config["architectures"]
    (place / "config.json").write_text(json.dumps(config))
    assert head_pooling(mean_model(str(place))[0]) == "mean"


def test_what_cannot_carry_it_is_refused_by_name(stock, tmp_path):
    place = folder_of(tiny.t5(), tmp_path / "t5")
    with pytest.raises(ValueError, match=r"model of type 't5', an encoder-decoder.*pooling=\"cls\""):
        mean_model(place)
    place = folder_of(architectures.build("Reformer"), tmp_path / "reformer")  # its states are twice as wide
    with pytest.raises(ValueError, match=r"of type 'reformer', cannot carry pooling = \"mean\" .*pooling=\"cls\""):
        mean_model(place)
    with pytest.raises(ValueError, match=r"pooling = 'mean' with kind 'tokens': expected \"cls\""):
        mean_model(stock, kind="tokens")
    with pytest.raises(ValueError, match="mean"):
        load_backbone(stock, pooling="means")
    with pytest.raises(ValueError, match=r"A mask \[4, 5\] for states \[4, 7, 16\]"):
        mean_of_tokens(torch.zeros(4, 7, 16), torch.ones(4, 5))


def test_a_run_names_its_head_and_older_keys_stay(tmp_path):
    base = tiny_grid.make(tmp_path)
    run, plain = tiny_grid.run(base, pooling="mean"), tiny_grid.run(base)
    assert run.key != plain.key
    assert run.variant == plain.variant.replace("M=2", "M=2 mean pooling")
    assert Run(method="single", pooling="mean").variant == "single mean pooling"
    assert Run().key == Run(pooling="cls").key
    assert type(load_run(run, tiny_task.task())[0]).__name__ == "MeanForSequenceClassification"
    assert tiny_grid.run(base, method="probe", pooling="mean").key == tiny_grid.run(base, method="probe").key
