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
EXTRAS = {  # module: (package, extra, what it is for)
    "sklearn": ("scikit-learn", "analysis", "linear probes and metrics"),
    "pandas": ("pandas", "analysis", "result tables"),
    "pyarrow": ("pyarrow", "analysis", "stored results"),
    "markdown_it": ("markdown-it-py", "analysis", "reports as pages"),
    "matplotlib": ("matplotlib", "plots", "pictures"),
    "seaborn": ("seaborn", "plots", "pictures"),
    "jupyterlab": ("jupyterlab", "learn", "the lessons"),
    "ipywidgets": ("ipywidgets", "learn", "the lessons' sliders"),
    "datasets": ("datasets", "data", "data sets from the Hub"),
    "peft": ("peft", "peft", "baselines and exports"),
    "onnxruntime": ("onnxruntime", "onnx", "ONNX graphs of merged models"),
    "jupytext": ("jupytext", "instructor", "the exercises' sources"),
    "nbgrader": ("nbgrader", "instructor", "releasing and grading exercises"),
    "joblib": ("joblib", "experiments", "several runs at once"),
    "distributed": ("distributed", "cluster", "runs on a dask cluster"),
    "dask_jobqueue": ("dask-jobqueue", "slurm", "runs on SLURM"),
    "sacrebleu": ("sacrebleu", "nlg", "BLEU, chrF and TER of generated texts"),
}


def versions() -> dict[str, str]:
    """Versions and device, to keep with every result."""
    import torch

    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in ("adamix-lab", *CORE):
        found[name] = _version(name) or "missing"
    found["torch"] = torch.__version__
    found["device"] = device_name()
    return found


def device_name() -> str:
    """What training would run on."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "mps: Apple GPU"
    return f"cpu: {torch.get_num_threads()} threads"


def diagnose() -> Iterator[tuple[bool, str]]:
    """(fine, line) for each thing looked at; a line that is not fine says what to do."""
    found = versions()
    yield True, f"Python {found['python']} on {found['platform']}; adamix-lab {found['adamix-lab']}"
    yield True, ", ".join(f"{name} {found[name]}" for name in CORE)
    yield True, f"device: {found['device']}"
    if _nvidia_driver() and not found["device"].startswith("cuda"):
        advice = "install a CUDA build (README, 'On a GPU')"
        yield False, f"an NVIDIA driver is there, but this torch is a CPU build: {advice}"
    for module, (package, extra, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module):
            yield True, f"{package} {_version(package)}: {purpose}"
        else:
            lacking = "is missing" if extra in LEARN else "is not installed, which lessons do not need"
            yield extra not in LEARN, f"{package} {lacking} ({purpose}): pip install 'adamix-lab[{extra}]'"
    yield from _assets()
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    yield True, "the Hub is switched off (HF_HUB_OFFLINE=1)" if offline else "the Hub may be asked for models by name"
    free = _free_space()
    yield free > 1, f"{free:.1f} GB free here" + ("" if free > 1 else ": expected 1 GB for runs; free some space")


def class_line() -> tuple[bool, str]:
    """(all fine for the lessons, one line): OK or what is missing, then versions; no path and no name of a person."""
    found, free = versions(), _free_space()
    lacking = [
        package
        for module, (package, extra, _) in EXTRAS.items()
        if extra in LEARN and not importlib.util.find_spec(module)
    ]
    if not all(fine for fine, _ in _assets()):
        lacking.append("data or weights (`adamix-lab doctor` says which)")
    if free < 1:
        lacking.append(f"disk: {free:.1f} GB free")
    state = f"MISSING {'; '.join(lacking)}" if lacking else "OK"
    versioned = f"adamix-lab {found['adamix-lab']} | Python {found['python']} | {found['platform']}"
    return not lacking, f"{state} | {versioned} | torch {found['torch']} | {found['device']} | {free:.0f} GB free"


def missing_package(module: str) -> str:
    """Which package a module that is not there is from, and the extra that brings it; "" where none does."""
    package, extra, purpose = EXTRAS.get(module.partition(".")[0], ("", "", ""))
    return f"{package} is not installed ({purpose}): pip install 'adamix-lab[{extra}]'." if package else ""


def _assets() -> Iterator[tuple[bool, str]]:
    from adamix_lab.tasks.backbones import MINILM_LICENCE, SHIPPED, find_minilm, find_shipped

    root = data_root()
    finders: dict[str, Callable[[], Path]] = {"MiniLM's weights are whole": find_minilm}
    finders |= {f"the decoder {name!r} is there": partial(find_shipped, name) for name in SHIPPED}
    for what, find in finders.items():
        try:
            yield True, f"{what} ({find()})"
        except (OSError, ValueError) as error:
            yield False, str(error)
    yield True, MINILM_LICENCE
    for name in (*EMBEDDED, *EMBEDDED_TEXTS):
        there = split_file(root / name, "train") is not None
        lacking = "" if there else f" is missing from {root}: install adamix-lab again"
        yield there, f"embedded task {name!r}{lacking}"
    shipped = len(list((root / "experts").rglob("adamix.json")))
    yield shipped > 0, f"{shipped} shipped sets of experts" + ("" if shipped else ": data/experts/make.py makes them")


def _free_space() -> float:
    return shutil.disk_usage(Path.cwd()).free / 1e9


def _nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").is_file()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
