# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 07 · Ablations
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are
# run only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import math

import numpy as np
from scipy.stats import t

# %% [markdown]
# ## 1 · A difference with its interval
#
# Two variants ran with the same seeds; `first` and `second` are their scores, seed by seed. Return the mean of first
# minus second, and the lower and upper end of its 95 % t-interval. `t.ppf(q, freedom)` is the quantile of Student's t.


# %% answer="paired" minutes=12 difficulty=2 aims="intervals that overlap mean no difference, and 1.96 always serves"
def paired_interval(first, second):
    """(mean, low, high) of first minus second, over seeds."""
    ### BEGIN SOLUTION
    gaps = np.array(first) - np.array(second)
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half
    ### END SOLUTION


# %% check="paired-constant" points=1
mean, low, high = paired_interval([61.0, 58.0, 70.0], [60.0, 57.0, 69.0])
assert abs(mean - 1) < 1e-9, "The mean of first minus second is 1 here."
assert abs(high - low) < 1e-6, "Every seed says 1: pairs have no spread here, however far the seeds lie apart."
print("Three seeds that agree leave no doubt.")

# %% check="paired-seeds" points=2
# These tests are run when your notebook is graded: five seeds that do not agree, and whose work it is.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(paired_interval)
mean, low, high = paired_interval([55.2, 61.0, 52.7, 58.4, 63.1], [54.1, 59.6, 52.9, 56.8, 61.9])
assert abs(mean - 1.02) < 1e-6, f"{mean:.3f} where 1.02 was expected: first minus second."
half = (high - low) / 2
assert abs(half - 0.8797) < 1e-3, f"± {half:.3f} where ± 0.880 was expected: pairs, four degrees of freedom, n - 1."
assert abs((high + low) / 2 - mean) < 1e-9, "The interval lies around the mean."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · What 277 rows can show
#
# Two models answer the same rows. On a share `disagree` of them exactly one is right: such a row counts +1 or -1, all
# others 0. Near a difference of 0, how large is half of the 95 % interval (normal, 1.96) of the difference of their
# accuracies? In points.


# %% answer="smallest" minutes=8 difficulty=2 aims="a point more on the validation set is a point more"
def smallest_difference(rows, disagree):
    """Half of the 95 % interval of a paired difference of accuracies near 0, in points."""
    ### BEGIN SOLUTION
    return 100 * 1.96 * math.sqrt(disagree / rows)
    ### END SOLUTION


# %% check="smallest-root" points=1
few, many = smallest_difference(277, 0.2), smallest_difference(4 * 277, 0.2)
assert abs(few - 2 * many) < 1e-6, "Four times the rows: half the interval."
assert smallest_difference(277, 0.1) < few, "Models that agree more often are easier to tell apart."
print("Rows come at a price.")

# %% check="smallest-points" points=2
# These tests are run when your notebook is graded.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(smallest_difference)
for rows, disagree, expected in ((277, 0.2, 5.267), (872, 0.1, 2.099)):
    came = smallest_difference(rows, disagree)
    assert abs(came - expected) < 0.02, f"{came:.2f} where {expected:.2f} points were expected on {rows} rows."
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · Another budget, another verdict?
#
# Each row of a table is a run: `variant` ("AdaMix" or "single"), `budget` ("steps" or "compute"), `seed`, `score`.
# AdaMix has rows at "steps" only: its own steps are what "equal compute" means, so they serve both budgets. Return who
# wins at a budget, "AdaMix" or "single", or "not decided" where the 95 % t-interval over seeds holds 0. Rows come in
# any order; take the seeds that both have.


# %% answer="budget" minutes=15 difficulty=3 aims="a verdict does not depend on what both sides were given"
def winner(rows, budget):
    """Who wins at a budget: "AdaMix", "single" or "not decided"."""
    ### BEGIN SOLUTION
    adamix = {row["seed"]: row["score"] for row in rows if row["variant"] == "AdaMix"}
    single = {row["seed"]: row["score"] for row in rows if row["variant"] == "single" and row["budget"] == budget}
    gaps = np.array([adamix[seed] - single[seed] for seed in adamix if seed in single])
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    if abs(gaps.mean()) <= half:
        return "not decided"
    return "AdaMix" if gaps.mean() > 0 else "single"
    ### END SOLUTION


# %% check="budget-steps" points=1
def runs(variant, budget, scores):
    return [{"variant": variant, "budget": budget, "seed": n, "score": s} for n, s in enumerate(scores)]


adamix = runs("AdaMix", "steps", [70.0, 74.0, 66.0, 71.0, 78.0])
table = adamix + runs("single", "steps", [68.5, 72.2, 64.6, 69.1, 76.4])
assert winner(table, "steps") == "AdaMix", "Ahead on every seed by much the same: AdaMix wins."
print("Equal steps: AdaMix.")

# %% check="budget-compute" points=3
# These tests are run when your notebook is graded: equal compute, and what is not decided.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(winner)
longer = runs("single", "compute", [72.1, 75.7, 68.2, 72.6, 80.1])
both = (table + longer)[::-1]
assert winner(both, "steps") == "AdaMix", "At equal steps only runs of that budget count."
assert winner(both, "compute") == "single", "At equal compute the single adapter is ahead on every seed."
mixed = adamix + runs("single", "compute", [72.0, 70.0, 69.0, 68.0, 79.0])
assert winner(mixed, "compute") == "not decided", "The seeds disagree: the interval holds 0."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · An opponent: smaller steps on one side
#
# An expert moves at 1/M of the steps. Give a single adapter the same without routes: of its parameters
# `named = {name: tensor}`, those whose name contains `side` train at `lr / M`, all others at `lr`. Return the groups
# that `torch.optim.AdamW` takes: a list of two dictionaries with "params" and "lr".


# %% answer="slow" minutes=8 difficulty=1 aims="a fair opponent has the same learning rate everywhere"
def slow_groups(named, side, lr, M):
    """[{"params": [...], "lr": lr / M}, {"params": [...], "lr": lr}]."""
    ### BEGIN SOLUTION
    slow = [tensor for name, tensor in named.items() if side in name]
    rest = [tensor for name, tensor in named.items() if side not in name]
    return [{"params": slow, "lr": lr / M}, {"params": rest, "lr": lr}]
    ### END SOLUTION


# %% check="slow-all" points=1
import torch

named = {f"{block}.{side}": torch.zeros(2, requires_grad=True) for block in (4, 5) for side in ("down", "up")}
named["head"] = torch.zeros(2, requires_grad=True)
groups = slow_groups(named, "down", 0.01, 4)
inside = [id(tensor) for group in groups for tensor in group["params"]]
assert sorted(inside) == sorted(id(tensor) for tensor in named.values()), "Every parameter is in exactly one group."
print("Nobody is left out.")

# %% check="slow-rate" points=2
# These tests are run when your notebook is graded: which parameters move how far in a step of Adam.
### BEGIN HIDDEN TESTS
for M in (2, 4):
    optimizer = torch.optim.AdamW(slow_groups(named, "down", 0.01, M), weight_decay=0.0)
    before = {name: tensor.detach().clone() for name, tensor in named.items()}
    for tensor in named.values():
        tensor.grad = torch.ones(2)
    optimizer.step()
    for name, tensor in named.items():
        expected = 0.01 / M if "down" in name else 0.01
        moved = float((before[name] - tensor).detach().abs().max())
        assert abs(moved - expected) < 1e-5, f"{name} moved by {moved:.4f} where {expected:.4f} was expected, M = {M}."
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · An opponent: averaged weights
#
# A run leaves its weights behind after every step, a list of dictionaries `{name: tensor}`. Return the mean of those of
# the last `share` of the steps (SWA), one dictionary. With a share of 0.75, the first quarter is left out. At least the
# last step counts.


# %% answer="average" minutes=8 difficulty=1 aims="averaging needs several models that were trained side by side"
def average_weights(steps, share):
    """{name: mean over the last steps}."""
    ### BEGIN SOLUTION
    last = steps[-max(1, round(share * len(steps))) :]
    return {name: sum(weights[name] for weights in last) / len(last) for name in last[0]}
    ### END SOLUTION


# %% check="average-still" points=1
still = [{"w": torch.full((2,), 3.0), "b": torch.ones(1)}] * 8
came = average_weights(still, 0.75)
assert set(came) == {"w", "b"} and came["w"].tolist() == [3.0, 3.0], "Weights that do not move are their own mean."
print("What stands still stays where it is.")

# %% check="average-last" points=2
# These tests are run when your notebook is graded.
### BEGIN HIDDEN TESTS
walk = [{"w": torch.tensor([float(n)])} for n in range(8)]
kept = [weights["w"].clone() for weights in walk]
for share, expected in ((0.75, 4.5), (0.25, 6.5), (1.0, 3.5), (0.01, 7.0)):
    came = float(average_weights(walk, share)["w"])
    assert abs(came - expected) < 1e-5, f"{came} where {expected} was expected of the last {share:.0%} of 0 to 7."
assert all(torch.equal(now["w"], then) for now, then in zip(walk, kept, strict=True)), "The run's own weights changed."
### END HIDDEN TESTS
