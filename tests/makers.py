"""Makers of shipped data (`data/*/make.py`) as modules, for their tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

DATA = Path(__file__).resolve().parents[1] / "data"


def load_maker(name: str) -> ModuleType:
    """`data/NAME/make.py`."""
    spec = importlib.util.spec_from_file_location(f"make_{name}", DATA / name / "make.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
