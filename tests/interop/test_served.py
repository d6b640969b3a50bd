"""What users of an export get: `transformers.pipeline` answers as `predict` does, on a sentence and on a pair."""

import json
from types import SimpleNamespace

import close
import pytest
import served
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.files import MANIFEST
from adamix_lab.interop.checking import check_served, copy_base, draw_batch, fresh_base
from adamix_lab.interop.export import export
from adamix_lab.interop.peft import import_peft, read_peft
from adamix_lab.models.model import attach
from adamix_lab.tasks.backbones import load_backbone


@pytest.mark.slow
@pytest.mark.parametrize("task", served.TASKS, ids=lambda task: task.name)
def test_the_pipeline_answers_as_predict_does(tmp_path, task):
    assert served.difference(task, tmp_path) <= close.REORDERED.share


def test_the_page_has_a_row_for_each_served_task():
    page = served.PAGE.read_text(encoding="utf-8")
    shown = page.split(served.START)[1].split(served.END)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown]
    assert [", ".join(row[:4]) for row in rows] == [task.name for task in served.TASKS]
    assert all(row[4] == "the same text" or float(row[4]) <= close.REORDERED.share for row in rows)


def _saved(folder, model):
    model.save_pretrained(folder)
    tiny_task.tokenizer().save_pretrained(folder)
    return str(folder)


def test_what_the_files_lack_goes_along_and_is_refused_where_it_cannot(tmp_path):
    place = _saved(tmp_path / "masked", tiny.bert(cls="BertForMaskedLM"))
    mixture = attach(load_backbone(place)[0], LoRA(2), experts=2)
    assert mixture.head_paths == ("classifier", "bert.pooler")
    assert export(mixture, tmp_path / "out", "peft").difference <= close.REORDERED.share
    again = import_peft(load_backbone(place, seed=5)[0], [tmp_path / "out"])
    batch = tiny.batch()
    close.assert_close(again(**batch).logits, mixture(selection="merge", **batch).logits)
    with pytest.raises(ValueError, match=r"adapters has no place for bert\.pooler.*expected a base that holds it"):
        export(attach(load_backbone(place)[0], Bottleneck(4), experts=2), tmp_path / "adapters", "adapters")


def test_a_base_that_changed_since_it_was_read_is_refused(tmp_path):
    place = _saved(tmp_path / "base", tiny.bert())
    mixture = attach(load_backbone(place)[0], LoRA(2), experts=2)
    assert fresh_base(mixture).bert.encoder is not mixture.model.bert.encoder
    with torch.no_grad():
        mixture.model.bert.embeddings.word_embeddings.weight.mul_(1.5)
    with pytest.raises(ValueError, match=r"weights are not those that .*base holds: expected them as others"):
        export(mixture, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
    assert export(mixture, tmp_path / "whole", "transformers").difference <= close.REORDERED.share


def test_a_base_whose_folder_is_gone_is_copied(tmp_path):
    import shutil

    mixture = attach(load_backbone(_saved(tmp_path / "base", tiny.bert()))[0], LoRA(2), experts=2)
    shutil.rmtree(tmp_path / "base")
    assert fresh_base(mixture).bert.embeddings.word_embeddings.weight is not None
    assert export(mixture, tmp_path / "out", "peft").difference <= close.REORDERED.share


def test_an_export_says_what_the_pipeline_answered_and_refuses_other_answers(tmp_path, monkeypatch):
    import transformers

    mixture, tokenizer = tiny.mixed(tiny.bert(), LoRA(2), experts=2), tiny_task.tokenizer()
    done = export(mixture, tmp_path / "out", "transformers", tokenizer=tokenizer)
    assert done.served is not None and done.served <= close.REORDERED.share and "pipeline's answers" in str(done)
    answers = [[{"label": f"LABEL_{n}", "score": p} for n, p in enumerate((0.8, 0.1, 0.1))]]
    monkeypatch.setattr(transformers, "pipeline", lambda *args, **settings: lambda *texts, **more: answers)
    with pytest.raises(ValueError, match="pipeline answers otherwise"):
        check_served(mixture, SimpleNamespace(), tokenizer, torch.float32)
    answers[0][0]["label"] = "POSITIVE"
    with pytest.raises(ValueError, match=r"pipeline answers with .*POSITIVE.*expected"):
        check_served(mixture, SimpleNamespace(), tokenizer, torch.float32)


@pytest.mark.parametrize("format", ["peft", "transformers"])
def test_one_number_is_a_regression_though_nobody_said_so(tmp_path, format):
    mixture = tiny.mixed(tiny.bert(num_labels=1), LoRA(2), experts=2)
    assert mixture.model.config.problem_type is None
    done = export(mixture, tmp_path / "out", format, tokenizer=tiny_task.tokenizer())
    assert done.served is not None and done.served <= close.REORDERED.share
    assert mixture.model.config.problem_type == "regression"


def test_a_card_says_how_to_load_the_base_with_its_names(tmp_path):
    model = tiny.bert(id2label={0: "no", 1: "yes", 2: "perhaps"}, label2id={"no": 0, "yes": 1, "perhaps": 2})
    export(tiny.mixed(model, LoRA(2)), tmp_path / "out", "peft")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base = BertForSequenceClassification.from_pretrained(BASE, num_labels=3" in card and "'perhaps'" in card


def test_a_damaged_record_of_an_earlier_export_is_named(tmp_path):
    mixture = tiny.mixed(tiny.bert(), LoRA(2))
    export(mixture, tmp_path / "out", "peft")
    (tmp_path / "out" / MANIFEST).write_text('{"files": [')
    with pytest.raises(ValueError, match=f"{MANIFEST} is not JSON.*Give another folder, or remove that file"):
        export(mixture, tmp_path / "out", "peft", overwrite=True)
    (tmp_path / "out" / MANIFEST).write_text("[1]")
    export(mixture, tmp_path / "out", "peft", overwrite=True)


def test_test_batches_hold_pairs_and_ends():
    assert draw_batch(tiny.bert())["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]]
    assert "token_type_ids" not in draw_batch(tiny.distilbert())
    batch = draw_batch(served.bart())
    assert (batch["input_ids"] == 3).sum(1).tolist() == [1, 1] and "decoder_input_ids" not in batch
    assert copy_base(tiny.mixed(tiny.bert(), LoRA(2))).classifier.weight.isnan().all()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica", "another"])
def test_imports_that_change_the_base_are_refused(tmp_path, start):
    export(tiny.mixed(tiny.bert(), LoRA(2)), tmp_path / "out", "peft")
    (tmp_path / "out" / MANIFEST).unlink()  # as in a folder of peft's own, whose files nothing vouches for
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    for plain in (True, False, "gaussian", "eva", "orthogonal"):
        (tmp_path / "out/adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": plain}))
        assert read_peft(tmp_path / "out").rank == 2
    (tmp_path / "out/adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": start}))
    with pytest.raises(ValueError, match=f"init_lora_weights = '{start}'.*changes the base.*initial_model"):
        read_peft(tmp_path / "out")


def test_pickled_adapters_are_read_without_running_code(tmp_path):
    from safetensors.torch import load_file

    mixture = tiny.mixed(tiny.bert(), LoRA(2))
    export(mixture, tmp_path / "out", "peft")
    weights = tmp_path / "out/adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors was changed since it was exported"):
        import_peft(tiny.bert(), [tmp_path / "out"])
    (tmp_path / "out" / MANIFEST).unlink()  # as in a folder of peft's own
    batch = tiny.batch()
    again = import_peft(tiny.bert(), [tmp_path / "out"])
    close.assert_close(again(**batch).logits, mixture(selection="merge", **batch).logits)
    weights.with_suffix(".bin").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"adapter_model\.bin"):
        import_peft(tiny.bert(), [tmp_path / "out"])
