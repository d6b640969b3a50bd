"""Presets: each is whole, fits a model of its family, and says where its values are from."""

import json

import close
import pytest
import tiny
import torch
from command_line import command
from test_counts import bert_base, gpt2_medium, roberta_large
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.objective import Consistency, Objective, next_token_loss, task_loss_of
from adamix_lab.fast.blocks import WAYS
from adamix_lab.tasks.backbones import HUB_NAMES, _resolve, load_backbone
from adamix_lab.training.recipe import Recipe, describe_preset, load_presets, preset
from adamix_lab.training.report import parameter_report

PRESETS = load_presets()
FAMILY = {"bert-base": tiny.bert, "roberta-large": tiny.roberta, "gpt2-medium": tiny.gpt2, "minilm": tiny.bert}
UNDERSTANDING = {"mrpc", "cola", "sst2", "stsb", "qnli", "mnli", "qqp", "rte"}


def tiny_model(chosen):
    one_output = chosen.task == "stsb"
    return FAMILY[chosen.backbone](0.1, **({"num_labels": 1} if one_output else {}))


@pytest.mark.parametrize("name", PRESETS)
def test_it_attaches_to_its_family_and_takes_a_step(name):
    chosen = preset(name)
    assert Recipe.from_dict(chosen.recipe.to_dict()) == chosen.recipe
    model = tiny_model(chosen)
    mixture = chosen.attach(model)
    assert mixture.mixture.experts == chosen.experts and mixture.mixture.share == (chosen.share,)
    assert len(mixture.sites) == (2 if chosen.blocks else tiny.LAYERS)
    batch = tiny.batch()
    batch["labels"] = {True: batch["input_ids"], False: tiny.labels(classes=2)}[chosen.generates]
    routes = mixture.space.draw(torch.Generator().manual_seed(0), (chosen.recipe.consistency.number,))
    loss = task_loss_of(mixture, chosen.recipe.label_smoothing)
    losses = Objective(mixture, chosen.recipe.consistency, loss, WAYS)(batch, routes)
    losses.total.backward()
    assert torch.isfinite(losses.total) and any(p.grad.any() for _, p in mixture.expert_parameters())


def test_the_paper_and_the_reference_cover_its_tasks():
    for encoder in ("bert-base", "roberta-large"):
        for kind in ("paper", "reference"):
            assert {n.rpartition("-")[2] for n in PRESETS if n.startswith(f"{kind}-{encoder}-")} == UNDERSTANDING
    for task in ("e2e", "webnlg", "dart"):
        for kind in ("reference-gpt2", "reference-gpt2-adapter", "paper-gpt2-medium-lora", "paper-gpt2-medium-adapter"):
            assert f"{kind}-{task}" in PRESETS
    assert {n.removeprefix("laptop-minilm-") for n in PRESETS if n.startswith("laptop")} >= UNDERSTANDING | {"aspects"}


@pytest.mark.parametrize(
    ("name", "build", "trained", "merged"),
    [
        ("paper-bert-base-mnli", bert_base, 2_223_360, 894_528),
        ("reference-roberta-large-mnli", roberta_large, 1_992_192, 811_392),
        ("reference-gpt2-adapter-e2e", gpt2_medium, 1_795_584, 417_984),
        ("reference-gpt2-e2e", gpt2_medium, 1_769_472, 393_216),
    ],
)
def test_parameter_counts_of_the_paper(name, build, trained, merged):
    """0.9 M, 0.8 M and 0.42 M; of LoRA the paper prints 0.35 M, and the code has 0.39 M (rank 4 on q and v)."""
    with torch.device("meta"):
        counts = parameter_report(preset(name).attach(build()))
    assert (counts.experts, counts.merged) == (trained, merged)


def test_the_misprinted_warm_up_is_kept_in_paper_with_a_warning_and_not_in_reference():
    for task in UNDERSTANDING:
        paper, reference = preset(f"paper-roberta-large-{task}"), preset(f"reference-roberta-large-{task}")
        assert (paper.recipe.warmup, reference.recipe.warmup) == (0.6, 0.06)
        assert any("0.6" in warning for warning in paper.warnings)
        assert not any("warm-up" in warning for warning in reference.warnings)
        assert preset(f"paper-bert-base-{task}").recipe.warmup == 0.06


def test_reference_presets_do_what_the_code_does():
    for name, chosen in PRESETS.items():
        if not name.startswith("reference"):
            assert chosen.recipe.choose_on == "slice"
            continue
        assert chosen.recipe.consistency.views == "independent" and chosen.recipe.consistency.kind == "reference"
        assert not chosen.recipe.cache_prefix and chosen.recipe.off_route == "drift" and chosen.recipe.bucket == 1
        assert chosen.recipe.choose_on == ("slice" if chosen.generates else "evaluation")
        assert chosen.recipe.dev_fraction == 0
    assert preset("reference-bert-base-rte").recipe.consistency.weight == 0
    assert preset("paper-bert-base-rte").recipe.consistency == Consistency(1.0, "symmetric")
    assert preset("reference-gpt2-dart").recipe.consistency.weight == 100


def test_values_of_the_appendix():
    mrpc, qqp = preset("paper-bert-base-mrpc").recipe, preset("paper-roberta-large-qqp").recipe
    assert (mrpc.lr, mrpc.epochs, mrpc.batch_size, mrpc.weight_decay) == (4e-4, 100, 16, 0.1)
    assert (qqp.lr, qqp.epochs, qqp.batch_size) == (5e-4, 80, 64)
    webnlg = preset("paper-gpt2-medium-lora-webnlg")
    assert (webnlg.recipe.epochs, webnlg.recipe.warmup_steps, webnlg.experts) == (25, 2500, 8)
    assert webnlg.decoding["num_beams"] == 10 and webnlg.decoding["length_penalty"] == 0.8


def test_warm_up_in_steps_is_the_schedule_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 7, 40)
    settings = Recipe(steps=40, warmup_steps=7)
    for step in range(40):
        assert settings.rate(step, 40) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_label_smoothing_is_the_mixture_with_the_uniform_distribution():
    logits, labels = torch.randn(2, 5, 7), torch.tensor([[-100, -100, 3, 1, 2], [-100, 4, 5, 6, 0]])
    uniform = -logits[:, :-1].log_softmax(-1).mean(-1)[labels[:, 1:] != -100].mean()
    expected = 0.9 * next_token_loss(logits, labels) + 0.1 * uniform
    close.assert_close(next_token_loss(logits, labels, 0.1), expected)


def test_the_authors_gpt2_has_no_dropout_at_all():
    mixture = preset("reference-gpt2-dart").attach(tiny.gpt2(0.5)).train()
    close.assert_close(*(mixture(**tiny.batch(pad=False)).logits for _ in range(2)))


def test_options_beside_a_preset_count():
    recipe = {"steps": 7, "lr": 0.1, "consistency": 0.0}
    changed = preset("laptop-minilm-sst2").with_options(recipe, size=4, top_blocks=1, share=None, out="x")
    assert (changed.recipe.steps, changed.adaptation.size, changed.recipe.lr, changed.blocks) == (7, 4, 0.1, (-1,))
    assert changed.recipe.consistency.weight == 0 and changed.recipe.consistency.views == "shared_prefix"
    assert preset("paper-bert-base-rte").with_options({"steps": 7}).recipe.epochs is None
    assert preset("reference-gpt2-e2e").with_options({"warmup": 0.5}).recipe.warmup_steps is None
    assert changed.recipe.cache_prefix and not changed.with_options(top_blocks=0).recipe.cache_prefix
    assert changed.with_options(top_blocks=0).blocks is None
    assert preset("laptop-minilm-sst2").with_options(adaptation="lora", size=2, share="B").adaptation.rank == 2


def test_every_value_is_told_with_its_source():
    for name, chosen in PRESETS.items():
        values = {key: source for key, (_, source) in chosen.lines.items()}
        assert all(values.values())
        assert {"recipe.lr", "recipe.batch_size", "experts", "share", "recipe.consistency.weight"} <= values.keys()
        for key in ("recipe.lr", "recipe.batch_size", "experts", "share", "backbone", "recipe.weight_decay"):
            assert key in values, (name, key)
        assert all(warning in describe_preset(chosen) for warning in chosen.warnings)


def test_an_unknown_preset_names_near_misses():
    with pytest.raises(ValueError, match="Did you mean 'paper-roberta-large-rte'"):
        preset("paper-roberta-large-ret")


def test_short_names_stand_for_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert set(HUB_NAMES) == {"bert-base", "roberta-large", "gpt2-small", "gpt2-medium"}
    with pytest.raises(OSError, match=r"Model 'bert-base' \(google-bert/bert-base-uncased on the Hub\) could not"):
        load_backbone("bert-base")
    assert _resolve("gpt2-small") == "openai-community/gpt2"
    (tmp_path / "gpt2-small").mkdir()  # a folder of the same name comes first
    assert _resolve("gpt2-small") == "gpt2-small"


def test_the_command_lists_and_prints_presets():
    from typer.testing import CliRunner

    from adamix_lab.cli.main import app

    def ask(*arguments):
        return CliRunner().invoke(app, ["presets", *arguments])

    assert ask().stdout.split() == list(PRESETS)
    printed = ask("reference-gpt2-e2e").stdout
    assert "recipe.warmup_steps" in printed and "2000" in printed and "recipe.warmup " not in printed
    (line,) = [line for line in ask("paper-roberta-large-rte").stdout.splitlines() if line.startswith("recipe.warmup ")]
    assert line.split(maxsplit=2)[1:] == ["0.6", "paper, Appendix D"]
    assert "'laptop-minilm-sst2'" in ask("laptop-minilm-sst").output


@pytest.mark.slow
def test_train_takes_a_preset_and_options_beside_it(tmp_path):
    rows = [f"{'good' if n % 2 else 'bad'} film {n},{'good' if n % 2 else 'bad'}" for n in range(40)]
    (tmp_path / "task.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    line = "train --preset laptop-minilm-sst2 --task task.csv --steps 3 --experts 2 --out out"
    done = command(*line.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "out/results.json").read_text())["recipe"]
    assert (recipe["steps"], recipe["lr"], recipe["head_lr"], recipe["max_length"]) == (3, 3e-3, 1e-2, 64)
    assert json.loads((tmp_path / "out/seed0/adamix.json").read_text())["experts"] == 2
    wrong = command("train", "--preset", "reference-gpt2-e2e", folder=tmp_path)
    assert wrong.returncode == 2 and "generates text" in wrong.stderr
