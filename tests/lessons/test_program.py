"""The student's program: the right one passes, each usual mistake is told by its cause, a broken file in words."""

import ast
import inspect
import json
import os
import re
from pathlib import Path

import close
import pytest
import torch

from adamix_lab.lessons import my_adamix, program
from adamix_lab.lessons.checks import checks_passed, passed
from adamix_lab.lessons.landscape import small_adamix
from adamix_lab.lessons.program import (
    COMPARISONS,
    STAGES,
    check_program,
    equal_to_library,
    find,
    insert,
    mine,
    progress,
)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks" / "src"
REFERENCE = Path(my_adamix.__file__).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, text=REFERENCE, *changes):
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    (folder / "my_adamix.py").write_text(text, encoding="utf-8")


def test_the_program_is_short_and_needs_pytorch_alone():
    core = REFERENCE.split("# -- what the later lessons add")[0]
    lines = [line for line in core.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 38 and max(map(len, REFERENCE.splitlines())) <= 120
    assert "adamix_lab" not in REFERENCE


def test_the_right_program_passes_and_is_used(folder, capsys):
    written(folder)
    for stage in STAGES:
        assert find(stage).own, find(stage).why
    piece = mine("step")
    check_program("Layer")
    assert "step: yours. my_adamix.py passes" in capsys.readouterr().out
    assert piece.__code__.co_filename == str(folder / "my_adamix.py")
    progress()
    assert capsys.readouterr().out.count("passed.") == len(STAGES)


OTHER = """
import torch
from torch import nn
from torch.nn.functional import gelu


class Layer(nn.Module):
    def __init__(self, d, r=16, M=4):
        super().__init__()
        self.A, self.a = nn.Parameter(0.02 * torch.randn(M, r, d)), nn.Parameter(torch.zeros(M, r))
        self.B, self.b = nn.Parameter(torch.zeros(d, r)), nn.Parameter(torch.zeros(d))
        self.expert = None

    def forward(self, y):
        A, a = (self.A.mean(0), self.a.mean(0)) if self.expert is None else (self.A[self.expert], self.a[self.expert])
        return y + gelu(y @ A.T + a) @ self.B.T + self.b


def random_route(layers, M=4):
    return [int(torch.randint(M, ())) for _ in layers]
"""


def test_the_other_way_round_and_with_biases_is_right_too_and_the_rest_is_the_library_s(folder, capsys):
    written(folder, OTHER)
    assert find("Layer").own and find("random_route").own
    mine("step")
    assert "step: the library's. my_adamix.py has no `step` yet." in capsys.readouterr().out
    assert find("step").piece.__globals__["random_route"] is not None


DRAW = "torch.randint(M, (len(layers),)).tolist()"
VIEWS = "(send(model, layers, random_route(layers), batch) for _ in range(2))"
MEAN, DOUBT = "layer.A.detach().mean(0, keepdim=True)", "return total, total - within"
ENSEMBLE_OF = "torch.stack([x + F.gelu(x @ A) @ {}.B for A in {}.A]).mean(0)"
MISTAKES = [
    ("Layer", "return x + F.gelu(x @ A) @ self.B", "return F.gelu(x @ A) @ self.B", "x is missing"),
    ("Layer", "F.gelu(x @ A)", "F.relu(x @ A)", "is a ReLU here"),
    ("Layer", "F.gelu(x @ A)", "(x @ A)", "f is missing, a GELU"),
    ("Layer", "if self.expert is None else", "if not self.expert else", "expert 0 counts as false"),
    ("Layer", "self.A.mean(0) if self.expert is None else self.A[self.expert]", "self.A.mean(0)", "`self.expert` used"),
    ("Layer", "self.A.mean(0) if self.expert is None", "self.A.sum(0) if self.expert is None", "added up"),
    ("Layer", "@ self.B  # Eq. 4", "@ (self.B / 4 if self.expert is None else self.B)", "was divided by M"),
    ("Layer", "        A = self.A", "        if self.expert is None:\n            return "
     + ENSEMBLE_OF.format("self", "self") + "\n        A = self.A", "the ensemble, and runs each"),
    ("Layer", "nn.Parameter(torch.zeros(r, d))", "nn.Parameter(torch.zeros(M, r, d))", "there is one"),
    ("Layer", "0.02 * torch.randn(M, d, r)", "torch.ones(M, d, r)", "All experts of a new layer are alike"),
    ("Layer", "self.A = nn", "self.down = nn", "no parameter of this name"),
    ("random_route", DRAW, "torch.randint(M, (16, len(layers))).tolist()", "for the whole batch"),
    ("random_route", DRAW, "[int(torch.randint(M, ()))] * len(layers)", "All layers take the same"),
    ("random_route", DRAW, "(torch.randint(M, (len(layers),)) + 1).tolist()", "Python counts from 0"),
    ("random_route", "    return torch.randint", "    torch.manual_seed(0)\n    return torch.randint",
     "one and the same route"),
    ("random_route", "torch.randint(M, (len", "torch.randint(4, (len", "use M"),
    ("step", VIEWS,
     "(torch.cat([send(model, layers, random_route(layers), row[None]) for row in batch]) for _ in range(2))",
     "a route is drawn for the whole batch"),
    ("step", "first, second = " + VIEWS,
     "route = random_route(layers)\n    first, second = (send(model, layers, route, batch) for _ in range(2))",
     "Both views took the same route"),
    ("step", "first, second = " + VIEWS,
     "first = send(model, layers, random_route(layers), batch)\n    second = first", "expected 2, but 1 came"),
    ("step", "send(model, layers, random_route(layers), batch)", "model(batch)", "A view met the merge"),
    ("step", ".detach()", "", "No target is held fixed"),
    ("step", "F.kl_div(p, q.detach()", "F.kl_div(p.detach(), q.detach()", "The first view never moves"),
    ("step", "weight * consistency(first, second)", "weight * consistency(first.detach(), second.detach())",
     "both sides are detached"),
    ("step", "p, q = first.log_softmax(-1), second.log_softmax(-1)", "p, q = second.log_softmax(-1), "
     "first.log_softmax(-1).detach()", "The first view never moves"),
    ("step", "0.5 * (to_p + to_q)", "to_p", "One direction, KL(q‖p)"),
    ("step", "0.5 * (to_p + to_q)", "0.5 * to_q", "Half of one direction, KL(p‖q)"),
    ("step", "0.5 * (to_p + to_q)", "to_p + to_q", "The ½ before the two"),
    ("step", "+ weight * consistency", "+ consistency", "`weight` is not used"),
    ("step", " + weight * consistency(first, second)", "", "The consistency is missing"),
    ("step", 'reduction="batchmean"', 'reduction="mean"', "batchmean"),
    ("step", 'reduction="batchmean"', 'reduction="sum"', "sum over rows"),
    ("step", "F.cross_entropy(first, labels)",
     "(F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) / 2", "of both views"),
    ("step", "    optimiser.zero_grad()\n", "", "zero_grad"),
    ("step", "    optimiser.step()\n", "", "Nothing changed"),
    ("step", "    return loss.item()", "    loss.item()", "Is the `return` missing"),
    ("merge_layer", MEAN, "layer.A.detach().mean(0).expand_as(layer.A)", "One expert is left"),
    ("merge_layer", "copy.deepcopy(layer)", "layer", "has changed: merge a copy"),
    ("merge_layer", "    return merged",
     "    merged.B = nn.Parameter(merged.B.detach() / len(layer.A))\n    return merged", "was divided, too"),
    ("merge_layer", "layer.A.detach().mean(0", "layer.A.detach().sum(0", "added up"),
    ("merge_layer", MEAN, "layer.A.detach()[:1]", "one of the experts"),
    ("merge_layer", "    return merged",
     "    class Mean(nn.Module):\n        def forward(self, x):\n            return "
     + ENSEMBLE_OF.format("layer", "layer") + "\n    return Mean()", "average their weights"),
    ("ensemble", ".softmax(-1) for route in routes]).mean(0)", " for route in routes]).mean(0).softmax(-1)",
     "Eq. 7 averages prob"),
    ("ensemble", "itertools.product(range(len(layers[0].A)), repeat=len(layers))", "[[n, n] for n in range(4)]",
     "16 routes"),
    ("ensemble", "    routes = itert", "    return model(batch).softmax(-1)\n    routes = itert", "That is the merge"),
    ("line", "    for layer, A in zip(layers, kept, strict=True):\n        layer.A.copy_(A)\n", "",
     "weights have changed"),
    ("line", "((1 - t) * A[first] + t * A[second])", "((1 - t) * A[second] + t * A[first])", "begins at `first`"),
    ("line", "torch.linspace(0, 1, points)", "(torch.arange(points) / points)", "The last point is missing"),
    ("line", "zip(layers, kept, strict=True):\n            layer", "zip(layers[:1], kept):\n            layer",
     "One layer moves"),
    ("doubt", DOUBT, "return within, total - within", "first average the probabilities"),
    ("doubt", DOUBT, "return total, within - total", "The sign is turned"),
    ("doubt", DOUBT, "return total / 0.6931471805599453, total - within", "natural logarithm"),
    ("doubt", DOUBT, "return total.mean(), total - within", "Keep the rows"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "before", "after", "cause"), MISTAKES)
def test_each_usual_mistake_is_told_and_the_library_s_piece_used(folder, capsys, stage, before, after, cause):
    written(folder, REFERENCE, (before, after))
    check_program(stage)
    told = capsys.readouterr().out
    assert told.startswith("Not yet. ") and cause in told, told
    mine(stage)
    assert not find(stage).own and f"{stage}: the library's. " in capsys.readouterr().out


WITHOUT = [
    ("Layer", "d, r=16, M=4", "d, r, M", "missing 2 required positional arguments: 'r' and 'M'"),
    ("Layer", "d, r=16, M=4", "d, r=16, M=2", "M of Layer(16), by default: expected 4, but 2 came"),
    ("random_route", "layers, M=4", "layers, M", "missing 1 required positional argument: 'M'"),
    ("random_route", "layers, M=4", "layers, M=3", "Shares of the 4 experts"),
    ("step", "optimiser, weight=1.0", "optimiser, weight", "missing 1 required positional argument: 'weight'"),
    ("step", "optimiser, weight=1.0", "optimiser, weight=0.0", "The consistency is missing"),
    ("line", "second, points=11", "second, points", "missing 1 required positional argument: 'points'"),
    ("line", "second, points=11", "second, points=5", "where no number of points is given"),
]


@pytest.mark.parametrize(("stage", "before", "after", "told"), WITHOUT)
def test_a_piece_without_its_defaults_is_told(folder, stage, before, after, told):
    written(folder, REFERENCE, (before, after))
    found = find(stage)
    assert not found.own and told in found.why, found.why
    assert "argument" not in told or "stops when it is called as the lessons do, with TypeError" in found.why


def given_to(stage):
    """How many arguments a piece gets in each of its check's calls."""
    piece, counts = getattr(my_adamix, stage), set()

    class Layer(my_adamix.Layer):
        def __init__(self, *given):
            counts.add(len(given))
            super().__init__(*given)

    def function(*given):
        counts.add(len(given))
        return piece(*given)

    STAGES[stage][1](Layer if stage == "Layer" else function)
    return counts


def test_every_call_that_lessons_make_of_a_piece_is_one_that_its_check_makes():
    """A starred argument is what `small_adamix` gives: a model, layers, rows, labels."""
    handed = {"layer": "Layer", "step": "step"}  # as functions of the lessons call what is handed to them
    sources = [(inspect.getsource(function), handed) for function in (small_adamix, insert)]
    sources += [(inspect.getsource(compare), {"piece": stage}) for stage, (compare, _) in COMPARISONS.items()]
    notebooks = [path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("0*.py")]
    sources += [(text, {stage: stage for stage in STAGES}) for text in notebooks if "lesson.mine(" in text]
    made = {stage: set() for stage in STAGES}
    for text, names in sources:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
                assert not node.keywords, ast.unparse(node)
                number = sum(4 if isinstance(each, ast.Starred) else 1 for each in node.args)
                made[names[node.func.id]].add(number)
    assert {stage for stage in STAGES if not made[stage]} <= {"ensemble"}, made  # which a reader calls
    for stage in STAGES:
        assert made[stage] <= given_to(stage), (stage, made[stage])


def test_a_piece_that_leaves_or_breaks_what_the_check_reads_is_told(folder):
    written(folder, REFERENCE, ("        return x + F.gelu(x @ A) @ self.B", "        raise SystemExit(1)"),
            ("def doubt(p):", "def doubt(p):\n    raise SystemExit\n\n\ndef unused(p):"))  # fmt: skip
    assert "stops at line" in find("Layer").why and "with SystemExit: 1" in find("Layer").why
    assert "with SystemExit" in find("doubt").why
    written(
        folder,
        REFERENCE,
        ("    return merged", "    merged.A = None\n    merged.forward = layer.forward\n    return merged"),
    )
    assert "`merge_layer` stops" in find("merge_layer").why and find("step").own


def test_a_piece_that_fails_is_not_used_by_those_after_it(folder):
    written(folder, REFERENCE, (DRAW, "[0] * len(layers)"))
    assert not find("random_route").own and find("step").own


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ndef step(:\n", "at line 2, which Python cannot read"),
        ("x = 1\n\ny = x / 0\n", "at line 3 with ZeroDivisionError"),
        ("import nowhere_at_all\n", "at line 1 with ModuleNotFoundError"),
        ("raise SystemExit\n", "at line 1 with SystemExit"),
        ("x = '\0'\n", "null bytes"),
        ("def step(*rest):\n    ...\n", "gave None"),
        ("def step(*rest):\n    raise NotImplementedError\n", "not written yet"),
        ("def step(model, *rest):\n    return model.nothing\n", "`step` stops at line 2 with AttributeError"),
        ("step = 3\n", "has no `step` yet"),
        ("", "has no `step` yet"),
    ],
)
def test_a_broken_file_is_told_in_words(folder, capsys, text, told):
    written(folder, text)
    piece = mine("step")
    out = capsys.readouterr().out
    assert told in out and out.startswith("step: the library's.") and out.count("\n") == 1
    assert piece is my_adamix.step


def test_no_file_and_files_that_cannot_be_read_are_told(folder, tmp_path_factory, capsys):
    assert "There is no my_adamix.py in this folder" in find("Layer").why
    (folder / "my_adamix.py").write_bytes(b"x = '\xff'")
    assert "cannot be read" in find("Layer").why and "UTF-8" in find("Layer").why
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "my_adamix.py"
    elsewhere.write_text("raise SystemExit('this must not run')", encoding="utf-8")
    (folder / "my_adamix.py").unlink()
    os.symlink(elsewhere, folder / "my_adamix.py")
    assert "is a link out of" in find("Layer").why
    with pytest.raises(ValueError, match=r"Stage 'Step' is not known.*Did you mean 'step'"):
        mine("Step")
    progress()
    assert capsys.readouterr().out.count("not yet.") == len(STAGES)


def a_notebook(folder, name, *sources):
    nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


def test_where_did_i_stop(folder, capsys):
    passed("check_a")  # no lesson lies here, so nothing is noted
    assert not list(folder.iterdir())
    a_notebook(
        folder, "01_routing", "attempt(check_a, a)", "lesson.attempt(lesson.check_b, b)\nlesson.check_program('step')"
    )
    a_notebook(folder, "02_consistency", "attempt(check_c, c)")
    (folder / "03_merging.ipynb").write_text("[", encoding="utf-8")
    for name in ("check_a", "check_c", "check_a"):
        passed(name)
    assert json.loads((folder / "my_progress.json").read_text()) == ["check_a", "check_c"]
    capsys.readouterr()
    progress()
    told = capsys.readouterr().out
    assert "01_routing: 1 of 2 checks passed, next: check_b." in told
    assert "02_consistency: 1 of 1 checks passed, all of them." in told and "03_merging" not in told
    (folder / "my_progress.json").write_text('{"a": 1}', encoding="utf-8")
    assert checks_passed() == []


def test_checks_leave_the_learners_random_numbers_alone(folder):
    written(folder)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    program._pieces.cache_clear()
    for stage in STAGES:
        assert find(stage).own
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", [None, OTHER])
@pytest.mark.parametrize("stage", ["Layer", "step", "merge_layer"])
def test_the_program_s_numbers_are_the_library_s(folder, stage, text):
    written(folder, text or REFERENCE)
    found = equal_to_library(stage)
    share = float(re.search("differ by (.+) of the largest", found)[1])
    close.assert_close(share, 0.0, close.Bound(1.0, "a share"), scale=1e-6)
    assert repr(found).startswith("Your" if find(stage).own else "The program's")


def test_what_has_no_comparison_is_refused():
    with pytest.raises(ValueError, match="Stage with a comparison 'doubt' is not known"):
        equal_to_library("doubt")
