"""The package as a whole: light to import, its names, its doctests."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
import tiny
import tiny_task

import adamix_lab

HEAVY = ("transformers", "accelerate", "datasets", "sklearn", "pandas", "matplotlib", "IPython", "ipywidgets", "typer")


OF_OTHERS = (
    "tasks.pooling",
    "training.hf_trainer",
    "interop.peft_tuner",
)  # classes of transformers and peft, to be imported by name


def modules():
    """Every module's name below the package; subpackages hold an empty `__init__`."""
    found = pkgutil.walk_packages(adamix_lab.__path__, "adamix_lab.")
    return [m.name.removeprefix("adamix_lab.") for m in found if not m.name.endswith("__main__")]


def test_every_public_name_is_there():
    for name in adamix_lab.__all__:
        assert getattr(adamix_lab, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'atach'"):
        adamix_lab.atach  # noqa: B018


@pytest.mark.parametrize("name", [m for m in modules() if "." not in m and m not in ("cli", "lessons")])
def test_every_name_that_a_package_exports_is_there(name):
    package = importlib.import_module(f"adamix_lab.{name}")
    assert package.__all__ and all(not inspect.ismodule(getattr(package, n)) for n in package.__all__)
    with pytest.raises(AttributeError, match=rf"'adamix_lab\.{name}' has no attribute 'atach'"):
        package.atach  # noqa: B018


def test_importing_the_package_and_its_core_brings_in_nothing_heavy():
    names = [
        "adamix_lab",
        *(f"adamix_lab.{n}" for n in modules() if n not in OF_OTHERS and not n.startswith("cli")),
    ]
    script = f"import sys, {', '.join(names)}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == []


@pytest.mark.parametrize("name", modules())
def test_docstrings_that_run_are_right(name, tmp_path):
    module = importlib.import_module(f"adamix_lab.{name}")
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        if example.examples:
            example.globs |= given(tmp_path / example.name)
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


def given(folder) -> dict[str, object]:
    """What the examples in docstrings start from, as the page of the API says: a small model, a mixture, a task."""
    import torch

    torch.manual_seed(0)
    batch = tiny.batch()
    names = {name: getattr(adamix_lab, name) for name in adamix_lab.__all__}
    return names | {
        "torch": torch, "model": tiny.bert().eval(), "fresh_model": tiny.bert().eval(), "mixture": tiny.shake(
            tiny_task.mixture(experts=4)).eval(), "tokenizer": tiny_task.tokenizer(), "task": tiny_task.task(),
        "batch": batch, "labels": torch.zeros(len(batch["input_ids"]), dtype=torch.long), "folder": folder,
    }  # fmt: skip


def test_every_public_name_has_an_example_that_runs():
    without = [name for name in adamix_lab.__all__ if ">>>" not in (inspect.getdoc(getattr(adamix_lab, name)) or "")]
    assert without == ["import_authors", "import_peft", "push_to_hub"]  # these need files or a server of others


def test_files_hold_one_idea():
    import pathlib

    for path in pathlib.Path(adamix_lab.__path__[0]).rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 430, f"{path.name} has {lines} lines"


def test_training_loads_little():
    script = (
        "import sys, adamix_lab; adamix_lab.train; print(*[m for m in sys.modules if m.split('.')[0] == 'adamix_lab'])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(out.stdout.split()) <= 20, out.stdout
