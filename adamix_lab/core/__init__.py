"""AdaMix itself, to be read top-down in one evening; nothing here imports the rest of the package.

"The reference" is the authors' published code; Eq. n are the paper's. Skip `fan_out` and the last fields of
`Architecture`, which `fast` and `interop` read.

1. `mixture.effective` is the paper in ten lines: one weight from M stacked ones, by a route or a mixture point.
2. `adaptations`: what is mixed. A contract, and bottleneck, LoRA, IA3 and bias, which keep it.
3. `routing`: which expert serves each site and side; routes are data, functions of (seed, step, view).
4. `mixture`: the layer, M experts around a frozen one; which selection it takes in the present call, also when blocks
   rerun in the backward pass.
5. `sites`: where adaptations go in known architectures and in any other; the task head.
6. `views` and `objective`: two routed views of a batch, the task loss and the consistency between them.
7. `merging`: from M experts to one; soups, folding, products, the gap.
8. `files`: how a folder is written so that nothing is lost and read so that nothing false is believed. `errors` serves
   all: every mistake is a `LabError`, which is a ValueError.

Then `adamix_lab.models`, one storey up: `model` attaches, switches tasks, detaches (all that trains is float32);
`wrapping` says what a call does, a selection or AdaMix's training step; `check` asks the model whether its sites are
called and whether several routes may share a call; `saving` keeps weights and configuration in a folder.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def lazy_function(module: str, name: str) -> Callable[..., Any]:
    """A function that is imported from its module when it is first called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    call.__doc__ = f"`{module}.{name}`."
    return call


def lazy_names(package: str, files: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """A package's `__all__` and `__getattr__`: its public names, each imported from its file when it is first used.

    files: names by file, e.g. `{"routing": "Router RouteSpace"}`.
    """
    file_of = {name: file for file, names in files.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in file_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(file_of))}")
        return getattr(import_module(f"{package}.{file_of[name]}"), name)

    return list(file_of), find


__all__, __getattr__ = lazy_names(
    __name__,
    {
        "adaptations": "Adaptation Weight Bottleneck LoRA IA3 Bias",
        "routing": "RouteSpace Router",
        "mixture": "MixtureLayer effective evaluating",
        "objective": "Consistency Objective",
        "merging": "merge fold merge_products merge_gap",
        "errors": "LabError",
    },
)
