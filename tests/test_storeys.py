"""The storeys of the package: imports go one way, down; those inside functions and for type checkers count, too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "adamix_lab"
RANK = {
    "core": 0, "models": 1, "fast": 2, "tasks": 2, "training": 3, "baselines": 4, "interop": 4, "analysis": 4,
    "generation": 5, "experiments": 5, "classroom": 5, "lessons": 6, "cli": 6,
}  # fmt: skip
TOP = 9  # the package's own `__init__`, which stands over all storeys


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, as `package.module`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if names == ["adamix_lab"] else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix("adamix_lab.") for name in names if name.startswith("adamix_lab.")}
    return found


def files() -> dict[str, Path]:
    """Every file of a storey by its dotted name."""
    paths = sorted(path for package in RANK for path in (PACKAGE / package).rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def test_every_package_has_its_storey():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == RANK.keys()


@pytest.mark.parametrize("package", RANK)
def test_imports_go_down(package):
    wrong = [
        f"{name} imports {other}"
        for name, path in files().items()
        if name.split(".")[0] == package
        for other in imported(path)
        if other.split(".")[0] != package and RANK.get(other.split(".")[0], TOP) >= RANK[package]
    ]
    assert not wrong


def test_the_core_has_no_circles():
    graph = {name: imported(path) for name, path in files().items() if name.startswith("core.")}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        for other in graph.get(name, set()) if name not in done else ():
            visit(other, (*above, name))
        done.add(name)

    for name in graph:
        visit(name, ())
