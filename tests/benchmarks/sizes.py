"""What an AdaMix of RoBERTa-large's shape weighs on disk, and how long it takes to save and load.

    python tests/benchmarks/sizes.py [--quick]

Random weights; sizes depend on shapes alone. M = 4, bottleneck of 16 at every block, up shared, head of two classes, as
the paper's largest setting. Times are of this machine and disk. Writes data/results/sizes.json (not with --quick, which
takes a small model).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from adamix_lab import Bottleneck, attach, load, merge, parameter_report, save
from adamix_lab.interop.export import copy_base
from adamix_lab.training.doctor import versions

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
         "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}  # fmt: skip
SMALL = {**LARGE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def build(sizes: dict) -> torch.nn.Module:
    """The architecture with cheap random weights."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(num_labels=2, **sizes))
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.uniform_(-0.03, 0.03, generator=generator) if tensor.is_floating_point() else tensor.zero_()
    return model.eval()


def seconds(function, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def measure(sizes: dict) -> dict:
    base = build(sizes)
    mixture = attach(base, Bottleneck(16), experts=4, share="up").eval()
    counts = parameter_report(mixture)
    full = (counts.base + counts.head) * 4
    rows = []
    headless = attach(build(sizes), Bottleneck(16), experts=4, share="up", train_head=False)
    for head, model in ((True, mixture), (False, headless)):
        for name, what in (("trained experts", model), ("merged", merge(model))):
            for dtype in (torch.float32, torch.float16):
                with tempfile.TemporaryDirectory() as folder:
                    took, _ = seconds(save, what, folder, None, dtype)
                    size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
                    row = {"what": name, "head": head, "dtype": str(dtype).removeprefix("torch."), "bytes": size}
                    row |= {"times_smaller_than_full_copy": round(full / size, 1), "save_seconds": round(took, 3)}
                    if head:
                        took, _ = seconds(load, copy_base(mixture), folder)
                        row["load_seconds"] = round(took, 3)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    report = {name: getattr(counts, name) for name in ("experts", "merged", "head", "base")}
    return {"parameters": report, "full_copy_bytes_float32": full, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "data/results/sizes.json")
    options = parser.parse_args()
    result = {"versions": versions(), **measure(SMALL if options.quick else LARGE)}
    if not options.quick:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
