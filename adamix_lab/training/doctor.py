"""What is installed, what it runs on, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from adamix_lab.tasks.rows import split_file
from adamix_lab.tasks.tasks import EMBEDDED, EMBEDDED_TEXTS, data_root

CORE = ("torch", "transformers", "safetensors", "accelerate", "numpy")
LEARN = ("learn", "minilm", "analysis", "plots", "peft", "nlg")  # what the tour and the lessons need


def extras() -> dict[str, tuple[str, str, str]]:
    """The packages that extras bring, by module: (package, extra, what it is for)."""
    import yaml

    text = Path(__file__).with_name("extras.yaml").read_text(encoding="utf-8")
    return {module: tuple(told) for module, told in yaml.safe_load(text).items()}


def versions() -> dict[str, str]:
    """Versions and device, to keep with every result."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    found |= {name: _version(name) for name in ("adamix-lab", *CORE)}
    return {**found, "device": device_name()}


def device_name() -> str:
    """What training would run on."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "mps: Apple GPU"
    return f"cpu: {torch.get_num_threads()} threads"


def diagnose() -> Iterator[tuple[bool, str]]:
    """(fine, line) for each thing looked at; a line that is not fine names it and, behind a colon, says what to do."""
    found = versions()
    yield True, f"Python {found['python']} on {found['platform']}; adamix-lab {found['adamix-lab']}"
    yield True, ", ".join(f"{name} {found[name]}" for name in CORE)
    yield True, f"device: {found['device']}"
    if _nvidia_driver() and not found["device"].startswith("cuda"):
        yield True, "torch is a CPU build beside an NVIDIA driver: to train on it, install a CUDA build (docs/use.md)"
    for module, (package, extra, purpose) in extras().items():
        if importlib.util.find_spec(module):
            yield True, f"{package} {_version(package)}: {purpose}"
        else:
            lacking = "" if extra in LEARN else ", which lessons do not need"
            yield extra not in LEARN, f"{package} is missing{lacking} ({purpose}): pip install 'adamix-lab[{extra}]'"
    yield from _assets()
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    yield True, "the Hub is switched off (HF_HUB_OFFLINE=1)" if offline else "the Hub may be asked for models by name"
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield free > 1, f"{free:.1f} GB free here" + ("" if free > 1 else ": expected 1 GB for runs; free some space")


def class_line() -> tuple[bool, str]:
    """(all fine for the lessons, one line): OK or what is missing, then versions; no path and no name of a person."""
    found = versions()
    lacking = [line.partition(":")[0] for fine, line in diagnose() if not fine]
    state = f"MISSING {'; '.join(lacking)}" if lacking else "OK"
    versioned = f"adamix-lab {found['adamix-lab']} | Python {found['python']} | torch {found['torch']}"
    return not lacking, f"{state} | {versioned} | {found['platform']} | {found['device']}"


def missing_package(module: str) -> str:
    """Which package a module that is not there is from, and the extra that brings it; "" where none does."""
    package, extra, purpose = extras().get(module.partition(".")[0], ("", "", ""))
    return f"{package} is not installed ({purpose}): pip install 'adamix-lab[{extra}]'." if package else ""


def _assets() -> Iterator[tuple[bool, str]]:
    from adamix_lab.tasks.backbones import MINILM_LICENCE, SHIPPED, find_minilm, find_shipped

    finders: dict[str, Callable[[], Path]] = {"MiniLM's weights": find_minilm}
    finders |= {f"the decoder {name!r}": partial(find_shipped, name) for name in SHIPPED}
    for what, find in finders.items():
        try:
            yield True, f"{what}: {find()}"
        except (OSError, ValueError) as error:
            yield False, f"{what}: {error}"
    yield True, MINILM_LICENCE
    again = f"is missing from {data_root()}, install adamix-lab again"
    for name in (*EMBEDDED, *EMBEDDED_TEXTS):
        there = split_file(data_root() / name, "train") is not None
        yield there, f"the embedded task {name!r}" + ("" if there else f": {again}")
    shipped = len(list((data_root() / "experts").rglob("adamix.json")))
    yield shipped > 0, f"{shipped} shipped sets of experts" + ("" if shipped else ": data/experts/make.py makes them")


def _nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").is_file()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
