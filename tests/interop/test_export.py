"""Out of the toolkit: what stock libraries load answers with equal logits; what cannot be written says what can."""

import json

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.core.files import MANIFEST
from adamix_lab.core.merging import merge
from adamix_lab.interop.checking import copy_base, draw_batch
from adamix_lab.interop.export import export
from adamix_lab.training.report import CARD

BUILDS = {"bert": tiny.bert, "roberta": tiny.roberta, "gpt2": tiny.gpt2, "distilbert": tiny.distilbert}
BUILDS["llama"] = tiny.llama
CASES = [
    ("peft", LoRA(2), "B"),
    ("peft", IA3(), None),
    ("peft", IA3(feedforward=True), None),
    ("adapters", Bottleneck(5), "up"),
    ("transformers", LoRA(2), "B"),
    ("transformers", IA3(), None),
    ("transformers", Bias(), None),
]


@pytest.mark.parametrize(("format", "adaptation", "share"), CASES)
@pytest.mark.parametrize("name", BUILDS)
def test_exports_answer_like_the_merge(tmp_path, record_property, name, format, adaptation, share):
    mixture = tiny.mixed(BUILDS[name](), adaptation, experts=3, share=share)
    if (name, adaptation.kind) == ("llama", "bias"):
        with pytest.raises(ValueError, match="transformers cannot express a bias"):
            export(mixture, tmp_path / "out", format)
        return
    done = export(mixture, tmp_path / "out", format)
    record_property("difference", done.difference)
    print(f"\n{name} {adaptation.kind} {format}: {done.difference:.2g}")
    assert done.difference <= close.REORDERED.share
    assert not mixture.training and tiny.logits(mixture).isfinite().all()


@pytest.mark.parametrize("adaptation", [LoRA(2), LoRA(2, slices=((0, 16), (32, 48)))])
def test_merged_float16_and_a_bfloat16_base(tmp_path, adaptation):
    half = merge(tiny.mixed(tiny.gpt2(), adaptation, targets="attn.c_attn"), dtype=torch.float16)
    assert export(half, tmp_path / "half").bytes < export(half.float(), tmp_path / "whole").bytes
    export(tiny.mixed(tiny.bert().bfloat16(), LoRA(2)), tmp_path / "narrow")


def test_unmerged_experts_are_sibling_adapters_and_the_head_goes_with_the_merge(tmp_path):
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=3, share="B")
    done = export(mixture, tmp_path / "out", "peft-experts")
    assert done.difference <= close.REORDERED.share
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {"expert0", "expert1", "expert2", "merged"}
    heads = [json.loads(p.read_text())["modules_to_save"] for p in sorted((tmp_path / "out").glob("*/*config.json"))]
    assert heads == [None, None, None, ["classifier"]]


def test_stock_pipelines_serve_a_folded_classifier_and_generator(tmp_path):
    import tiny_task
    from transformers import pipeline

    tokenizer = tiny_task.tokenizer()
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=2)
    export(mixture, tmp_path / "classifier", "transformers", tokenizer=tokenizer)
    served = pipeline("text-classification", model=str(tmp_path / "classifier"), device="cpu")
    ids = tokenizer("w1 w2 w3", return_tensors="pt")
    with torch.no_grad():
        expected = mixture(**ids).logits.softmax(-1).max()
    close.assert_close(served("w1 w2 w3")[0]["score"], expected)

    writer = tiny.mixed(tiny.gpt2(), LoRA(2), experts=2)
    export(writer, tmp_path / "writer", "transformers", tokenizer=tokenizer)
    served = pipeline("text-generation", model=str(tmp_path / "writer"), device="cpu")
    text = served("w1 w2", max_new_tokens=5, do_sample=False, return_full_text=False)[0]["generated_text"]
    start = tokenizer("w1 w2", return_tensors="pt")["input_ids"]
    expected = writer.generate(start, max_new_tokens=5, do_sample=False)
    assert text.split() == tokenizer.decode(expected[0, start.shape[1] :], skip_special_tokens=True).split()


@pytest.mark.slow
@pytest.mark.parametrize(("build", "adaptation"), [(tiny.bert, Bottleneck(4)), (tiny.roberta, LoRA(2))])
def test_onnx_answers_like_the_merge_at_other_sizes_too(tmp_path, build, adaptation):
    pytest.importorskip("onnxruntime")
    from adamix_lab.interop.export import ONNX_FILE, run_onnx

    mixture = tiny.mixed(build(), adaptation, experts=2)
    assert export(mixture, tmp_path / "out", "onnx").difference <= close.REORDERED.share
    batch = tiny.batch(rows=5, tokens=11)
    if getattr(mixture.model.config, "type_vocab_size", 0) > 1:  # the graph takes them: pairs are answered as pairs
        batch["token_type_ids"] = (torch.arange(11) > 4).long().expand(5, 11)
    close.assert_close(run_onnx(tmp_path / "out" / ONNX_FILE, batch), mixture(**batch).logits.detach())


@pytest.mark.parametrize(
    ("format", "adaptation", "says"),
    [
        ("peft", Bottleneck(4), "peft cannot express bottleneck.*adapters, onnx"),
        ("peft", Bias(), "peft cannot express bias.*transformers, onnx"),
        ("adapters", LoRA(2), "adapters cannot express lora.*peft, transformers, onnx, peft-experts"),
        ("transformers", Bottleneck(4), "transformers cannot express bottleneck.*adapters, onnx"),
        ("peft-experts", IA3(), "peft-experts cannot express ia3"),
        ("pef", LoRA(2), "Did you mean 'peft'"),
    ],
)
def test_what_a_format_cannot_express_is_refused_and_what_can_is_named(tmp_path, format, adaptation, says):
    with pytest.raises(ValueError, match=says):
        export(tiny.mixed(tiny.bert(), adaptation), tmp_path / "out", format)
    assert not list(tmp_path.iterdir())


def test_places_that_adapters_has_no_name_for(tmp_path):
    with pytest.raises(ValueError, match="not the feed-forward output"):
        export(tiny.mixed(tiny.bert(), Bottleneck(4), targets="attention.output.dense"), tmp_path / "out", "adapters")
    with pytest.raises(ValueError, match="no place is known for a model of type 't5'"):
        export(tiny.mixed(tiny.t5(), Bottleneck(4)), tmp_path / "out", "adapters")
    assert not list(tmp_path.iterdir())


def test_tied_pairs_are_not_exported_by_the_mean_of_factors_unasked(tmp_path):
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=3, tied=True)
    with pytest.raises(ValueError, match="merge_products"):
        export(mixture, tmp_path / "out")
    export(mixture, tmp_path / "experts", "peft-experts")


def test_nothing_is_overwritten_unasked_and_a_stale_head_does_not_stay(tmp_path):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    export(mixture, tmp_path / "out", "adapters")
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export(mixture, tmp_path / "out", "adapters")
    headless = tiny.mixed(tiny.bert(), Bottleneck(4), train_head=False)
    export(headless, tmp_path / "out", "adapters", overwrite=True)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "mine.txt" in names and not any("head" in name for name in names)
    assert {"adapter_config.json", MANIFEST, CARD} < names


def test_an_export_that_answers_otherwise_is_not_put_in_place(tmp_path, monkeypatch):
    from adamix_lab.interop import adapters

    config = adapters.adapter_config
    wrong = {"non_linearity": "relu"}
    monkeypatch.setattr(
        adapters, "adapter_config", lambda *a: {**config(*a), "config": {**config(*a)["config"], **wrong}}
    )
    with pytest.raises(ValueError, match="answers otherwise than the model"):
        export(tiny.mixed(tiny.bert(), Bottleneck(4)), tmp_path / "out", "adapters")
    assert not list(tmp_path.iterdir())


def test_a_head_left_out_is_noticed(tmp_path, monkeypatch):
    from adamix_lab.interop import peft

    write = peft.write_peft
    monkeypatch.setattr(
        "adamix_lab.interop.export.write_peft", lambda mixture, folder: write(mixture, folder, head=False)
    )
    with pytest.raises(ValueError, match=r"difference of logits nan"):
        export(tiny.mixed(tiny.bert(), LoRA(2)), tmp_path / "out")


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"adamix-lab\[peft\]"):
        export(tiny.mixed(tiny.bert(), LoRA(2)), tmp_path / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"adamix-lab\[onnx\]"):
        export(tiny.mixed(tiny.bert(), LoRA(2)), tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_the_bare_base_shares_frozen_weights_and_has_no_head():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    plain = copy_base(mixture)
    words = "bert.embeddings.word_embeddings.weight"
    assert plain.get_parameter(words) is mixture.model.get_parameter(words)
    assert plain.classifier.weight.isnan().all() and not mixture.model.classifier.weight.isnan().any()
    assert draw_batch(tiny.gpt2())["input_ids"].shape == (2, 8)
