"""In the kernel of a submission: runs the course's own cells as they were written, whatever the submission did before.

`runner` compiles those cells, outside of the kernel, and sends them here. What Python, PyTorch and the library were at
the start is put back before each of them; names that a submission gave another meaning have their own for so long;
what answers return is held to plain types. It is no lock, for tests and answers share a process.
"""

from __future__ import annotations

import base64
import builtins
import functools
import importlib
import linecache
import marshal
import os
import sys
import types
from typing import Any

_builtins = dict(vars(builtins))
globals()["__builtins__"] = _builtins  # of this file alone: nobody's patches reach it

REPORT = "application/vnd.adamix-lab.report+json"
TALK = {"input", "print", "open", "display", "get_ipython", "exit", "quit", "help"}  # others replace these, rightly
WATCHED = ("torch", "torch.nn.functional", "torch.linalg", "math", "numpy")
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    type(functools.cache(len)),
)
SERIES: tuple[type, ...] = (types.GeneratorType, map, zip, filter, type({}.values()), type({}.items()), type({}.keys()))

_kept: list[tuple[Any, str, Any]] = []  # owner, name, value
_loaded: list[tuple[str, Any, set[str]]] = []  # path, module, what it names
_own: dict[str, Any] = {}  # what the course's cells have bound
_plain = frozenset({bool, int, float, complex, str, bytes, type(None), range})
_shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
_publish: Any = _shell.display_pub.publish if _shell else None
_hooks = {
    name: list(getattr(_shell, name, ()))
    for name in ("ast_transformers", "input_transformers_cleanup", "input_transformers_post")
}


def begin(modules: list[str], name: str) -> None:
    """Imports what the course's cells will, and remembers it; takes the folder's precedence away.

    `run` is the shell's from here on, by a name that nobody knows beforehand; who imports this file has another copy.
    """
    global _plain
    for module in modules:
        importlib.import_module(module)
    if torch := sys.modules.get("torch"):
        _keep(torch.Tensor)
        _plain |= {torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device}
    if numpy := sys.modules.get("numpy"):
        _plain |= {numpy.ndarray, *numpy.sctypeDict.values()} - {numpy.object_, numpy.void}
    del sys.modules[__package__].guard
    _keep(sys.modules.pop(__name__))
    _keep(builtins)
    for path, loaded in list(sys.modules.items()):
        if path in WATCHED or path.split(".")[0] == "adamix_lab":
            _keep(loaded)
            _loaded.append((path, loaded, set(vars(loaded))))
    sys.path[:] = [path for path in sys.path if path and path != os.getcwd()] + [os.getcwd()]
    vars(_shell)[name] = run


def _keep(owner: Any) -> None:
    """Remembers a module's functions, all that a module of ours names, or a class's attributes; what functions do."""
    ours = owner.__name__.split(".")[0] == "adamix_lab"
    for name in dir(owner) if isinstance(owner, type) else list(vars(owner)):  # not what is loaded when asked for
        value = getattr(owner, name, None)
        if isinstance(owner, type) or (name not in TALK and (ours or (name[0] != "_" and callable(value)))):
            if value is getattr(owner, name, None):  # else it is made anew whenever it is asked for
                _kept.append((owner, name, value))
            if isinstance(value, types.FunctionType):
                _kept.append((value, "__code__", value.__code__))


def _put_back() -> list[str]:
    """Undoes what was replaced; the names."""
    replaced = [entry for entry in _kept if getattr(entry[0], entry[1], None) is not entry[2]]
    for entry in replaced:
        setattr(*entry)
    told = [f"{owner.__name__}.{name}" for owner, name, _ in replaced]
    for path, module, names in _loaded:
        told += [path] if sys.modules.get(path) is not module else []
        sys.modules[path] = module
        for name in (vars(module).keys() & _builtins.keys()) - names:  # it would hide a builtin from the module
            told.append(f"{path}.{name}")
            delattr(module, name)
    return told


def strict(value: Any) -> Any:
    """What an answer gave, in plain types, whose operators nobody can have written. Raises AssertionError otherwise."""
    kind = type(value)
    if kind in _plain and not getattr(getattr(value, "dtype", None), "hasobject", False):
        torch = sys.modules.get("torch")  # a tensor may have been given methods of its own
        return torch.Tensor.clone(value) if torch and isinstance(value, torch.Tensor) and vars(value) else value
    if kind in FUNCTIONS:
        return value
    if kind in (list, set, frozenset):
        return kind([strict(item) for item in value])
    if kind is dict:
        return {strict(key): strict(item) for key, item in value.items()}
    if kind in SERIES or isinstance(value, tuple):  # with names for their parts, too
        return tuple([strict(item) for item in (value if kind in SERIES else tuple.__iter__(value))])
    raise AssertionError(
        f"A {kind.__name__} came: expected a plain number, text, list, tuple, dict, array or tensor, or a function."
    )


def run(text: str) -> None:
    """Runs a cell of the course, and reports how it went.

    text: marshalled code, source, file's name, names that it uses and does not bind, names that it binds.
    Raises whatever the cell raises.
    """
    __tracebackhide__ = True
    code, source, name, uses, binds = marshal.loads(base64.b64decode(text))
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    sys.settrace(None)
    hooks = [f"IPython's {name}" for name, usual in _hooks.items() if getattr(_shell, name) != usual]  # not used here
    space = _shell.user_ns
    report: dict[str, Any] = {"replaced": hooks + _put_back(), "during": [], "token": None}
    meant = {word: _own[word] for word in uses if word in _own}  # and builtins, where nothing hides them
    aside = {word: space.pop(word) for word in uses if word in space and _other(word, space, meant)}
    space.update(meant, __strict__=strict)
    try:
        exec(code, space)
        report["during"] = _put_back() + [word for word in uses if word in space and _other(word, space, meant)]
        report["token"] = space.pop("__token__")
    finally:
        _own.update({word: space[word] for word in binds if word in space})
        space.update(aside)
        report["replaced"] += aside
        _publish({REPORT: report}, {})


def _other(word: str, space: dict[str, Any], meant: dict[str, Any]) -> bool:
    return space[word] is not meant[word] if word in meant else word in _builtins
