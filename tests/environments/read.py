"""Loads what `make.py` exported by stock libraries alone, and compares logits. It must run where adamix_lab is not.

    python tests/environments/read.py FOLDER

Prints one JSON line for each case, and first one with the versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "generation": transformers.AutoModelForCausalLM,
}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def by_transformers(case: dict, place: Path) -> list:
    return [AUTO[case["task"]].from_pretrained(place / "out")]


def by_peft(case: dict, place: Path) -> list:
    from peft import PeftModel

    base = AUTO[case["task"]].from_pretrained(place / "base")
    return [PeftModel.from_pretrained(base, str(place / "out"))]


def by_adapters(case: dict, place: Path) -> list:
    """By the default loader (`.bin`), and by its safetensors."""
    import adapters

    models = []
    for safe in (False, True):
        model = AUTO[case["task"]].from_pretrained(place / "base")
        adapters.init(model)
        options = {"load_as": "adamix", "set_active": True, "with_head": case["task"] == "classification"}
        model.load_adapter(str(place / "out"), use_safetensors=safe, **options)
        models.append(model)
    return models


LOADERS = {"transformers": by_transformers, "peft": by_peft, "adapters": by_adapters}


def main(folder: Path) -> None:
    assert importlib.util.find_spec("adamix_lab") is None, "adamix_lab is importable here: this would prove nothing"
    names = ("torch", "transformers", "peft", "adapters", "safetensors")
    print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in names}}), flush=True)
    transformers.logging.set_verbosity_error()
    for place in sorted(folder.iterdir()):
        case = json.loads((place / "case.json").read_text())
        if version(case["library"]) is None:
            continue
        expected = load_file(place / "expected.safetensors")
        logits = expected.pop("logits")
        differences = []
        for model in LOADERS[case["library"]](case, place):
            with torch.no_grad():
                differences.append(float((model.eval()(**expected).logits - logits).abs().max()))
        largest = float(logits.abs().max())
        print(json.dumps({**case, "difference": max(differences), "largest_logit": largest}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
