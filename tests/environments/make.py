"""Tiny random models of five architectures, exported for each library, with the logits they must answer beside them.

    python tests/environments/make.py FOLDER

Each case is a folder: `base/` (as transformers saves it, its head untrained), `out/` (the export), `case.json`, and
`expected.safetensors` (inputs, and the logits of the merged mixture).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from adamix_lab import IA3, Bottleneck, LoRA, attach, export

SIZES = {"vocab_size": 60, "max_position_embeddings": 40}
BERT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, **SIZES}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40, "vocab_size": 60, **ENDS}
ARCHITECTURES = {
    "BERT": ("bert", "classification", BERT),
    "RoBERTa": ("roberta", "classification", BERT),
    "GPT-2": ("gpt2", "generation", GPT2),
    "DistilBERT": ("distilbert", "classification", {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, **SIZES}),
    "Llama": ("llama", "generation", {**BERT, "num_key_value_heads": 1, "pad_token_id": 0}),
}  # fmt: skip
CASES = [
    ("peft", LoRA(4), "B"),
    ("peft", IA3(), None),
    ("adapters", Bottleneck(5), "up"),
    ("transformers", LoRA(4), "B"),
]


def build(kind: str, task: str, sizes: dict) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = {"classification": AutoModelForSequenceClassification, "generation": AutoModelForCausalLM}[task]
    torch.manual_seed(0)
    extra = {"num_labels": 3} if task == "classification" else {}
    model = auto.from_config(AutoConfig.for_model(kind, **sizes, **extra))
    with torch.no_grad():  # large enough for a wrong weight to show
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    return model.eval()


def make(folder: Path) -> list[dict]:
    made = []
    for name, (kind, task, sizes) in ARCHITECTURES.items():
        for format, adaptation, share in CASES:
            place = folder / f"{kind}-{format}-{adaptation.kind}"
            model = build(kind, task, sizes)
            model.save_pretrained(place / "base")
            mixture = attach(model, adaptation, experts=3, share=share).eval()
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for _, parameter in [*mixture.expert_parameters(), *mixture.head_parameters()]:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            done = export(mixture, place / "out", format, overwrite=True)
            ids = torch.randint(2, 60, (4, 9), generator=generator)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                logits = mixture(**batch).logits
            save_file({**batch, "logits": logits.contiguous()}, place / "expected.safetensors")
            case = {"architecture": name, "library": format, "adaptation": adaptation.kind, "task": task}
            (place / "case.json").write_text(json.dumps(case))
            made.append({**case, "own_check": done.difference})
    return made


if __name__ == "__main__":
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for row in make(Path(sys.argv[1])):
        print(json.dumps(row), flush=True)
