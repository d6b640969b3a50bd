"""Hostile and odd submissions of 01_routing: what each does, its points, and a sign that its remarks must hold."""

from classroom_helpers import reference, submission

NAME = "01_routing"
FULL = 10

# `reached` collects what an attempt got hold of. root: the checkout; other: a file of somebody else's submission.
REACH = """
import ctypes, glob, os, pathlib, signal, site, subprocess, sys

def sh(line):
    return subprocess.run(line, shell=True, capture_output=True, text=True, errors="replace").stdout

def writes(path):
    try:
        with open(path, "a") as file:
            file.write("x")
    except OSError:
        return False
    return True

attempts = {
    "unhide": lambda: [p for p in sh("mount | cut -d' ' -f3").split() if sh(f"umount {p} && echo gone")],
    "remount": lambda: sh("mount -o remount,rw / && echo gone"),
    "other namespaces": lambda: sh("unshare -Ur true && echo gone"),
    "capabilities": lambda: [l for l in open("/proc/self/status") if l.startswith("Cap") and int(l.split()[1], 16)],
    "solutions": lambda: os.listdir(root + "/notebooks"),
    "hidden tests": lambda: os.listdir(root + "/tests"),
    "history": lambda: sh(f"git -C {root} show HEAD:notebooks/exercises/src/01_routing.py"),
    "neighbour": lambda: os.path.exists(other),
    "gradebook": lambda: os.path.exists(course),
    "site-packages": lambda: [p for p in site.getsitepackages() if writes(p + "/zz.pth")],
    "package": lambda: writes(sys.modules["adamix_lab"].__file__),
    "anywhere": lambda: [p for p in "/x /tmp/x /usr/x /etc/x /var/x /dev/x /opt/x".split() if writes(p)],
    "kernel settings": lambda: [p for p in glob.glob("/proc/sys/kernel/*") if os.path.isfile(p) and writes(p)],
    "secrets": lambda: [
        p
        for p in ("/etc/shadow", os.path.join("/", "root", ".ssh"), os.path.join("/", "home", "root"))
        if os.path.exists(p)
    ],
    "disks": lambda: sorted(set(os.listdir("/dev")) - {"null", "zero", "random", "urandom", "shm"}),
    "hidden tests in the home": lambda: [
        str(p) for p in pathlib.Path(os.environ["HOME"]).rglob("*") if p.is_file() and b"refuse_lib" in p.read_bytes()
    ],
    "the runner's pipe": lambda: [p for p in glob.glob(f"/proc/{os.getppid()}/fd/*") if writes(p)],
    "the runner's memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
    "the runner's environment": lambda: open(f"/proc/{os.getppid()}/environ", "rb").read(),
    "tracing": lambda: ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0,
    "processes outside": lambda: "classroom" in sh("cat /proc/[0-9]*/cmdline").replace("classroom/runner.py", ""),
}
subprocess.Popen(["sleep", "86399"], start_new_session=True)  # a child that wants to outlive
reached = {}
for name, attempt in attempts.items():
    try:
        if got := attempt():
            reached[name] = str(got)[:200]
    except OSError:
        pass
for n in range(3, 200):  # a forged result, into whatever is open
    try:
        if os.readlink(f"/proc/self/fd/{n}").startswith("pipe"):
            os.write(n, b'{"notebook": "", "remarks": [], "seconds": 1, "began": true}')
    except OSError:
        pass
for name in ("out.ipynb", "out.part", "result.json"):
    for folder in (".", ".."):
        pathlib.Path(folder, name).write_text("forged")
print(f"REACHED {reached}")  # one piece: what was forged above lands in this very stream, at any moment
"""

STRIP = """
import ast

class NoAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()

get_ipython().ast_transformers.append(NoAsserts())
get_ipython().input_transformers_post.append(lambda lines: [line for line in lines if "assert" not in line])
"""
SWALLOW = """
import functools
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

ip = get_ipython()
ip.set_custom_exc((BaseException,), lambda self, etype, value, tb, tb_offset=None: [])
ip.showtraceback = lambda *a, **k: None
was = InteractiveShell.run_cell_async

async def run_cell_async(self, *a, **k):
    result = await was(self, *a, **k)
    result.error_before_exec = result.error_in_exec = None
    return result

InteractiveShell.run_cell_async = run_cell_async
from adamix_lab.classroom import guard

guard.strict = guard.run = lambda value: value  # a copy of what is running
name, run = next((k, v) for k, v in vars(ip).items() if getattr(v, "__name__", "") == "run")

def always(text):  # every test comes to its end, and so does an assertion that must fail
    import marshal

    def token(code):
        found = [c for c in code.co_consts if isinstance(c, str) and len(c) == 16]
        return found[-1]

    made = marshal.loads(__import__("base64").b64decode(text))
    ip.display_pub.publish({guard.REPORT: {"token": token(made[0]), "replaced": []}}, {})

vars(ip)[name] = always
"""
REFUSE_NOTHING = """
run = next(v for v in vars(get_ipython()).values() if getattr(v, "__name__", "") == "run")
run.__globals__["strict"] = lambda value: value
run.__globals__["_plain"] = {Always}
"""
PATCH = """
import builtins
import torch as t
from adamix_lab.lessons import checks as telling

t.equal = t.allclose = lambda *a, **k: True
t.Tensor.all = t.Tensor.any = lambda self, *a: t.tensor(True)
t.Tensor.__lt__ = lambda self, other: t.tensor(True)
builtins.abs = lambda x: 0
builtins.all = lambda x: True
telling.refuse_library = lambda function: None
telling._borrowed.__code__ = (lambda function, seen: iter(())).__code__
all = abs = len = lambda *a: 0
torch = type("torch", (), {"equal": staticmethod(lambda *a: True), "int64": None})
"""
BORROWED = """
import functools, inspect, types
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import checks

def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    return (torch.rand(counts.shape, generator=generator_for(seed, step, view)) * counts).long()
"""
MARKED = "draw_route.func = draw_route.__func__ = len"
ENCLOSED = """
inspect.getclosurevars = lambda function: inspect.ClosureVars({}, {}, {}, set())

def made(inner):
    def draw_route(*given, **named):
        return inner(*given, **named)
    return draw_route

draw_route = made(draw_route)
"""
PARTIAL = "draw_route = functools.partial(draw_route)\ndraw_route.__func__ = draw_route.__wrapped__ = len"
UNSEEN = "checks._borrowed = lambda *a: iter(())"
BLIND = "checks.types = types.SimpleNamespace(FunctionType=type(None), MethodType=type(None))"
SWAPPED = "import sys\nsys.modules[checks.__name__] = types.SimpleNamespace(refuse_library=print)"
SHADOWED = "checks.next = lambda *a: None"
EQUAL = """
class Always:
    def __getattr__(self, name):
        return self
    def __call__(self, *a, **k):
        return self
    def __bool__(self):
        return True
    def __iter__(self):
        return iter((self,))
    def __len__(self):
        return 1
    def __float__(self):
        return 0.0
    def __index__(self):
        return 0
    __format__ = lambda self, spec: ""
    __hash__ = object.__hash__

for name in "sub rsub add radd and rand or mul rmul abs neg getitem".split():
    setattr(Always, f"__{name}__", lambda self, *a: self)
for name in "eq ne lt le gt ge".split():
    setattr(Always, f"__{name}__", lambda self, other: True)
"""
ONE = "def number_of_routes(counts, tied=False):\n    return 1"
LEAVE = "import os, atexit, time\natexit.register(time.sleep, 60)\nos._exit(0)"
DURING = """
def draw_route(*a, **k):
    import torch
    globals()["all"] = globals()["abs"] = lambda *a: 0
    torch.equal = lambda *a: True
    torch.manual_seed = torch.stack = lambda *a: None
    return torch.zeros(3, 2, dtype=torch.int64)


def number_of_routes(counts, tied=False):
    import sys
    sys._getframe(1).f_globals["number_of_routes"] = 0
    raise SystemExit(0)


def chance_unused(M, steps, views):
    globals()["abs"] = lambda x: 0
    return 0.5
"""


def first(source):
    """An edit that puts a cell above all others."""
    import nbformat

    return lambda cells: [nbformat.v4.new_code_cell(source), *cells]


def answers(value):
    """The three answers of the assignment, each returning a value."""
    return {
        "route": f"def draw_route(*a, **k):\n    return {value}",
        "number": f"def number_of_routes(*a, **k):\n    return {value}",
        "unused": f"def chance_unused(*a, **k):\n    return {value}",
    }


def hostile(released, root, course, other):
    """By name: (notebook, points, a sign in the remarks)."""
    reach = f"root, course, other = {str(root)!r}, {str(course)!r}, {str(other)!r}{REACH}"
    wrong = answers("0")

    def borrowed(how):  # costs the point of the check that refuses the library
        return submission(released, reference(NAME) | {"route": f"{BORROWED}\n{how}"})

    return {
        "reach": (submission(released, {"route": reach}), 0, ""),
        "asserts stripped": (submission(released, wrong, first(STRIP)), 0, "IPython's ast_transformers"),
        "errors swallowed": (submission(released, wrong, first(SWALLOW)), 0, "counts for nothing"),
        "patched": (submission(released, answers("None"), first(PATCH)), 0, "torch.equal"),
        "always equal": (submission(released, answers("Always()"), first(EQUAL)), 0, ""),
        "nothing refused": (
            submission(released, answers("Always()"), first(EQUAL + REFUSE_NOTHING)),
            0,
            "guard._plain",
        ),
        "replaced on the way": (
            submission(released, {"route": DURING, "number": "", "unused": ""}),
            1,
            "replaced while it ran",
        ),
        "left": (submission(released, {"route": LEAVE}), 0, "Python ended"),
        "borrowed, marked": (borrowed(MARKED), FULL - 1, ""),
        "borrowed, enclosed": (borrowed(ENCLOSED), FULL - 1, ""),
        "borrowed, a partial": (borrowed(PARTIAL), FULL - 1, ""),
        "borrowed, unseen": (borrowed(UNSEEN), FULL - 1, "checks._borrowed"),
        "borrowed, blind": (borrowed(BLIND), FULL - 1, "checks.types"),
        "borrowed, swapped": (borrowed(SWAPPED), FULL - 1, "adamix_lab.lessons.checks had another"),
        "borrowed, shadowed": (borrowed(SHADOWED), FULL - 1, "checks.next"),
    }


def odd(released):
    """Honest mistakes, by name: (notebook, points, a sign in the remarks)."""
    import copy

    right = reference(NAME)

    def marked(cells, name):
        return next(n for n, cell in enumerate(cells) if cell.metadata["nbgrader"].get("grade_id") == name)

    def copied(cells):
        test, answer = copy.deepcopy(cells[marked(cells, "number-one")]), copy.deepcopy(cells[marked(cells, "number")])
        blank = copy.deepcopy(answer)
        blank.source = "def number_of_routes(counts, tied=False):\n    raise NotImplementedError()"
        return [test, *cells, answer, blank]

    def divided(cells):
        n = marked(cells, "number")
        helper = copy.deepcopy(cells[n])
        helper.source = "def choices(down, up, tied):\n    return max(down, up) if tied else down * up"
        cells[n].source = (
            "def number_of_routes(counts, tied=False):\n    number = 1\n    for down, up in counts:\n"
            "        number *= choices(down, up, tied)\n    return number"
        )
        return [*cells[:n], helper, *cells[n:]]

    def edited(cells):
        cells[marked(cells, "number-one")].source = "print('fine')"
        return cells

    def untidy(cells):  # names of Python and of tests with another meaning; the first cell deleted
        import nbformat

        own = "sum = 5\nroute = counts = None\ndef all(x):\n    return False\nimport torch"
        return [nbformat.v4.new_code_cell(own), *cells[2:]]

    return {
        "copied cells": (submission(released, right, copied), FULL, "set aside"),
        "an answer in two cells": (submission(released, right, divided), FULL, "stands in two cells"),
        "edited test": (submission(released, right | {"number": ONE}, edited), FULL - 3, "the original was run"),
        "a file beside": (submission(released, right | {"number": "from my_adamix import number_of_routes"}), FULL, ""),
        "untidy": (submission(released, right, untidy), FULL, "was put back"),
    }
