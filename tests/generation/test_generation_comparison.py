"""The generation table: variants, resumption, saved experts, and the two commands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_generation
import transformers
from typer.testing import CliRunner

from adamix_lab.cli import main as cli
from adamix_lab.core.objective import Consistency
from adamix_lab.generation import comparison
from adamix_lab.generation.comparison import (
    SHOWN,
    Settings,
    compare_generators,
    spread,
    thinned,
)
from adamix_lab.generation.decoding import Decoding, generate_texts
from adamix_lab.generation.tasks import METHODS
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.shipped import load_saved

pytest.importorskip("sacrebleu")
TASK = tiny_generation.task()
RECIPE = Recipe(
    steps=4, batch_size=4, lr=5e-3, head_lr=1e-3, max_length=48, dev_fraction=0.0, consistency=Consistency(2.0)
)
SETTINGS = Settings(RECIPE, Decoding(beams=2, new_tokens=8), experts=3, rank=2, size=2)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Its path; its folder's parent is the working folder, from which saves tell where it lies."""
    folder = tiny_generation.folder(tmp_path_factory.mktemp("decoder"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(folder).parent)
        yield str(folder)


@pytest.fixture(scope="module")
def done(decoder, tmp_path_factory):
    """All variants, once: (folder, records, what was said)."""
    folder, said = tmp_path_factory.mktemp("generation"), []
    records = compare_generators(TASK, decoder, SETTINGS, folder, list(METHODS), said.append)
    return folder, records, "\n".join(said)


def test_every_variant_is_trained_decoded_and_scored(done, decoder):
    folder, records, said = done
    rows = [row for record in records for row in record["rows"]]
    assert [row["title"] for row in rows] == [
        "frozen decoder, not tuned", "LoRA", "AdaMix-LoRA, merged", "AdaMix-LoRA, expert 0 alone",
        "AdaMix bottleneck, merged", "AdaMix bottleneck, expert 0 alone", "full fine-tuning",
    ]  # fmt: skip
    for row in rows:
        assert row["title"] in said and len(row["texts"]) == 4 and row["scores"]["TER"] >= 0
    trained = {record["variant"]: record["trained_parameters"] for record in records}
    width, layers, rank = 32, 2, 2
    assert trained["frozen"] == 0 and trained["lora"] == layers * 2 * 2 * rank * width  # q and v, A and B
    assert trained["adamix-lora"] == layers * 2 * (3 + 1) * rank * width  # three A, one B
    assert trained["full"] == sum(p.numel() for p in tiny_generation.decoder().parameters())
    assert said.count("a reference  ") == 4  # examples: as many as there are sources, five at most
    record = json.loads((folder / "results.json").read_text())
    assert record["versions"]["torch"] and len(record["variants"]) == 5
    assert record["variants"][0]["settings"]["decoding"]["beams"] == 2
    written = "".join(path.read_text() for path in folder.rglob("*.json*"))
    assert f"./{Path(decoder).name}" in written and decoder not in written  # where the decoder lay is private


def test_one_view_for_one_module(done):
    def log(name):
        return [json.loads(line) for line in (done[0] / name / "run/log.jsonl").read_text().splitlines()]

    assert [len(log(name)[0]["route"]) for name in ("lora", "full", "adamix-lora")] == [1, 1, 2]
    assert log("full")[0]["loss"] == log("full")[0]["task"] and log("adamix-lora")[0]["consistency"] >= 0
    full, lora = (comparison.recipe_of(name, SETTINGS) for name in ("full", "lora"))
    assert (full.lr, lora.lr) == (SETTINGS.recipe.head_lr, SETTINGS.recipe.lr) and full.head_lr is lora.head_lr is None


def test_finished_variants_are_read_and_killed_ones_done(done, decoder, monkeypatch):
    folder, records, _ = done
    (folder / "lora.json").unlink()
    ran = []
    real = comparison.run_variant

    def watched(method, *rest):
        ran.append(method)
        return real(method, *rest)

    monkeypatch.setattr(comparison, "run_variant", watched)
    again = compare_generators(TASK, decoder, SETTINGS, folder, list(METHODS), lambda text: None)
    assert ran == ["lora"]
    assert [row["texts"] for record in again for row in record["rows"]] == [
        row["texts"] for record in records for row in record["rows"]
    ]
    with pytest.raises(ValueError, match=r"frozen.json holds results of another settings.*Choose another folder"):
        compare_generators(TASK, decoder, replace(SETTINGS, rank=3), folder, SHOWN, lambda text: None)
    pair, asked = TASK.train[0] | {"target": "other words"}, TASK.evaluation[0] | {"references": ("other words",)}
    for rows in ({"train": [pair, *TASK.train[1:]]}, {"evaluation": [asked, *TASK.evaluation[1:]]}):  # as many, others
        with pytest.raises(ValueError, match="holds results of another data"):
            compare_generators(replace(TASK, **rows), decoder, SETTINGS, folder, ["frozen"], lambda text: None)
    (folder / "frozen.json").write_text("{")
    with pytest.raises(ValueError, match=r"frozen.json is not JSON.*Remove the file"):
        compare_generators(TASK, decoder, SETTINGS, folder, ["frozen"], lambda text: None)
    (folder / "frozen.json").write_text(json.dumps(records[0]))


def test_saved_experts_write_what_the_table_says(done):
    folder, records, _ = done
    mixture, tokenizer = load_saved(folder / "adamix-lora")[:2]
    merged, fixed = (row["texts"] for row in records[2]["rows"])
    assert generate_texts(mixture, TASK.sources, tokenizer, SETTINGS.decoding) == merged
    assert generate_texts(mixture, TASK.sources, tokenizer, SETTINGS.decoding, "fixed") == fixed


def test_an_unknown_variant_and_an_encoder(done, tmp_path):
    with pytest.raises(ValueError, match=r"variant 'lorra' is not known.*Did you mean 'lora'"):
        compare_generators(TASK, "nowhere", SETTINGS, tmp_path, ["lorra"])
    transformers.BertForMaskedLM(tiny.bert().config).save_pretrained(tmp_path / "bert")
    tiny_generation.tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="cannot write texts: expected a decoder"):
        compare_generators(TASK, str(tmp_path / "bert"), SETTINGS, tmp_path, ["frozen"], lambda text: None)


def test_sources_evenly_spread():
    assert spread(4, 9) == [0, 1, 2, 3] and spread(100, 2) == [25, 75]
    assert thinned(TASK, 2).sources == [TASK.sources[1], TASK.sources[3]] and thinned(TASK, None) is TASK
    with pytest.raises(ValueError, match="sources = 0"):
        thinned(TASK, 0)


def test_the_commands(decoder, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(decoder).parent)
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_generation.pairs()))
    out = tmp_path / "out"
    command = [
        "train-generator",
        str(tmp_path),
        "--model",
        decoder,
        "--steps",
        "2",
        "--max-length",
        "40",
        "--beams",
        "2",
    ]
    command += [
        "--method",
        "frozen",
        "--method",
        "adamix-lora",
        "--experts",
        "2",
        "--evaluation-rows",
        "2",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(cli.app, [*command, "--new-tokens", "8"])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "AdaMix-LoRA, merged" in done.output and "NIST" in done.output
    ask = ["generate", str(out / "adamix-lora"), TASK.sources[0], "--beams", "2", "--new-tokens", "8"]
    done = CliRunner().invoke(cli.app, ask)
    assert done.exit_code == 0, done.output + str(done.exception)
    assert len(done.output.splitlines()) == 1
