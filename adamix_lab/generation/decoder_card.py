"""The model card of a pre-trained decoder, written from the facts that its training recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adamix_lab.core.files import write_text
from adamix_lab.generation.decoder import WEIGHTS

CARD = "README.md"
FRONT = """---
language: en
library_name: transformers
pipeline_tag: text-generation
---
"""
USE = """## Use

```python
from adamix_lab import load_backbone

model, tokenizer = load_backbone("{name}", kind="generation")
```

or `AutoModelForCausalLM.from_pretrained(FOLDER)` and `AutoTokenizer.from_pretrained(FOLDER)` of transformers,
offline. The file holds float16, the configuration asks for float32: tune it in that. Dropout is {dropout:g} in the
configuration, as in pre-training.
"""
MEASURED = """Of the shipped float16 weights, computed in float32. The text is one sequence; windows of the whole
context advance by half of it, so that each token is scored once, with half a window before it at least. By token:
exp of the mean loss a token of this vocabulary. By word: exp of the same total loss divided by the words between
blanks of the original text and one a line's end (the count that WikiText's own figures use). Detokenised:
WikiText's blanks around marks, `@-@`, `@,@` and `@.@` are undone by rules; `<unk>` stays. None of these files was
trained on; whether their text overlaps with the training text was not searched.
"""
OPENSTAX = """Attribution: the OpenStax textbooks are by their authors and OpenStax, Rice University, under the
licence named above (https://creativecommons.org/licenses/by/4.0/); access for free at https://openstax.org. They
were changed: reduced to plain paragraphs, some with mathematics left out. OpenStax does not endorse this model.
"""
NOT_FOR = """## What it is not for

It is a small model for lessons and experiments on adaptation that must run without a network, on a laptop. It knows
little of the world, states falsehoods fluently, and cannot follow instructions, answer questions or hold a
conversation. It repeats the views of its texts, old ones among them; nothing was filtered. It reads {context}
tokens at most, of the language of its texts. Do not put it before users, take decisions by it, or quote its text as
fact. Results on it do not stand for results on the GPT-2 models of that name, which have many times its parameters
and saw far more text.
"""


def write_card(folder: Path, record: dict[str, Any]) -> Path:
    """Writes `README.md` in a decoder's folder."""
    path = folder / CARD
    write_text(path, card(folder, record))
    return path


def card(folder: Path, record: dict[str, Any]) -> str:
    """The card's text, from what `pretrain` recorded and the size of the weights in the folder."""
    settings, corpus = record["settings"], record["corpus"]
    megabytes = (folder / WEIGHTS).stat().st_size / 1e6
    parts = [
        FRONT,
        f"# {folder.name}",
        "",
        f"A GPT-2 of {record['parameters'] / 1e6:.2f} M parameters ({settings['layers']} blocks of width "
        f"{settings['width']}, {settings['heads']} heads, {settings['context']} positions, input and output embeddings "
        f"tied) with a byte-level BPE vocabulary of its own ({record['vocabulary']} entries), pre-trained from scratch "
        f"on {corpus['characters'] / 1e6:.1f} M characters of plain text. Weights: float16 safetensors, "
        f"{megabytes:.1f} MB.",
        "",
        USE.format(name=folder.name, dropout=settings["dropout"]),
        "## Training",
        "",
        *_table(("what", "value"), _training(record)),
        "",
        f"Mean loss (nats a token) of the logged step: {_curve(record['loss'])}.",
        "",
        "Command: `"
        + record["command"]
        + "`. Each window is read once an epoch, in an order that the seed gives; windows run "
        "across documents, which end-of-text separates.",
        "",
        *_perplexity(record["perplexity"]),
        "## Text",
        "",
        f"{corpus['documents']} documents in {', '.join(corpus['files'])}; sha256 of the unpacked text "
        f"`{corpus['sha256']}`.",
        "",
        *_sources(record["sources"]),
        NOT_FOR.format(context=settings["context"]),
    ]
    return "\n".join(parts)


def _training(record: dict[str, Any]) -> list[tuple[str, str]]:
    s, versions = record["settings"], record["versions"]
    hours, falling = record["seconds"] / 3600, f"a cosine to 0 over the last {100 * s['decay']:.0f} % of the steps"
    speed = record["tokens"] / max(record["seconds"], 1e-3)
    decay = f"weight decay {s['weight_decay']:g} on matrices"
    return [
        ("steps", f"{record['steps']} of {s['batch_size']} windows of {s['context']} tokens"),
        ("tokens seen", f"{record['tokens']:,} ({record['epochs']:.2f} epochs of {record['corpus']['tokens']:,})"),
        ("optimiser", f"AdamW, betas (0.9, 0.95), {decay}, gradients clipped at {s['clip']:g}"),
        ("rate", f"{s['lr']:g} after {s['warmup']} steps of warm-up, then level, then {falling}"),
        ("precision", "bfloat16 autocast, float32 weights" if s["precision"] == "bf16" else "float32"),
        ("seed, processes", f"{s['seed']}, {record['processes']}"),
        ("time", f"{hours:.2f} h on {versions['device']}, {speed:,.0f} tokens a second"),
        (
            "versions",
            f"torch {versions['torch']}, transformers {versions['transformers']}, Python {versions['python']}",
        ),
    ]


def _curve(points: list[dict[str, float]]) -> str:
    return ", ".join(f"{point['loss']:.2f} at {point['step']:.0f}" for point in points)


def _perplexity(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    if not found:
        return []
    rows = [
        (
            name,
            form,
            f"{m['by_token']:.1f}",
            f"{m['by_word']:.1f}",
            f"{m['bits_per_character']:.3f}",
            f"{m['tokens']:,}",
            f"{m['words']:,}",
        )
        for name, forms in found.items()
        for form, m in forms.items()
    ]
    head = ("file", "text", "by token", "by word", "bits a character", "tokens", "words")
    return ["## Perplexity", "", *_table(head, rows), "", MEASURED]


def _sources(sources: list[dict[str, Any]]) -> list[str]:
    if not sources:
        return ["Where the text came from was not recorded (no MANIFEST.json beside it).", ""]
    total = sum(row.get("chars", 0) for row in sources) or 1
    rows = [
        (
            str(row.get("source", "?")),
            f"`{row.get('commit', '?')}`",
            str(row.get("licence", "?")),
            f"{row.get('chars', 0) / 1e6:.1f} M ({100 * row.get('chars', 0) / total:.0f} %)",
        )
        for row in sources
    ]
    lines = [*_table(("source", "commit", "licence", "characters"), rows), ""]
    if any("openstax" in str(row.get("source", "")).lower() for row in sources):
        lines.append(OPENSTAX)
    return lines


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
