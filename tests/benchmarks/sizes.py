"""What an AdaMix of RoBERTa-large's shape weighs on disk, and how long it takes to save and load.

    python tests/benchmarks/sizes.py --out data/results/costs/sizes.json
    python tests/benchmarks/sizes.py --quick      # a small model

Random weights; sizes depend on shapes alone. M = 4, bottleneck of 16 at every block, up shared, head of two classes, as
the paper's largest setting. Times are of this machine and disk.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import parse, report, seconds

from adamix_lab import Bottleneck, attach, load, merge, parameter_report, save
from adamix_lab.interop.checking import copy_base

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


def measure(sizes: dict) -> dict:
    mixture = attach(build(sizes), Bottleneck(16), experts=4, share="up").eval()
    counts = parameter_report(mixture)
    full = (counts.base + counts.head) * 4
    rows = []
    headless = attach(build(sizes), Bottleneck(16), experts=4, share="up", train_head=False)
    for head, model in ((True, mixture), (False, headless)):
        for name, what in (("trained experts", model), ("merged", merge(model))):
            for dtype in (torch.float32, torch.float16):
                with tempfile.TemporaryDirectory() as folder:
                    took, _ = seconds(partial(save, what, folder, None, dtype))
                    size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
                    row = {"what": name, "head": head, "dtype": str(dtype).removeprefix("torch."), "bytes": size}
                    row |= {"times_smaller_than_full_copy": round(full / size, 1), "save_seconds": round(took, 3)}
                    if head:
                        took, _ = seconds(partial(load, copy_base(mixture), folder))
                        row["load_seconds"] = round(took, 3)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    parameters = {name: getattr(counts, name) for name in ("experts", "merged", "head", "base")}
    return {"parameters": parameters, "full_copy_bytes_float32": full, "rows": rows}


def main() -> None:
    options = parse(__doc__)
    report(measure(SMALL if options.quick else LARGE), options.out)


if __name__ == "__main__":
    main()
