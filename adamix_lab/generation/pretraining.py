"""Pre-training a GPT-2 from scratch on plain text: the tokenizer, the tokens, the loop, a folder for transformers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adamix_lab.core.files import write_text
from adamix_lab.generation.corpus import Corpus, Windows, known_corpus, text_files, text_sha256, tokenize
from adamix_lab.generation.decoder import Pretraining, new_decoder, save_decoder
from adamix_lab.generation.decoder_card import write_card
from adamix_lab.generation.perplexity import perplexities
from adamix_lab.generation.tokenizer import train_tokenizer
from adamix_lab.training.doctor import versions
from adamix_lab.training.optim import keep_freed_memory, set_rate
from adamix_lab.training.run import (
    LOG,
    check_same,
    clear_temporary,
    load_optimizer,
    newest_checkpoint,
    optimizer_tensors,
    read_log,
    write_checkpoint,
)
from adamix_lab.training.train import shares

BETAS = (0.9, 0.95)
WORK, RECORD, SOURCES = "work", "pretraining.json", "MANIFEST.json"


def pretrain(
    source: str | Path,
    out: str | Path,
    settings: Pretraining | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> Path:
    """Pre-trains a GPT-2 on text and writes it, with tokenizer and card, as a folder for transformers (float16).

    A killed run goes on from its last checkpoint when the same call is made again, and ends with the same weights;
    while its rate is level it may be given other `steps`. Under `accelerate launch` each process takes its share of
    every batch. At the end the perplexity is measured on the source's files named valid or test, and the card written.

    Args:
        source: a text file (.txt, .txt.xz, .txt.gz) or a folder of them; see `adamix_lab.generation.corpus`. A
            `MANIFEST.json` in the folder (rows with source, commit, licence, chars) goes into the card.
        out: the folder; tokens, log and checkpoints lie in its subfolder `work`, which may be removed at the end.
        settings: None takes the defaults.
        progress: show a bar.
        on_step: called after each step with the number of steps done.

    Raises:
        FileNotFoundError: no text there.
        ValueError: text that is not UTF-8 or shorter than a window; a folder with another run's checkpoint.
        FloatingPointError: a logged loss is not finite.
        OSError: something cannot be written; earlier files are whole.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    settings, out = settings or Pretraining(), Path(out)
    AcceleratorState._reset_state()  # accelerate keeps one precision a process and refuses a second
    accelerator = Accelerator(mixed_precision=settings.precision, gradient_accumulation_steps=settings.accumulate)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with accelerator.main_process_first():
        tokenizer, corpus, tokens = prepare_corpus(text_files(source), settings, out / WORK)
    set_seed(settings.seed)
    model = new_decoder(settings, len(tokenizer))
    windows = Windows(tokens, settings.context, settings.batch_size, settings.seed)
    loop = Loop(accelerator, model, settings, corpus, windows, out / WORK)
    loop.run(progress, on_step)
    if accelerator.is_main_process:
        save_decoder(model, tokenizer, out)
        facts = {"settings": asdict(settings), "corpus": asdict(corpus), "sources": read_sources(Path(source))}
        found = {"command": command(settings, corpus), "perplexity": measure(out, Path(source))}
        record = {**facts, **loop.record(), **found, "versions": versions()}
        write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
        write_card(out, record)
    accelerator.wait_for_everyone()
    return out


def prepare_corpus(files: list[Path], settings: Pretraining, folder: Path) -> tuple[Any, Corpus, Path]:
    """(tokenizer, facts, folder of the tokens), made at the first call with this text and vocabulary, then found."""
    from transformers import AutoTokenizer

    sha256 = text_sha256(files)
    place = folder / f"{sha256[:12]}-{settings.vocab_size}"
    known = known_corpus(place)
    if known is not None:
        return AutoTokenizer.from_pretrained(place), known, place
    tokenizer = train_tokenizer(files, settings.vocab_size, settings.context)
    tokenizer.save_pretrained(place)
    return tokenizer, tokenize(files, sha256, tokenizer, place), place


def read_sources(source: Path) -> list[dict[str, Any]]:
    """The rows of a folder's manifest: where its text came from. Empty where there is none."""
    path = source / SOURCES
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} holds no list of objects: expected rows with source, commit, licence and chars.")
    return rows


def measure(folder: Path, source: Path) -> dict[str, Any]:
    """The perplexity of the decoder in a folder, as it is shipped, on the source's files named valid or test."""
    from adamix_lab.tasks.backbones import load_backbone

    files = text_files(source, held_out=True)
    model, tokenizer = load_backbone(str(folder), kind="generation") if files else (None, None)
    return {path.name: perplexities(model, tokenizer, path) for path in files}


def command(settings: Pretraining, corpus: Corpus) -> str:
    """The command line that makes this decoder, with what differs from the defaults."""
    texts = corpus.files[0] if len(corpus.files) == 1 else "FOLDER"
    chosen = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if getattr(settings, field.name) != field.default
    }
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    return f"adamix-lab pretrain {texts} {options}".strip()


def parameter_groups(model: nn.Module, settings: Pretraining) -> list[dict[str, Any]]:
    """AdamW's groups: matrices and embeddings decay, vectors do not."""
    parameters = list(model.parameters())
    matrices, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    return [
        {"params": some, "base_lr": settings.lr, "weight_decay": decay}
        for decay, some in ((settings.weight_decay, matrices), (0.0, vectors))
    ]


class Loop:
    """The training loop with its log and checkpoints."""

    def __init__(
        self, accelerator: Any, model: Any, settings: Pretraining, corpus: Corpus, windows: Windows, folder: Path
    ) -> None:
        self.accelerator, self.settings, self.windows, self.folder = accelerator, settings, windows, folder
        self.model = model.to(accelerator.device)
        fused = accelerator.device.type in ("cpu", "cuda")
        groups = parameter_groups(self.model, settings)
        self.plain = torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, fused=fused)
        self.wrapped, self.optimizer = accelerator.prepare(self.model, self.plain)
        self.facts = {
            "settings": asdict(settings),
            "corpus": asdict(corpus),
            "processes": accelerator.num_processes,
        }
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def run(self, progress: bool = True, on_step: Callable[[int], None] | None = None) -> None:
        """From the last checkpoint, or the start, to the end."""
        from tqdm.auto import tqdm

        total, main = self.settings.steps, self.accelerator.is_main_process
        first = self._resume()
        self.model.train()
        for step in tqdm(range(first, total), initial=first, total=total, disable=None if progress and main else True):
            began = time.perf_counter()
            set_rate(self.plain, self.settings.rate(step) / self.settings.lr)
            loss = self._step(step)
            self.seconds += time.perf_counter() - began
            self._after(step + 1, loss)
            if on_step is not None:
                on_step(step + 1)
        self.model.eval()

    def _step(self, step: int) -> Tensor:
        accelerator, batch = self.accelerator, self.windows.at(step)
        loss = torch.zeros((), device=accelerator.device)
        drawn = np.random.SeedSequence((self.settings.seed, step, accelerator.process_index))
        torch.manual_seed(int(drawn.generate_state(1)[0]))  # of dropout: a function of the step, so nothing to keep
        for rows, weight in shares(len(batch), accelerator, self.settings.accumulate):
            piece = batch[rows].to(accelerator.device, non_blocking=True)
            with accelerator.accumulate(self.wrapped):
                out = self.wrapped(input_ids=piece, labels=piece, use_cache=False)
                # accelerate averages over pieces and processes; the weight makes that the mean over windows
                accelerator.backward(out.loss * weight * self.settings.accumulate * accelerator.num_processes)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            loss += weight * out.loss.detach()
        return loss

    def record(self) -> dict[str, Any]:
        """What the run saw: steps, tokens, seconds, and a few points of its loss."""
        s = self.settings
        tokens = s.steps * s.batch_size * s.context
        curve = self.rows[:: max(1, len(self.rows) // 12)]
        return {
            "steps": s.steps,
            "tokens": tokens,
            "epochs": round(s.steps * s.batch_size / self.windows.count, 3),
            "seconds": round(self.seconds, 3),
            "vocabulary": self.model.config.vocab_size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "loss": [{"step": row["step"], "loss": round(row["loss"], 4)} for row in [*curve, self.rows[-1]]],
            "processes": self.accelerator.num_processes,
        }

    # -- log and checkpoints ------------------------------------------------------------------------

    def _after(self, step: int, loss: Tensor) -> None:
        settings, last = self.settings, step == self.settings.steps
        if step % settings.log_every == 0 or step == 1 or last:
            value = float(self.accelerator.reduce(loss, "sum"))
            if not math.isfinite(value):
                raise FloatingPointError(f"The loss at step {step} is {value}: expected a finite number. Lower lr.")
            lr = self.plain.param_groups[0]["lr"]
            self._log({"step": step, "loss": value, "lr": lr, "seconds": round(self.seconds, 2)})
        if last or (settings.checkpoint_every and step % settings.checkpoint_every == 0):
            self._checkpoint(step)

    def _log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.accelerator.is_main_process:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _checkpoint(self, step: int) -> None:
        if self.accelerator.is_main_process:
            tensors = {f"weights.{name}": p for name, p in self.model.named_parameters()}
            tensors |= {f"optimizer.{name}": t for name, t in optimizer_tensors(self.plain).items()}
            write_checkpoint(self.folder, step, tensors, {"run": self.facts, "seconds": self.seconds})
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        if self.accelerator.is_main_process:
            clear_temporary(self.folder)
        found = newest_checkpoint(self.folder)
        if found is not None:
            saved, now = comparable(found.facts["run"], self.facts, found.step)
            check_same(saved, now, found.path)
            weights = found.part("weights")
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(weights[name])
            load_optimizer(self.plain, found.part("optimizer"))
            self.seconds = found.facts["seconds"]
            self.rows = [row for row in read_log(self.folder / LOG) if row["step"] <= found.step]
        if self.accelerator.is_main_process:  # the log without rows of steps that are about to be done again
            write_text(self.folder / LOG, "".join(json.dumps(row) + "\n" for row in self.rows))
        self.accelerator.wait_for_everyone()
        return found.step if found else 0


def comparable(saved: dict[str, Any], now: dict[str, Any], step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must be equal to go on from a step: settings, text and its tokens, processes.

    While the rate is level, no step so far depends on how many follow.
    """
    level = all(step <= Pretraining(**facts["settings"]).falls_at for facts in (saved, now))
    free = {"log_every", "checkpoint_every", *(("steps", "decay") if level else ())}

    def fixed(facts: dict[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in facts["settings"].items() if name not in free}
        return {**facts, "settings": settings, "corpus": {name: facts["corpus"][name] for name in ("sha256", "tokens")}}

    return fixed(saved), fixed(now)
