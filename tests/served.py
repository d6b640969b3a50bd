"""Twelve tasks, trained a little, exported, and served by `transformers.pipeline` beside `predict`.

`python tests/served.py` writes the table of docs/exports.md anew (from the repository's root).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import tiny_task
import torch
import transformers
from torch import nn

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.objective import Consistency
from adamix_lab.core.views import logits_of
from adamix_lab.interop.export import export
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.tasks.backbones import load_backbone, quiet_transformers
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import predict
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "exports.md"
START, END = "<!-- served: made by tests/served.py -->\n", "<!-- end of served -->"
ONE, TWO = ["w1 w20 w5 w9", "w7 w30"], [("w1 w20 w5 w9", "w7 w30"), ("w2", "w31 w8")]
LABELS: dict[str, Callable[[int], Any]] = {  # of a row by its number
    "two classes": lambda n: n % 2,
    "three classes": lambda n: n % 3,
    "number": lambda n: n / 3,
    "several labels": lambda n: [n % 2, n // 2 % 2, 1],
    "several numbers": lambda n: [n / 3, -n / 5],
}
NAMES = {
    "two classes": ("ham", "spam"),
    "three classes": ("yes", "perhaps", "no"),
    "several labels": ("food", "service", "any"),
    "several numbers": ("joy", "fear"),
}


@dataclass(frozen=True)
class Served:
    """A task: the base whose files lie in a folder, what is answered, texts, the format of the export."""

    base: Callable[[], nn.Module]
    model: str
    answers: str
    texts: Sequence[Any]
    format: str

    @property
    def name(self) -> str:
        """For the table."""
        texts = "pair" if isinstance(self.texts[0], tuple) else "sentence"
        return f"{self.answers}, {texts}, {self.model}, {self.format}"


def bart() -> nn.Module:
    from transformers.models.bart import modeling_bart as m

    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    sizes |= {"vocab_size": tiny.VOCABULARY, "d_model": tiny.WIDTH, "max_position_embeddings": 40}
    return tiny.build(m.BartForSequenceClassification, m.BartConfig, **sizes, **ids, forced_eos_token_id=None)


def _t5() -> nn.Module:
    from transformers.models.t5 import modeling_t5 as m

    ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    sizes = {
        "vocab_size": tiny.VOCABULARY,
        "d_model": tiny.WIDTH,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
    }
    return tiny.build(m.T5ForConditionalGeneration, m.T5Config, **sizes, **ids)


def _masked() -> nn.Module:
    return tiny.bert(cls="BertForMaskedLM")  # without a pooler: it is drawn, trains, and goes along


TASKS = [
    Served(tiny.bert, "bert", "two classes", ONE, "transformers"),
    Served(_masked, "bert (read from a masked language model)", "three classes", ONE, "peft"),
    Served(tiny.bert, "bert", "number", ONE, "transformers"),
    Served(tiny.bert, "bert", "several labels", ONE, "transformers"),
    Served(tiny.bert, "bert", "two classes", TWO, "peft"),
    Served(tiny.bert, "bert", "number", TWO, "peft"),
    Served(tiny.roberta, "roberta", "three classes", TWO, "transformers"),
    Served(tiny.distilbert, "distilbert", "several labels", ONE, "peft"),
    Served(lambda: tiny.gpt2(cls="GPT2ForSequenceClassification"), "gpt2", "two classes", ONE, "peft"),
    Served(bart, "bart", "two classes", ONE, "transformers"),
    Served(_t5, "t5", "three classes", ONE, "peft"),
    Served(tiny.bert, "bert", "class a token", ONE, "transformers"),
    Served(tiny.gpt2, "gpt2", "text", ONE, "peft"),
    Served(tiny.bert, "bert", "several numbers", ONE, "transformers"),
]


def difference(task: Served, folder: Path) -> float:
    """The largest difference between the pipeline's answers and ours, as a share of the largest answer.

    A text that differs counts 1.
    """
    mixture, tokenizer = _trained(task, folder / "base")
    export(mixture, folder / "export", task.format, tokenizer=tokenizer)
    with quiet_transformers():
        model = _read(task, mixture, folder)
        if task.answers == "text":
            return _generated(mixture, model, tokenizer, task.texts)
        return _compared(_ours(task, mixture, tokenizer), _theirs(task, model, tokenizer))


def _trained(task: Served, folder: Path) -> tuple[MixtureModel, Any]:
    task.base().save_pretrained(folder)  # type: ignore[operator]
    words = tiny_task.tokenizer()
    if task.base not in (tiny.bert, _masked):  # the others know no token types
        words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(folder)
    kind = {"class a token": "tokens", "text": "generation"}.get(task.answers, "classification")
    names = NAMES.get(task.answers, ("O", "B", "I") if kind == "tokens" else ())
    model, tokenizer = load_backbone(str(folder), num_labels=len(names) or 1, kind=kind)
    targets = ["self_attn.q_proj", "self_attn.v_proj"] if task.base is bart else None
    mixture = attach(model, LoRA(2), experts=2, targets=targets)
    if task.answers in LABELS:
        columns = ("first", "second")[: 2 if isinstance(task.texts[0], tuple) else 1]
        texts = [text if isinstance(text, tuple) else (text,) for text in task.texts]
        rows = [dict(zip(columns, texts[n % 2], strict=True)) | {"label": LABELS[task.answers](n)} for n in range(12)]
        recipe = Recipe(steps=2, batch_size=4, dev_fraction=0.0, consistency=Consistency(kind="mse"))
        kind = "numbers" if "number" in task.answers else None
        learned = Task("served", rows, rows, columns, classes=names, kind=kind)
        train(mixture, learned, tokenizer, recipe, progress=False)
    generator = torch.Generator().manual_seed(1)
    for _, parameter in (*mixture.expert_parameters(), *mixture.head_parameters()):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)  # as if trained for long
    return mixture.eval(), tokenizer


def _read(task: Served, mixture: MixtureModel, folder: Path) -> Any:
    """What a user of the export has: the folder, or stock peft on the base, read from its files."""
    if task.format == "transformers":
        return str(folder / "export")
    from peft import PeftModel

    config: Any = mixture.model.config
    contract = {} if task.answers == "text" else {"id2label": config.id2label, "problem_type": config.problem_type}
    base = type(mixture.model).from_pretrained(folder / "base", ignore_mismatched_sizes=True, **contract)  # type: ignore[operator]
    base.config.pad_token_id = config.pad_token_id
    return PeftModel.from_pretrained(base, str(folder / "export")).eval()


def _ours(task: Served, mixture: MixtureModel, tokenizer: Any) -> list[dict[str, float]]:
    names = mixture.model.config.id2label  # type: ignore[union-attr]
    if task.answers != "class a token":
        rows = torch.Tensor(predict(mixture, tokenizer, list(task.texts))).tolist()
        return [dict(zip(names.values(), row, strict=True)) for row in rows]  # type: ignore[operator, union-attr]
    found = []
    for text in task.texts:
        with torch.no_grad():
            logits = logits_of(mixture(selection="merge", **tokenizer(text, return_tensors="pt")))[0]
        best = logits.softmax(-1).max(-1)
        found.append({f"{n} {names[int(i)]}": float(p) for n, (p, i) in enumerate(zip(*best, strict=True))})  # type: ignore[index]
    return [{key: p for key, p in row.items() if key[0] not in "0" and key[0] != str(len(row) - 1)} for row in found]


def _theirs(task: Served, model: Any, tokenizer: Any) -> list[dict[str, float]]:
    if task.answers == "class a token":
        pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
        rows = [pipe(text) for text in task.texts]
        return [{f"{word['index']} {word['entity']}": float(word["score"]) for word in row} for row in rows]
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    given = [dict(zip(("text", "text_pair"), t if isinstance(t, tuple) else (t,), strict=False)) for t in task.texts]
    return [{row["label"]: row["score"] for row in rows} for rows in pipe(given, top_k=None)]


def _compared(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    assert [row.keys() for row in ours] == [row.keys() for row in theirs], (ours, theirs)
    pairs = [(row[key], other[key]) for row, other in zip(ours, theirs, strict=True) for key in row]
    return max(abs(a - b) for a, b in pairs) / max(abs(a) for a, _ in pairs)


def _generated(mixture: MixtureModel, model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"do_sample": False, "max_new_tokens": 5}
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        ids = mixture.generate(**inputs, selection="merge", **settings)
        new = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if pipe(text, return_full_text=False, **settings)[0]["generated_text"].strip() != new.strip():
            return 1.0
    return 0.0


def table() -> str:
    """The table, as Markdown."""
    lines = ["| answers | texts | model | format | largest difference |", "|---|---|---|---|---|"]
    for task in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            found = difference(task, Path(folder))
        shown = "the same text" if task.answers == "text" else f"{found:.0e}" if found else "0"
        lines.append(f"| {' | '.join(task.name.split(', '))} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text(before + START + table() + END + after, encoding="utf-8")
