"""Whether the tests notice that the core is wrong: small changes to its source, one at a time, under the quick tests.

The operators, which were listed before the first run:

- a comparison's boundary: < and <=, > and >=, == and !=, each for the other
- arithmetic: + and -, * and /, each for the other
- a number, one larger; True and False, each for the other
- a condition (of an if, a while, a comprehension, an if-else), negated; and and or, each for the other
- an if-else, its first operand alone
- a statement dropped: a call whose value nobody takes, an augmented assignment
- a keyword argument dropped

Nothing is changed inside docstrings, type annotations and what is raised. Which mutants are tried is a function of the
seed and of each mutant's own text, so that a change elsewhere leaves the sample as it is. A mutant is killed where one
of the tests that reach its lines fails, or takes more than `LIMIT` seconds; of those tests `BUDGET` seconds
run, the module's own first, then the shortest.

`python tests/mutation.py --seed 0 --sample 100` from the checkout: two processes, some minutes.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import itertools
import json
import os
import pickle
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BROKEN = 9  # the exit code of a process of ours that failed by itself, which kills no mutant
LIMIT, BUDGET = 60, 25  # seconds of a processor for one mutant; seconds of tests, as measured without a change

# What is changed: whole files, and elsewhere the functions in which wrong answers once went unnoticed.
_CORE = "adaptations files merging mixture objective routing sites views"
FILES: dict[str, tuple[str, ...]] = {f"adamix_lab/core/{name}.py": () for name in _CORE.split()} | {
    "adamix_lab/analysis/calibration.py": ("confidences", "ece", "adaptive_ece", "brier", "_equal_width", "_gap"),
    "adamix_lab/analysis/statistics.py": ("verdict_of",),
    "adamix_lab/models/saving.py": ("frozen_weights", "fingerprint"),
}
_MODELS = "check model saving training_mode"
TESTS = [path for path in sorted((ROOT / "tests/core").glob("test_*.py")) if path.stem not in ("test_mutation",)]
TESTS += [ROOT / f"tests/models/test_{name}.py" for name in _MODELS.split()]
TESTS += [ROOT / f"tests/{name}.py" for name in ("fast/test_views", "interop/test_export", "interop/test_peft")]
TESTS += [ROOT / f"tests/analysis/test_{name}.py" for name in ("calibration", "statistics")]

# Mutants that no test had killed before this script was written: always tried, beside the sample.
ONCE_ALIVE = [
    ("adamix_lab/analysis/calibration.py", ".argsort(stable=True).argsort()", ".argsort(stable=True)"),
    ("adamix_lab/core/merging.py", "float(gap / size)", "float(gap)"),
    ("adamix_lab/core/merging.py", "- 1) > 1e-4", "- 1) > 1e-1"),
    ("adamix_lab/analysis/statistics.py", "high <= smallest", "high < smallest"),
    ("adamix_lab/models/saving.py", "// 64)][:64]", "// 64)][:1]"),
]

# Mutants that change no answer, by name, and why.
EQUIVALENT: dict[str, str] = {
    "calibration._gap: 1 -> 2": "one more bin, which is empty",
    "views.by_row: 0 -> 1": "without a tensor there is nothing that has rows, however many are asked for",
    "mixture.MixtureLayer: property(lambda self: sizes(self.base)[0], doc='Width of the input.') -> "
    "property(lambda self: sizes(self.base)[0])": "a docstring",
    "merging._weights_at: True -> False": "`selections` gives one for each site; strict=True only says so",
    "calibration.adaptive_ece: confidence.argsort(stable=True) -> confidence.argsort()": "torch's sort is stable "
    "on the CPU, where answers are judged, whether it is asked to be or not",
    "calibration.adaptive_ece: True -> False": "as above",
    'mixture.MixtureLayer: property(lambda self: self.base.weight, doc="The frozen layer\'s weight.") -> '
    "property(lambda self: self.base.weight)": "a docstring",
    "mixture.MixtureLayer: property(lambda self: getattr(self.base, 'bias', None), "
    'doc="The frozen layer\'s bias, or None.") -> '
    "property(lambda self: getattr(self.base, 'bias', None))": "a docstring",
    "mixture.MixtureLayer: property(lambda self: sizes(self.base)[1], doc='Width of the output.') -> "
    "property(lambda self: sizes(self.base)[1])": "a docstring",
    "mixture.MixtureLayer.extra_repr: zip(self.adaptation.sides, self.counts(), strict=True) -> "
    "zip(self.adaptation.sides, self.counts())": "`counts` gives one for each side; strict=True only says so",
    "mixture.MixtureLayer.extra_repr: True -> False": "as above",
    "merging._weights_at: zip(mixture.sites.items(), mixture.selections(point), strict=True) -> "
    "zip(mixture.sites.items(), mixture.selections(point))": "`selections` gives one for each site",
    "views.one_view: zip(route, rows, strict=True) -> zip(route, rows)": "there is a row for each route",
    "views.one_view: True -> False": "as above",
    "objective.Objective.losses: nothing + torch.nan -> nothing - torch.nan": "NaN either way",
    "objective.cross_entropy: F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, "
    "label_smoothing=smoothing) -> "
    "F.cross_entropy(flat, labels.flatten(), label_smoothing=smoothing)": "torch's own default is the same number",
    "sites._in_blocks: 0 -> 1": "the largest of it and a block's number plus one",
    "sites.new_head: torch.random.fork_rng(devices=[]) -> torch.random.fork_rng()": "GPUs' generators are put "
    "back, too, which nothing has used",
    "files: TypeVar('F', bound=Callable[..., Any]) -> TypeVar('F')": "for type checkers alone",
    "merging: TypeVar('M', bound=Mixture) -> TypeVar('M')": "for type checkers alone",
    "sites: Path(__file__).with_name('architectures.yaml').read_text(encoding='utf-8') -> "
    "Path(__file__).with_name('architectures.yaml').read_text()": "the table is ASCII, read alike in "
    "every encoding that extends it",
}

_SWAPS: dict[type, type] = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Add: ast.Sub, ast.Mult: ast.Div}
_SWAPS |= {ast.And: ast.Or} | {after: before for before, after in _SWAPS.items()} | {ast.Or: ast.And}


@dataclass(frozen=True)
class Mutant:
    """A file's changed tree, and the lines whose tests may notice; none where they run at import."""

    name: str
    file: str
    tree: Callable[[], Any]
    lines: range | None


def variants(node: ast.AST, field: str) -> Iterator[ast.AST]:
    """What the operators make of a node that stands in a parent's field."""

    def changed(**fields: Any) -> ast.AST:
        twin = copy.copy(node)
        for name, value in fields.items():
            setattr(twin, name, value)
        return twin

    if isinstance(node, ast.Compare):
        for n, operator in enumerate(node.ops):
            if new := _SWAPS.get(type(operator)):
                yield changed(ops=[*node.ops[:n], new(), *node.ops[n + 1 :]])
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and (new := _SWAPS.get(type(node.op))):
        yield changed(op=new())
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield changed(value=not node.value if isinstance(node.value, bool) else node.value + 1)
    if field in ("test", "ifs"):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)
    if isinstance(node, ast.IfExp):
        yield node.body
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)):
        yield ast.copy_location(ast.Pass(), node)
    if isinstance(node, ast.Call):
        for n, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield changed(keywords=[*node.keywords[:n], *node.keywords[n + 1 :]])


def mutants(file: str, functions: tuple[str, ...]) -> Iterator[Mutant]:
    """All mutants of a file, or of some of its functions, in the source's order."""
    tree, seen = ast.parse((ROOT / file).read_text()), Counter[str]()

    def within(node: ast.AST, place: str, lines: range | None, called: bool) -> Iterator[Mutant]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns") or isinstance(node, ast.Raise):
                continue
            now = called or (field == "body" and isinstance(node, ast.FunctionDef | ast.Lambda))
            for n, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST):
                    continue
                if isinstance(node, ast.Module) and functions and getattr(child, "name", "") not in functions:
                    continue
                here = f"{place}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else place
                at = lines
                if isinstance(child, ast.stmt):
                    inner = getattr(child, "body", None)
                    at = range(child.lineno, inner[0].lineno if inner else (child.end_lineno or child.lineno) + 1)
                for new in variants(child, field):
                    name = f"{here}: {ast.unparse(child)} -> {ast.unparse(new)}"
                    seen[name] += 1
                    name += f" #{seen[name]}" if seen[name] > 1 else ""
                    yield Mutant(name, file, _replaced(tree, node, field, n, new), at if now else None)
                yield from within(child, here, at, now)

    yield from within(tree, Path(file).stem, None, False)


def _replaced(tree: ast.AST, parent: ast.AST, field: str, n: int, new: ast.AST) -> Callable[[], Any]:
    def make() -> Any:  # in a process that ends with this mutant
        value = getattr(parent, field)
        if isinstance(value, list):
            value[n] = new
        else:
            setattr(parent, field, new)
        return tree

    return make


class Reached:
    """A pytest plugin: the lines that each test reaches (what fixtures reach counts for a whole file), and its time."""

    def __init__(self) -> None:
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.watched = {str(ROOT / file): file for file in FILES}
        self.now = ""

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        if (file := self.watched.get(frame.f_code.co_filename)) is None:
            return None
        self.lines[self.now].add((file, frame.f_lineno))
        return self.trace

    def pytest_runtest_setup(self, item: Any) -> None:
        self.now = item.nodeid.split("::")[0]

    def pytest_runtest_call(self, item: Any) -> None:
        self.now = item.nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration
        elif report.failed:
            print(f"\nfails without any change, and is left out: {report.nodeid}")


class Chosen:
    """A pytest plugin: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {test: n for n, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])


def pytest_run(files: list[str], plugin: Any, *more: str) -> int:
    import pytest

    options = [*more, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not browser and not matrix"]
    return int(pytest.main([*files, *options, f"--timeout={LIMIT}"], plugins=[plugin]))


def measure(files: list[str]) -> tuple[dict[str, set[tuple[str, int]]], dict[str, float], list[str]]:
    """The tests as they are: what each reaches, its seconds, and what had been imported in the end."""
    plugin = Reached()
    threading.settrace(plugin.trace)
    sys.settrace(plugin.trace)
    pytest_run(files, plugin, "--tb=no")
    sys.settrace(None)
    return dict(plugin.lines), plugin.seconds, sorted(sys.modules)


def survives(mutant: Mutant, tests: list[str]) -> bool:
    """Whether all tests pass with the changed file in the place of its module."""
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    code = compile(ast.fix_missing_locations(mutant.tree()), str(ROOT / mutant.file), "exec")
    module, plain = mutant.file.removesuffix(".py").replace("/", "."), SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: code if name == module else plain(self, name)  # type: ignore
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    return not tests or pytest_run(files, Chosen(tests), "-x") in (0, 5)  # 5: none was found


def forked(jobs: list[Callable[[], Any]]) -> Iterator[tuple[int, Any]]:
    """(the job's number, its answer) as they end, two at once, in a process each; None from one that was ended."""
    running: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in range(len(jobs) + 1):
            if n < len(jobs):
                sys.stdout.flush()
                if not (pid := os.fork()):
                    try:
                        Path(folder, str(n)).write_bytes(pickle.dumps(jobs[n]()))
                        os._exit(0)
                    finally:
                        os._exit(BROKEN)
                running[pid] = n
            while running and (len(running) == 2 or n == len(jobs)):
                pid, status = os.wait()
                if os.waitstatus_to_exitcode(status) == BROKEN:
                    raise SystemExit(f"Job {running[pid]} could not be done.")
                answer = Path(folder, str(number := running.pop(pid)))
                yield number, pickle.loads(answer.read_bytes()) if answer.is_file() else None


def main(seed: int, sample: int) -> None:
    """Tries the mutants that were once alive and a sample; prints those that survive, and the counts."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.chdir(ROOT)
    importlib.import_module("conftest")  # before torch: no network, threads that wait passively
    from hypothesis import Phase, settings

    settings.register_profile("mutation", settings.get_profile("lab"), phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutation")  # a failure is enough, nobody asks for the smallest
    for name in ("numpy", "torch", "transformers", "pytest"):
        importlib.import_module(name)

    files = [str(path.relative_to(ROOT)) for path in TESTS]
    reached: dict[str, set[tuple[str, int]]] = {}
    seconds: dict[str, float] = {}
    modules: set[str] = set()
    start = time.monotonic()
    for _, (lines, took, imported) in forked([lambda n=n: measure(files[n::2]) for n in (0, 1)]):  # type: ignore
        reached, seconds, modules = reached | lines, seconds | took, modules | set(imported)
    ours = {"adamix_lab", "__main__", "conftest", *(path.stem for path in ROOT.glob("tests/**/*.py"))}
    for name in sorted(name for name in modules if name.split(".")[0] not in ours):
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    print(f"{len(seconds)} tests, {sum(seconds.values()):.0f} s; {time.monotonic() - start:.0f} s", flush=True)

    texts = {file: (ROOT / file).read_text() for file in files}

    def tests_of(mutant: Mutant) -> list[str]:
        module = mutant.file.removesuffix(".py").replace("/", ".")

        def reaches(test: str) -> bool:
            if mutant.lines is None and module in texts[test.split("::")[0]]:  # a constant is read without a line
                return True
            spots = reached.get(test, set()) | reached.get(test.split("::")[0], set())
            return any(f == mutant.file and (mutant.lines is None or line in mutant.lines) for f, line in spots)

        mirror = f"/test_{Path(mutant.file).stem.removesuffix('s')}"  # a module's own tests come first
        ordered = sorted(filter(reaches, seconds), key=lambda test: (mirror not in test, seconds[test]))
        spent = itertools.accumulate(seconds[test] for test in ordered)
        return [test for test, until in zip(ordered, spent, strict=True) if until <= BUDGET]

    everything = [mutant for file, functions in FILES.items() for mutant in mutants(file, functions)]
    everything.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())
    tried = [_by_text(*change) for change in ONCE_ALIVE] + everything[:sample]
    print(f"{len(everything)} mutants, {len(tried)} tried", flush=True)
    survivors: dict[str, list[str]] = {"once alive": [], "equivalent": [], "survived": []}
    for n, alive in forked([lambda m=mutant: survives(m, tests_of(m)) for mutant in tried]):  # type: ignore[misc]
        if alive:
            name = tried[n].name
            kind = "once alive" if n < len(ONCE_ALIVE) else "equivalent" if name in EQUIVALENT else "survived"
            survivors[kind].append(name)
            print(f"{kind}: {name}", flush=True)
    counts = {kind: len(names) for kind, names in survivors.items()}
    counts["killed"] = sample - counts["survived"] - counts["equivalent"]
    print(f"{time.monotonic() - start:.0f} s\n{json.dumps(counts)}")


def _by_text(file: str, before: str, after: str) -> Mutant:
    source = (ROOT / file).read_text()
    if source.count(before) != 1:
        raise SystemExit(f"{file} has {before!r} {source.count(before)} times: expected once.")
    line = source[: source.index(before)].count("\n") + 1
    changed = source.replace(before, after)
    return Mutant(f"{Path(file).stem}: {before} -> {after}", file, lambda: ast.parse(changed), range(line, line + 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=100)
    main(**vars(parser.parse_args()))
