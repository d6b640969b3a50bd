"""Exports against stock libraries, and the tests against other versions, each in an environment of its own.

    python tests/environments/check.py adapters      # stock adapters and peft load the exports; logits compared
    python tests/environments/check.py oldest        # some of the tests, on the lowest versions that are admitted
    python tests/environments/check.py make FOLDER   # the exports alone, by this interpreter
    python tests/environments/check.py read FOLDER   # their logits by stock libraries; run where adamix_lab is not

An environment is made once, under runs/environments, from `tests/environments/NAME.txt`; this needs a package registry
(exit code 77 without one). Environments with pytest run TESTS; all of them read the exports.

Exports are of tiny random models. Each case is a folder: `base/` (as transformers saves it, its head untrained), `out/`
(the export), `case.json`, and `expected.safetensors` (inputs, and the logits of the merged mixture).
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(__file__).resolve().parent
HERE = ROOT / "runs" / "environments"
NO_REGISTRY = 77
WITHIN = 1e-5  # of the largest logit, as adamix_lab.core.merging.REORDERED has it: other libraries sum in other orders
# What depends on the versions most: wrapping, families, hooks on blocks, saving, exports, the authors' vectors.
TESTS = """test_mixture test_model test_merging test_saving test_sites test_views test_blocks
test_reference test_export test_authors test_peft test_checkpointing test_training test_checkpoints
test_backbones test_peft_tuner test_hf_trainer test_trainer_arguments test_trainer_ways""".split()
AUTO = {"classification": "AutoModelForSequenceClassification", "generation": "AutoModelForCausalLM"}
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

QUIET = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


def python_of(name: str) -> Path:
    """The environment's interpreter; made if it is not there. Exits with 77 where packages cannot be fetched."""
    folder = Path(os.environ.get("ADAMIX_LAB_ENVIRONMENTS", HERE)) / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = (PLACE / f"{name}.txt").read_text(encoding="utf-8")
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    install = [python, "-m", "pip", "install", "-q", "-r", PLACE / f"{name}.txt"]
    done = subprocess.run(install, capture_output=True, text=True, env=proxies)
    if done.returncode:
        print(f"no environment {name!r}: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}")
        raise SystemExit(NO_REGISTRY)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def rows_of(python: Path | str, part: str, path: str = "") -> list[dict]:
    """The JSON lines that "make" or "read" prints about the exports. path: where Python looks for packages besides."""
    HERE.mkdir(parents=True, exist_ok=True)
    command = [python, __file__, part, HERE / "exports"]
    environment = {**os.environ, **QUIET, "PYTHONPATH": path}
    out = subprocess.run(command, check=True, env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def make_exports() -> list[dict]:
    """Exports of every architecture for every library, by this interpreter; a row a case."""
    return rows_of(sys.executable, "make", str(ROOT))


def read_exports(python: Path) -> dict:
    """What an environment's libraries answered on the exports: versions, a row a case, and the rows that are wrong."""
    versions, *rows = rows_of(python, "read")
    for row in rows:
        case = f"{row['architecture']:12}{row['library']:14}{row['adaptation']:12}"
        print(f"{case}{row['difference']:.2g}, largest logit {row['largest_logit']:.2g}", flush=True)
    wrong = [row for row in rows if not row["difference"] <= WITHIN * row["largest_logit"]]  # NaN is wrong, too
    return {"versions": versions, "exports": rows, "wrong": wrong}


def run_tests(python: Path) -> str:
    """pytest's closing line on TESTS, by the environment's interpreter."""
    command = [python, "-m", "pytest", "-q", "-m", "not slow and not browser", "-p", "no:cacheprovider"]
    places = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    files = [places[name] for name in TESTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ADAMIX_LAB_DATA": str(ROOT / "data")}
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout[-4000:])
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"pytest ended with {done.returncode}"


def check(name: str) -> dict:
    """Everything an environment is for, as a record."""
    python = python_of(name)
    make_exports()
    record = {"environment": name, **read_exports(python)}
    if "pytest" in (PLACE / f"{name}.txt").read_text(encoding="utf-8"):
        record["tests"] = run_tests(python)
    return record


# -- "make": exports with the logits they must answer; imports happen inside, as "read" must do without adamix_lab ----


def make(folder: Path) -> Iterator[dict]:
    """Exports every case under a folder; a row each."""
    import torch
    from safetensors.torch import save_file

    from adamix_lab import IA3, Bottleneck, LoRA, attach, export

    cases = (("peft", LoRA(4), "B"), ("peft", IA3(), None), ("adapters", Bottleneck(5), "up"),
             ("transformers", LoRA(4), "B"))  # fmt: skip
    for name, (kind, task, sizes) in ARCHITECTURES.items():
        for library, adaptation, share in cases:
            place = folder / f"{kind}-{library}-{adaptation.kind}"
            model = build(kind, task, sizes)
            model.save_pretrained(place / "base")
            mixture = attach(model, adaptation, experts=3, share=share).eval()
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for _, parameter in [*mixture.expert_parameters(), *mixture.head_parameters()]:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            done = export(mixture, place / "out", library, overwrite=True)
            ids = torch.randint(2, 60, (4, 9), generator=generator)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                logits = mixture(**batch).logits
            save_file({**batch, "logits": logits.contiguous()}, place / "expected.safetensors")
            case = {"architecture": name, "library": library, "adaptation": adaptation.kind, "task": task}
            (place / "case.json").write_text(json.dumps(case))
            yield {**case, "own_check": done.difference}


def build(kind: str, task: str, sizes: dict) -> Any:
    """A random model of three layers, its matrices large enough for a wrong weight to show."""
    import torch
    import transformers

    torch.manual_seed(0)
    extra = {"num_labels": 3} if task == "classification" else {}
    model = getattr(transformers, AUTO[task]).from_config(transformers.AutoConfig.for_model(kind, **sizes, **extra))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    return model.eval()


# -- "read": stock libraries alone load the exports ----------------------------------------------------------------


def read(folder: Path) -> Iterator[dict]:
    """The installed versions, then a row for each case whose library is there: the largest difference of logits."""
    assert importlib.util.find_spec("adamix_lab") is None, "adamix_lab is importable here: this would prove nothing"
    import torch
    from safetensors.torch import load_file

    installed = {package.name: package.version for package in distributions()}
    names = ("torch", "transformers", "peft", "adapters", "safetensors")
    yield {"python": platform.python_version(), **{name: installed.get(name) for name in names}}
    for place in sorted(folder.iterdir()):
        case = json.loads((place / "case.json").read_text())
        if case["library"] not in installed:
            continue
        expected = load_file(place / "expected.safetensors")
        logits = expected.pop("logits")
        with torch.no_grad():
            apart = [model.eval()(**expected).logits - logits for model in loaded(case, place)]
        largest = float(logits.abs().max())
        yield {**case, "difference": float(torch.stack(apart).abs().max()), "largest_logit": largest}


def loaded(case: dict, place: Path) -> Iterator[Any]:
    """The model as its library loads it; adapters by its default loader (`.bin`), and by its safetensors."""
    import transformers

    auto = getattr(transformers, AUTO[case["task"]])
    if case["library"] == "transformers":
        yield auto.from_pretrained(place / "out")
    elif case["library"] == "peft":
        from peft import PeftModel

        yield PeftModel.from_pretrained(auto.from_pretrained(place / "base"), str(place / "out"))
    else:
        import adapters

        options = {"load_as": "adamix", "set_active": True, "with_head": case["task"] == "classification"}
        for safe in (False, True):
            model = auto.from_pretrained(place / "base")
            adapters.init(model)
            model.load_adapter(str(place / "out"), use_safetensors=safe, **options)
            yield model


def main(name: str, *folder: str) -> None:
    """Prints rows as JSON; of an environment the record last, with exit code 1 where anything differs."""
    if folder:
        for row in {"make": make, "read": read}[name](Path(*folder).resolve()):
            print(json.dumps(row), flush=True)
        return
    record = check(name)
    print(json.dumps(record))
    raise SystemExit(1 if record["wrong"] or "failed" in record.get("tests", "") else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
