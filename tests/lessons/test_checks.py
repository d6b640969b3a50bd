"""Each check passes a right answer, silently but for one line, and names the cause of typical wrong ones."""

import inspect
from pathlib import Path

import own_answers as exporting
import pytest
import torch
import torch.nn.functional as F

from adamix_lab.lessons import checks
from adamix_lab.lessons.checks.exercises import (
    check_agree,
    check_align,
    check_consistency,
    check_count,
    check_detectable,
    check_draw_route,
    check_gated_lora,
    check_number_of_routes,
    check_paired_interval,
    check_peft_weight,
    check_prefix_labels,
)
from adamix_lab.lessons.checks.program import STAGES

# -- right answers ----------------------------------------------------------------------------------------


def count(d, r, experts, sites, shared, biases=1):
    down, up = d * r + biases * r, d * r + biases * d
    return sites * (experts * down + (1 if shared else experts) * up), sites * (down + up)


def draw(seed, step, view):
    generator = torch.Generator().manual_seed(1_000_003 * seed + 101 * step + view)
    return torch.randint(4, (3, 2), generator=generator)


def routes(down, up, sites):
    return (down * up) ** sites


def loss(a, b):
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    one = F.kl_div(p, q.detach(), reduction="batchmean", log_target=True)
    return 0.5 * (one + F.kl_div(q, p.detach(), reduction="batchmean", log_target=True))


def align(reference, expert):
    from scipy.optimize import linear_sum_assignment

    def units(e):
        return torch.cat([e["down"], e["down_bias"][:, None], e["up"].T], 1)

    order = linear_sum_assignment((units(reference) @ units(expert).T).numpy(), maximize=True)[1].tolist()
    return {**expert, "down": expert["down"][order], "down_bias": expert["down_bias"][order],
            "up": expert["up"][:, order]}  # fmt: skip


def agree(routes, merged):
    return (routes.argmax(-1) == merged.argmax(-1)[:, None]).float().mean(1)


def paired_interval(first, second):
    from scipy.stats import t

    gaps = torch.tensor(first).double() - torch.tensor(second).double()
    half = t.ppf(0.975, len(gaps) - 1) * float(gaps.std()) / len(gaps) ** 0.5
    return float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half


RIGHT = [
    (check_count, (count,)),
    (check_draw_route, (draw,)),
    (check_number_of_routes, (routes,)),
    (check_consistency, (loss,)),
    (check_align, (align,)),
    (check_agree, (agree,)),
    (check_gated_lora, (exporting.GatedLoRA,)),
    (check_peft_weight, (exporting.weight,)),
    (check_paired_interval, (paired_interval,)),
    (check_detectable, (lambda rows, disagree: 196 * (disagree / rows) ** 0.5,)),
]


@pytest.mark.parametrize(("check", "given"), RIGHT, ids=lambda v: getattr(v, "__name__", ""))
def test_a_right_answer_passes_with_one_line_and_leaves_the_random_state(check, given, capsys):
    before = torch.random.get_rng_state()
    assert check(*given) is None
    out = capsys.readouterr()
    assert out.out.count("\n") == 1 and "right" in out.out and not out.err
    assert torch.equal(before, torch.random.get_rng_state())


# -- wrong ones, by their name ----------------------------------------------------------------------------


def undone_twice(reference, expert):
    from scipy.optimize import linear_sum_assignment

    likeness = reference["down"] @ expert["down"].T
    order = linear_sum_assignment(likeness.T.numpy(), maximize=True)[1].tolist()  # the wrong way round
    return {**expert, "down": expert["down"][order], "down_bias": expert["down_bias"][order],
            "up": expert["up"][:, order]}  # fmt: skip


def draw_tied(seed, step, view):
    return draw(seed, step, view)[:, :1].repeat(1, 2)


WRONG = {
    "routes counted": (check_agree, lambda r, m: agree(r, m) * r.shape[1], "divide by the number of routes"),
    "routes that disagree": (check_agree, lambda r, m: 1 - agree(r, m), "share of routes that disagree"),
    "the ensemble agrees": (check_agree, lambda r, m: agree(r.softmax(-1).mean(1, keepdim=True), m),
                            "whether the ensemble agrees: compare each"),
    "most routes agree": (check_agree, lambda r, m: agree(F.one_hot(r.argmax(-1), r.shape[-1]).sum(1)[:, None], m),
                          "whether most routes agree"),
    "with the first route": (check_agree, lambda r, m: agree(r, r[:, 0]), "compare them with the merge"),
    "no rows left": (check_agree, lambda r, m: agree(r, m).mean(), "Which axis is averaged"),
    "no biases": (check_count, lambda *a: count(*a, biases=0), "biases are missing"),
    "shared ignored": (check_count, lambda d, r, m, n, s: count(d, r, m, n, False), "exists once a site"),
    "merged keeps all": (check_count, lambda d, r, m, n, s: (count(d, r, m, n, s)[0], count(d, r, m, n, False)[0]),
                         "one module a site is left"),
    "one site": (check_count, lambda d, r, m, n, s: count(d, r, m, 1, s), "multiply by the number of sites"),
    "global generator": (check_draw_route, lambda *a: torch.randint(4, (3, 2)), "global generator"),
    "no step": (check_draw_route, lambda seed, step, view: draw(seed, 0, view), "depend on the step"),
    "no view": (check_draw_route, lambda seed, step, view: draw(seed, step, 0), "depend on the view"),
    "sides share": (check_draw_route, draw_tied, "each site, each side"),
    "never the last": (check_draw_route, lambda *a: draw(*a) % 3, "last expert left out"),
    "counts from one": (check_draw_route, lambda *a: draw(*a) + 1, "count from 0"),
    "number of experts": (check_number_of_routes, lambda d, u, n: max(d, u), "number of experts"),
    "sum over sites": (check_number_of_routes, lambda d, u, n: d * u * n, "multiply over sites"),
    "one side": (check_number_of_routes, lambda d, u, n: d**n, "Both sides choose"),
    "sum of sides": (check_number_of_routes, lambda d, u, n: (d + u) ** n, "sides multiply"),
    "both directions": (check_consistency, lambda a, b: 2 * loss(a, b), "takes half"),
    "one direction": (check_consistency, lambda a, b: F.kl_div(b.log_softmax(-1), a.softmax(-1), reduction="batchmean"),
                      r"KL\(p \|\| q\) alone"),
    "sum over rows": (check_consistency, lambda a, b: len(a) * loss(a, b), "mean over rows"),
    "over the batch": (check_consistency, lambda a, b: loss(a.T, b.T), "softmax ran over the batch"),
    "logits": (check_consistency, F.mse_loss, "squared distance of the logits"),
    "all classes": (check_consistency, lambda a, b: loss(a, b) / a.shape[1], "divide by the rows only"),
    "nothing moved": (check_align, lambda r, e: e, "Nothing was moved"),
    "inverse": (check_align, undone_twice, "inverse|Compare each unit"),
    "bias left": (check_align, lambda r, e: {**align(r, e), "down_bias": e["down_bias"]}, "move all three"),
    "reference given back": (check_align, lambda r, e: {**r, "down": r["down"] + 1}, "the same as before"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_told_its_cause(name):
    check, answer, cause = WRONG[name]
    with pytest.raises(AssertionError, match=cause):
        check(answer)


@pytest.mark.parametrize("check", [check_count, check_draw_route, check_consistency, check_align])
def test_blanks_errors_and_things_that_are_no_function_are_told(check):
    def blank(*_):
        raise NotImplementedError

    def broken(*_):
        raise KeyError("oops")

    def leaves(*_):
        raise SystemExit(3)

    for given, told in ((blank, "not written yet"), (broken, "stopped with KeyError"), (lambda *_: None, "return"),
                        (leaves, "stopped with SystemExit"), (3, "Expected a function")):  # fmt: skip
        with pytest.raises(AssertionError, match=told):
            check(given)


ODD = {
    "text": "a route",
    "a dict": {"a": [1, 2]},
    "None inside": (None, 1),
    "ragged": [[1, 2], [3]],
    "complex": torch.zeros(3, 2, dtype=torch.complex64),
    "too large": [[2**70, 1]],
    "an object": object(),
    "tensors in a list": [torch.zeros(2), torch.zeros(3)],
    "a dict of lists": {"down": [[1.0]], "down_bias": [1.0], "up": [[1.0]], "up_bias": [1.0]},
    "a dict of texts": {"down": "a", 3: None},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "check", [check for check, _ in RIGHT if check is not check_gated_lora] + [check_prefix_labels]
)
def test_answers_of_another_kind_are_told_in_words(check, odd):
    with pytest.raises(AssertionError, match="expected"):
        check(lambda *_: ODD[odd])


def test_a_gated_lora_that_answers_with_another_kind_is_told():
    class Lists(exporting.GatedLoRA):
        def apply(self, *given):
            return super().apply(*given).tolist()

    with pytest.raises(AssertionError, match="The output at the start: expected"):
        check_gated_lora(Lists)


@pytest.mark.parametrize("kind", [lambda w: w.tolist(), lambda w: w.numpy(), lambda w: w.double()])
def test_an_aligned_expert_may_hold_lists_and_arrays(kind):
    check_align(lambda reference, expert: {name: kind(w) for name, w in align(reference, expert).items()})


def test_every_check_is_tested_here_or_beside_its_lesson():
    import importlib
    import pkgutil

    found = set()
    for part in pkgutil.iter_modules(checks.__path__):
        module = importlib.import_module(f"{checks.__name__}.{part.name}")
        found |= {name for name, _ in inspect.getmembers(module, inspect.isfunction) if name.startswith("check_")}
    here = {check.__name__ for check, _ in RIGHT}
    lessons = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_lesson_0*.py"))
    beside = {name for name in found - here if f"{name}(" in lessons or f"({name}," in lessons}
    pieces = {check.__name__ for _, check in STAGES.values()}  # each with its usual mistakes in test_program.py
    assert found == here | beside | pieces
