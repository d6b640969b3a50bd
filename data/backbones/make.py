"""Make a decoder: a GPT-2 with a vocabulary of its own, pre-trained from scratch on plain text.

    python data/backbones/make.py TEXTS data/backbones/NAME
    python data/backbones/make.py TEXTS runs/my-gpt2 --steps 1000 --layers 6

TEXTS is a folder of `.txt` files, UTF-8, an empty line between documents. The same command goes on from the last
checkpoint, in the folder's `work`, which may be removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

ROOT = Path(__file__).resolve().parent.parent.parent
END = "<|endoftext|>"
HELD_OUT = 100  # every hundredth document is
CARD = Path(__file__).with_name("card.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Settings:
    """Shape and training; the defaults are those of books-gpt2. `decay`: the last share of the steps, a cosine to 0."""

    vocab_size: int = 8192
    context: int = 256
    width: int = 256
    layers: int = 4
    heads: int = 4
    steps: int = 4800
    batch_size: int = 16
    lr: float = 2e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.1
    precision: str = "bf16"  # or "no": float32
    seed: int = 0
    checkpoint_every: int = 250


def read_documents(source: Path) -> tuple[list[str], list[str]]:
    """(documents, names of their files). Raises ValueError where there are fewer than two."""
    files = sorted(source.glob("*.txt"))
    parts = (part.strip() for path in files for part in path.read_text(encoding="utf-8").split("\n\n"))
    documents = [part + "\n" for part in parts if part]
    if len(documents) < 2:
        raise ValueError(
            f"{source} holds {len(documents)} documents: expected two or more, an empty line between them."
        )
    return documents, [path.name for path in files]


def learn_vocabulary(documents: list[str], settings: Settings) -> Any:
    """A byte-level BPE tokenizer as GPT-2's; end-of-text has id 0, and any text can be encoded."""
    bpe = ByteLevelBPETokenizer()
    lines = (line for document in documents for line in document.splitlines(keepends=True))
    bpe.train_from_iterator(lines, settings.vocab_size, min_frequency=0, special_tokens=[END], show_progress=False)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    kind: Any = transformers.GPT2TokenizerFast  # type: ignore[attr-defined]
    return kind(tokenizer_object=bpe._tokenizer, model_max_length=settings.context, **names)


def windows(documents: list[str], tokenizer: Any, context: int) -> torch.Tensor:
    """Documents, each with end-of-text, one after the other and cut: `[windows, context]`, int32."""
    encode, end = tokenizer.backend_tokenizer.encode, [tokenizer.eos_token_id]
    ids = [np.array(encode(document, add_special_tokens=False).ids + end, np.int32) for document in documents]
    stream = torch.from_numpy(np.concatenate(ids))
    if len(stream) < context:
        raise ValueError(f"{len(stream)} tokens of text: expected a window of {context} in what is held out, too.")
    return stream[: len(stream) // context * context].view(-1, context)


def new_model(settings: Settings, vocabulary: int) -> Any:
    """A GPT-2 freshly drawn, without dropout: one pass over a text needs none."""
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocabulary, n_positions=settings.context, n_embd=settings.width, n_layer=settings.layers,
        n_head=settings.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, activation_function="gelu_pytorch_tanh",  # GPT-2's gelu_new in one kernel
    ))  # fmt: skip


def train(model: Any, rows: torch.Tensor, settings: Settings, work: Path) -> list[tuple[float, float]]:
    """Trains to the end, from the last whole checkpoint if there is one; (step, mean loss) on the way."""
    arguments = TrainingArguments(
        output_dir=str(work), max_steps=settings.steps, per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr, lr_scheduler_type="warmup_stable_decay", warmup_steps=settings.warmup,
        lr_scheduler_kwargs={"num_decay_steps": round(settings.decay * settings.steps), "decay_type": "cosine"},
        weight_decay=settings.weight_decay, adam_beta2=0.95, bf16=settings.precision == "bf16", seed=settings.seed,
        logging_steps=max(1, settings.steps // 12), save_steps=settings.checkpoint_every, save_total_limit=2,
        report_to="none",
    )  # fmt: skip
    # Labels are all tokens: a collator for language models would leave out end-of-text, which is the padding.
    data: Any = [{"input_ids": row, "labels": row} for row in rows.long()]
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=transformers.default_data_collator)
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]  # the file that is written last
    newest = max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return [(row["step"], round(row["loss"], 4)) for row in trainer.state.log_history if "loss" in row]


@torch.inference_mode()
def mean_loss(model: Any, rows: torch.Tensor) -> float:
    """Nats a token, each foreseen from what stands before it in its window."""
    model.eval()
    losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in rows.long().to(model.device)]
    return sum(losses) / len(losses)


def commit() -> str:
    """The checkout's commit, with -dirty where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def make(source: Path, out: Path, settings: Settings) -> None:
    """Trains, measures, and writes the folder: float16 weights, configuration, tokenizer, record and card."""
    documents, files = read_documents(source)
    facts = {"settings": asdict(settings), "files": files, "documents": len(documents)}
    facts["sha256"] = hashlib.sha256("\n".join(documents).encode()).hexdigest()
    held_out, learned = documents[::HELD_OUT], [d for n, d in enumerate(documents) if n % HELD_OUT]
    tokenizer = learn_vocabulary(learned, settings)
    tokens, judged = (windows(part, tokenizer, settings.context) for part in (learned, held_out))
    transformers.set_seed(settings.seed)
    model = new_model(settings, len(tokenizer))
    # checkpoints of other text or settings would not fit
    curve = train(model, tokens, settings, out / "work" / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8])
    model.half().save_pretrained(out)
    model.config.dtype = torch.float32  # what is loaded computes in it, and is tuned in it
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts |= {"characters": sum(map(len, learned)), "held_out": sum(map(len, held_out)), "tokens": tokens.numel()}
    loss = mean_loss(model.float(), judged)
    bits = loss * judged.numel() / facts["held_out"] / math.log(2)
    found = {"perplexity": math.exp(loss), "bits": bits, "loss": curve, "parameters": model.num_parameters()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "device": model.device.type}
    record = {**facts, **found, **versions, "commit": commit()}
    (out / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    card = CARD.format(**{
        **asdict(settings), **record, "name": out.name, "vocabulary": len(tokenizer), "one_in": HELD_OUT,
        "millions": record["parameters"] / 1e6, "epochs": settings.steps * settings.batch_size / len(tokens),
        "curve": ", ".join(f"{value:.2f} at {step}" for step, value in curve), "files": ", ".join(files),
    })  # fmt: skip
    (out / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = transformers.HfArgumentParser(Settings, description=__doc__)  # type: ignore[arg-type]
    parser.add_argument("source", type=Path, metavar="TEXTS")
    parser.add_argument("out", type=Path, metavar="FOLDER")
    settings, places = parser.parse_args_into_dataclasses()
    make(places.source, places.out, settings)


if __name__ == "__main__":
    main()
