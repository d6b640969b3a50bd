"""data/backbones/make.py: a tiny decoder, killed and gone on with; a folder that loads; its record and card."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adamix_lab import LoRA, attach, load_backbone, merge

MAKER = Path(__file__).resolve().parents[2] / "data" / "backbones" / "make.py"
SETTINGS = {
    **dict(vocab_size=400, context=16, width=16, layers=2, heads=2, batch_size=4, lr=0.01, warmup=2, precision="no"),
    **dict(steps=60, checkpoint_every=10),
}
PARTS = [
    "the cook;a waiter;my aunt;their dog",
    "likes;finds;eats;hides",
    "warm soup;a red apple;the big fish;green tea",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    tales = ["\n".join(" ".join(draw.choice(p.split(";")) for p in PARTS) + "." for _ in range(6)) for _ in range(150)]
    (folder / "train.txt").write_text("\n\n".join(tales), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("backbone_maker", MAKER)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def made(maker, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tale-gpt2"
    maker.make(text, out, maker.Settings(**SETTINGS))
    return out


def test_killed_and_gone_on_with_it_ends_with_the_same_weights(maker, text, made, tmp_path):
    options = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, str(MAKER), str(text), str(tmp_path), *options]
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, env=threads, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not list(tmp_path.glob("work/*/checkpoint-*/trainer_state.json")):
            time.sleep(0.01)
        first.kill()
    assert not (tmp_path / "model.safetensors").exists(), "it ended before it could be killed"
    (next(tmp_path.glob("work/*")) / "checkpoint-99").mkdir()  # as a kill while writing leaves it
    maker.make(text, tmp_path, maker.Settings(**SETTINGS))
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(made / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_the_folder_is_a_backbone(made):
    model, tokenizer = load_backbone(str(made), kind="generation")
    assert model.dtype == torch.float32 and model.lm_head.weight is model.transformer.wte.weight
    stored = load_file(made / "model.safetensors")
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())  # nothing twice
    mixture, batch = attach(model, LoRA(2), experts=2), tokenizer("the cook likes", return_tensors="pt")
    assert merge(mixture).generate(**batch, max_new_tokens=3, do_sample=False).shape[1] > batch["input_ids"].shape[1]


def test_record_and_card_tell_what_was_done(made):
    record, card = json.loads((made / "pretraining.json").read_text()), (made / "README.md").read_text()
    assert record["settings"]["steps"] == 60 and record["documents"] == 150 and record["files"] == ["train.txt"]
    assert record["loss"][-1][1] < 3.5 < 5 < record["loss"][0][1] and record["perplexity"] < 30
    assert f"of commit `{record['commit']}`" in card and f"token {record['perplexity']:.1f} (" in card
    assert "# tale-gpt2" in card and "150 documents in train.txt" in card


def test_text_that_is_too_short_is_refused(maker, tmp_path):
    (tmp_path / "train.txt").write_text("one document\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds 1 documents: expected two or more"):
        maker.make(tmp_path, tmp_path / "out", maker.Settings())
    (tmp_path / "train.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    with pytest.raises(ValueError, match="tokens of text: expected a window of 256"):
        maker.make(tmp_path, tmp_path / "out", maker.Settings())
