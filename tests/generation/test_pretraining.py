"""Pre-training: killed and resumed equals undisturbed; a folder that transformers loads; the card."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import close
import pytest
import tiny_text
import torch

from adamix_lab import LoRA, attach, load_backbone, merge
from adamix_lab.core.files import read_tensors
from adamix_lab.generation import pretraining
from adamix_lab.generation.decoder import Pretraining
from adamix_lab.generation.pretraining import pretrain
from adamix_lab.training.run import read_log

SETTINGS = tiny_text.SETTINGS
ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    pass


def kill_at(step):
    def look(done):
        if done == step:
            raise Killed

    return look


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: equal runs are equal bit for bit
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tiny_text.write(tmp_path_factory.mktemp("text"))
    rows = [{"source": "openstax/tales", "commit": "abc123", "licence": "CC BY 4.0", "chars": 5000}]
    (folder / "MANIFEST.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """An undisturbed run."""
    return pretrain(text, tmp_path_factory.mktemp("runs") / "tale-gpt2", SETTINGS, progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_log(folder / "work" / "log.jsonl")]


@pytest.mark.parametrize("step", [2, 3, 5])
def test_killed_and_resumed_equals_undisturbed(text, whole, tmp_path, step):
    """Before the first checkpoint, at one, and after one."""
    with pytest.raises(Killed):
        pretrain(text, tmp_path, SETTINGS, progress=False, on_step=kill_at(step))
    assert not (tmp_path / "model.safetensors").exists()
    steps = []
    pretrain(text, tmp_path, SETTINGS, progress=False, on_step=steps.append)
    assert steps[0] == (step // 3) * 3 + 1
    assert same(tmp_path, whole) and losses(tmp_path) == losses(whole)


def test_dropout_resumes_exactly_too(text, tmp_path):
    settings = replace(SETTINGS, dropout=0.2, steps=5)
    one = pretrain(text, tmp_path / "one", settings, progress=False)
    with pytest.raises(Killed):
        pretrain(text, tmp_path / "two", settings, progress=False, on_step=kill_at(4))
    assert same(one, pretrain(text, tmp_path / "two", settings, progress=False))


def test_the_seed_decides(text, whole, tmp_path):
    again = pretrain(text, tmp_path / "again", SETTINGS, progress=False)
    other = pretrain(text, tmp_path / "other", replace(SETTINGS, seed=1), progress=False)
    assert same(again, whole) and not same(other, whole)


def test_pieces_of_a_step_give_the_same_gradients(text, whole, tmp_path):
    pieces = pretrain(text, tmp_path, replace(SETTINGS, accumulate=3), progress=False)  # 4 windows: 1, 1 and 2
    close.assert_close(losses(pieces), losses(whole), close.TRAINED)


def test_a_run_at_a_level_rate_may_be_made_longer(text, whole, tmp_path):
    with pytest.raises(Killed):
        pretrain(text, tmp_path, replace(SETTINGS, steps=7), progress=False, on_step=kill_at(4))
    assert same(pretrain(text, tmp_path, SETTINGS, progress=False), whole)
    with pytest.raises(ValueError, match=r"belongs to another run: settings\.steps was 8, is 12"):
        pretrain(text, tmp_path, replace(SETTINGS, steps=12), progress=False)  # its rate has fallen


def test_another_text_or_shape_is_refused(text, whole, tmp_path):
    with pytest.raises(ValueError, match=r"belongs to another run: settings\.lr was 0\.01, is 0\.02"):
        pretrain(text, whole, replace(SETTINGS, lr=0.02), progress=False)
    other = tiny_text.write(tmp_path / "other", count=80)
    with pytest.raises(ValueError, match=r"belongs to another run: corpus"):
        pretrain(other, whole, SETTINGS, progress=False)


def test_it_learns(text, tmp_path):
    settings = replace(SETTINGS, steps=60, checkpoint_every=0, precision="bf16")
    found = losses(pretrain(text, tmp_path, settings, progress=False))
    assert found[0][1] > 5.5 and found[-1][1] < 3.5


def test_rates_rise_stay_and_fall():
    settings = Pretraining(steps=100, warmup=10, decay=0.4, lr=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)]) and rates[10:61] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5) and 0 < rates[99] < 0.01 and rates[60:] == sorted(rates[60:], reverse=True)
    cosine = Pretraining(steps=100, warmup=10, decay=1.0, lr=1.0)
    assert cosine.rate(55) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"heads": 3}, "heads = 3: expected a divisor of the width 256"),
        ({"steps": 0}, "steps = 0: expected a whole number"),
        ({"decay": 1.5}, "decay = 1.5: expected a share"),
        ({"warmup": -1}, "warmup = -1: expected 0 steps"),
        ({"precision": "fp16"}, "precision 'fp16' is not known; expected one of bf16, no"),
        ({"lr": 0.0}, "lr = 0.0: expected a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pretraining(**setting)


@pytest.mark.slow
def test_two_processes_are_one(text, tmp_path):
    """Each takes two of a step's four windows; a launcher starts them on the command line."""
    settings = replace(SETTINGS, warmup=100, checkpoint_every=250, log_every=20)  # what the command leaves at defaults
    one = pretrain(text, tmp_path / "one", settings, progress=False)
    options = "--vocab-size 400 --context 32 --width 16 --layers 2 --heads 2 --steps 8 --batch-size 4 --lr 0.01"
    launch = "-m torch.distributed.run --nproc_per_node 2 --rdzv_backend c10d --rdzv_endpoint 127.0.0.1:0"
    command = [sys.executable, *launch.split(), "-m", "adamix_lab", "pretrain", str(text), *options.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    out = tmp_path / "two"
    done = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((out / "pretraining.json").read_text())["processes"] == 2
    close.assert_close(losses(out), losses(one), close.TRAINED)


def test_a_loss_that_is_not_finite_ends_the_run(text, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.Loop, "_step", lambda self, step: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="loss at step 1 is nan: expected a finite number"):
        pretrain(text, tmp_path, SETTINGS, progress=False)


def test_the_folder_is_one_for_transformers(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    assert model.dtype == torch.float32 and model.lm_head.weight is model.transformer.wte.weight
    stored = weights(whole)
    assert all(t.dtype == torch.float16 for t in stored.values())
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())  # nothing twice
    made = AutoTokenizer.from_pretrained(next((whole / "work").glob("*-400")))
    assert made.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    ids = tokenizer("the cook", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=5, min_new_tokens=5, num_beams=2, do_sample=False)
    assert out.shape == (1, ids["input_ids"].shape[1] + 5)


def test_mixtures_go_on_it(whole):
    model, tokenizer = load_backbone(str(whole), kind="generation")
    mixture = attach(model, LoRA(2), experts=3)
    assert list(mixture.sites) == [f"transformer.h.{n}.attn.c_attn" for n in range(SETTINGS.layers)]
    batch = tokenizer("the cook likes tea.", return_tensors="pt")
    assert mixture(**batch).logits.shape[-1] == len(tokenizer)
    assert merge(mixture).generate(**batch, max_new_tokens=3, do_sample=False).shape[0] == 1


def test_the_record_and_the_card_tell_what_was_done(text, whole):
    record = json.loads((whole / "pretraining.json").read_text())
    assert record["steps"] == 8 and record["tokens"] == 8 * 4 * 32 and record["versions"]["torch"]
    assert record["settings"]["seed"] == 0 and record["loss"][0]["step"] == 1 and record["loss"][-1]["step"] == 8
    assert record["parameters"] == sum(t.numel() for t in weights(whole).values())
    measured = record["perplexity"]["valid.txt"]["as it stands"]
    card = (whole / "README.md").read_text()
    assert f"| valid.txt | as it stands | {measured['by_token']:.1f} | {measured['by_word']:.1f} |" in card
    assert record["corpus"]["sha256"] in card and "| openstax/tales | `abc123` | CC BY 4.0 |" in card
    assert "What it is not for" in card and "OpenStax does not endorse" in card and "tale-gpt2" in card
    assert "`adamix-lab pretrain train.txt --vocab-size 400 --context 32 --width 16" in card


def test_text_without_held_out_files_or_manifest_serves(text, tmp_path):
    folder = pretrain(text / "train.txt", tmp_path, replace(SETTINGS, steps=2), progress=False)
    card = (folder / "README.md").read_text()
    assert "## Perplexity" not in card and "not recorded (no MANIFEST.json" in card


def test_the_command_line_has_the_settings_defaults():
    import inspect

    from adamix_lab.cli.main import pretrain as command

    for name, parameter in inspect.signature(command).parameters.items():
        if name not in ("source", "out"):
            assert parameter.default == getattr(Pretraining(), name), name
