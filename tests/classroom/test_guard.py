"""How the course's cells are compiled and run among a submission's names: quick, in this process."""

import base64
import builtins
import marshal
import sys
import types
from collections import namedtuple

import pytest

pytest.importorskip("nbclient", reason="the notebooks extra is not installed")

import numpy as np
import torch

from adamix_lab.classroom import guard
from adamix_lab.classroom.runner import course_cell


class Kernel:
    """Runs cells as a kernel does: a submission's in one space, the course's through the guard."""

    def __init__(self):
        self.space, self.bound, self.reports = {}, set(), []

    def own(self, source, token="t"):
        guard.run(course_cell(source, "<test>", self.bound, token))
        return self.reports[-1]

    def theirs(self, source):
        exec(source, self.space)


@pytest.fixture
def kernel(monkeypatch):
    made = Kernel()
    monkeypatch.setattr(guard, "_shell", types.SimpleNamespace(user_ns=made.space))
    monkeypatch.setattr(guard, "_publish", lambda data, about: made.reports.append(data[guard.REPORT]))
    for name in ("_own", "_hooks"):
        monkeypatch.setattr(guard, name, {})
    monkeypatch.setattr(guard, "_kept", [])
    monkeypatch.setattr(guard, "_plain", guard._plain | {torch.Tensor, np.ndarray, np.float64})
    return made


def test_a_cell_that_came_to_its_end_reports_its_token(kernel):
    kernel.theirs("def f(x):\n    return 2 * x")
    assert kernel.own("y = f(2)\nassert y == 4", "abc") == {"replaced": [], "during": [], "token": "abc"}
    assert kernel.space["y"] == 4 and "__token__" not in kernel.space
    with pytest.raises(AssertionError, match="no"):
        kernel.own("assert y == 5, 'no'")
    assert kernel.reports[-1]["token"] is None


def test_names_with_another_meaning_have_their_own_for_so_long(kernel):
    kernel.own("import math\n\ndef helper(x):\n    return x + 1")
    kernel.theirs("sum = len = 0\nmath = None\ndef helper(x):\n    return 0\ndef f():\n    return helper(1)")
    report = kernel.own("assert sum([1, 2]) == 3 and math.pi > 3 and helper(1) == 2")
    assert set(report["replaced"]) == {"sum", "math", "helper"} and report["token"]
    assert kernel.space["sum"] == 0 and kernel.space["math"] is None and kernel.space["f"]() == 0
    kernel.own("assert f() == 0")  # a test that does not use the name leaves a helper of one's own alone


def test_what_is_replaced_while_a_test_runs_is_reported(kernel):
    kernel.theirs("def f():\n    globals()['abs'] = lambda x: 0\n    return 1")
    assert kernel.own("assert abs(f() - 1) < 1")["during"] == ["abs"]


def test_functions_and_attributes_are_put_back(kernel, monkeypatch):
    module = types.ModuleType("m")
    exec("def check(x):\n    assert x == 1", module.__dict__)
    guard._keep(module)
    guard._keep(torch.Tensor)
    was = module.check.__code__
    module.check.__code__ = (lambda x: None).__code__
    monkeypatch.setattr(torch.Tensor, "__eq__", lambda a, b: True)
    monkeypatch.setattr(torch.Tensor, "all", lambda a: True)
    assert set(guard._put_back()) == {"check.__code__", "Tensor.__eq__", "Tensor.all"} and module.check.__code__ is was
    assert not (torch.zeros(2) == torch.ones(2)).all() and not guard._put_back()


def test_whatever_a_module_of_ours_names_is_put_back(kernel):
    module, other = types.ModuleType("adamix_lab.m"), types.ModuleType("m")
    for each in (module, other):
        exec("import math\nLIMIT = 1\n\n\ndef _inner(x):\n    return x\n", each.__dict__)
        guard._keep(each)
    module._inner = module.math = module.LIMIT = other._inner = None
    assert set(guard._put_back()) == {f"adamix_lab.m.{name}" for name in ("_inner", "math", "LIMIT")}
    assert module._inner(2) == 2 and module.math.pi > 3 and module.LIMIT == 1
    module._inner.__code__ = (lambda x: 0).__code__
    assert guard._put_back() == ["_inner.__code__"] and module._inner(2) == 2


def test_another_module_in_its_place_and_names_that_hide_builtins_go(kernel, monkeypatch):
    module = types.ModuleType("adamix_lab.m")
    exec("def first(x):\n    return next(iter(x))", module.__dict__)
    monkeypatch.setitem(sys.modules, "adamix_lab.m", types.SimpleNamespace(first=lambda x: None))
    monkeypatch.setattr(guard, "_loaded", [("adamix_lab.m", module, set(vars(module)))])
    module.next, module.own = lambda x: None, 1
    assert set(guard._put_back()) == {"adamix_lab.m", "adamix_lab.m.next"} and not guard._put_back()
    assert sys.modules["adamix_lab.m"] is module and module.first([3]) == 3 and module.own == 1


def test_patched_builtins_do_not_reach_the_guard():
    usual, value, refused = builtins.type, Always(1), False
    builtins.type = lambda *_: float
    try:
        guard.strict(value)
    except AssertionError:
        refused = True
    finally:
        builtins.type = usual
    assert refused


class Always(float):
    """A number that is equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None


class AlwaysTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_):
        return True


@pytest.mark.parametrize(
    "value",
    [
        *(Always(1), [1, Always(1)], {"a": (Always(2),)}, torch.zeros(2).as_subclass(AlwaysTensor), object(), Always),
        *(np.array([Always(1)], dtype=object), type("Int", (int,), {})(1), type("Text", (str,), {})("a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_could_be_equal_to_everything_is_refused(value):
    with pytest.raises(AssertionError, match="came: expected"):
        guard.strict(value)


def test_plain_values_pass_and_lose_what_was_put_on_them(kernel):
    pair = namedtuple("pair", "a b")
    for value in (1, 2.5, "a", None, True, [1, (2, {"a": 3})], {1, 2}, np.float64(2), range(3), len, lambda: 0):
        assert guard.strict(value) == value and type(guard.strict(value)) is type(value)
    assert guard.strict(pair(1, 2)) == (1, 2) and type(guard.strict(pair(1, 2))) is tuple
    assert guard.strict(n for n in range(3)) == (0, 1, 2) == guard.strict(map(int, "012"))
    tensor = torch.ones(2, requires_grad=True)
    assert guard.strict(tensor) is tensor
    tensor.abs = lambda: torch.zeros(2)
    guard.strict(tensor).abs().sum().backward()
    assert torch.equal(tensor.grad, torch.ones(2))


def test_answers_go_through_strict_wherever_a_test_uses_them(kernel):
    kernel.space["Always"] = Always
    kernel.theirs("value = Always(1)\ndef f(x):\n    return Always(x)")
    for source in ("assert value == 5", "assert f(1) == 5", "assert [f(x) for x in (1,)] == [5]", "assert {value: 1}"):
        with pytest.raises(AssertionError, match="came: expected"):
            kernel.own(source)
    with pytest.raises(AssertionError, match="came: expected"):
        kernel.own("def g(n):\n    return f(n)\n\nassert g(1) == 5")


def test_the_compiled_cell_is_sent_and_no_source_for_hooks_to_change():
    line = course_cell("assert 1 == 2, 'secret'", "<test>", set(), "t")
    assert "secret" not in line
    code, *_ = marshal.loads(base64.b64decode(line))
    with pytest.raises(AssertionError, match="secret"):
        exec(code, {})
