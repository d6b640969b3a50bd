"""The commands that exchange mixtures with other libraries, on real files."""

import pytest
import tiny
import tiny_task
import torch
from authors_writer import authors_state_dict
from typer.testing import CliRunner

from adamix_lab import load, save
from adamix_lab.cli import main as cli
from adamix_lab.core.adaptations import Bottleneck, LoRA


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.bert().save_pretrained(folder)
    tiny_task.tokenizer().save_pretrained(folder)
    return folder


def test_out_as_experts_and_in_again(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=3, share="B")
    save(mixture, tmp_path / "saved", {"task": "films"})
    first = ["export", "saved", "--format", "peft-experts", "--model", base, "--out", "out"]
    done = command(*first)
    assert done.exit_code == 0 and "largest difference of logits" in done.stdout, done.exception
    again = command(*first)
    assert "--overwrite" in again.output
    experts = [f"out/expert{n}" for n in range(3)]
    more = ["--model", base, "--labels", 3, "--out", "back"]
    done = command("import-experts", *experts, *more)
    assert done.exit_code == 0 and "3 experts" in done.stdout, done.exception
    back = load(tiny.bert(), tmp_path / "back")
    assert back.mixture.tied and back.space.experts == 3
    again = command("import-experts", *experts, *more)
    assert "holds a mixture already" in again.output
    scaled = command("import-experts", *experts, *more[:-1], "scaled", "--alpha", 32)
    assert scaled.exit_code == 2 and "--alpha = 32.0: expected none with peft's folders" in scaled.output


def test_the_authors_file_by_the_command(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), share="up")
    torch.save(authors_state_dict(mixture), tmp_path / "pytorch_model_x_expert_soup.bin")
    arguments = ["pytorch_model_x_expert_soup.bin", "--model", base, "--labels", 3, "--out", "back"]
    done = command("import-experts", *arguments)
    assert done.exit_code == 0 and "4 experts at 3 sites" in done.stdout, done.exception
    assert torch.equal(tiny.logits(load(tiny.bert(), tmp_path / "back")), tiny.logits(mixture))
    wrong = command("import-experts", *arguments[:-1], "other", "--labels", 2)
    assert "has shape" in wrong.output
