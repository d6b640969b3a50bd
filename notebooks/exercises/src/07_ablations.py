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
from adamix_lab.lessons.checks.telling import refuse_library

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
from adamix_lab.lessons.checks.telling import refuse_library

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
from adamix_lab.lessons.checks.telling import refuse_library

refuse_library(winner)
longer = runs("single", "compute", [72.1, 75.7, 68.2, 72.6, 80.1])
both = (table + longer)[::-1]
assert winner(both, "steps") == "AdaMix", "At equal steps only runs of that budget count."
assert winner(both, "compute") == "single", "At equal compute the single adapter is ahead on every seed."
mixed = adamix + runs("single", "compute", [72.0, 70.0, 69.0, 68.0, 79.0])
assert winner(mixed, "compute") == "not decided", "The seeds disagree: the interval holds 0."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · The best of five seeds
#
# Two variants are equal: each run's score is normal with the same mean and a spread (standard deviation) `spread`. One
# group reports the best of its `n` seeds, the other the mean of its own `n`. By how many points is the first ahead, on
# average? Simulate 20,000 such tables with `np.random.default_rng(0)`.


# %% answer="best" minutes=8 difficulty=1 aims="the best of five seeds is the result"
def head_start(n, spread):
    """Mean of (best of n seeds) minus (mean of n other seeds), in points."""
    ### BEGIN SOLUTION
    tables = np.random.default_rng(0).normal(0.0, spread, (2, 20_000, n))
    return float((tables[0].max(1) - tables[1].mean(1)).mean())
    ### END SOLUTION


# %% check="best-one" points=1
assert abs(head_start(1, 2.0)) < 0.1, "One seed each: nobody has a choice, so nobody is ahead."
print("One seed gives no head start.")

# %% check="best-five" points=2
# These tests are run when your notebook is graded.
### BEGIN HIDDEN TESTS
came = head_start(5, 2.0)
assert abs(came - 2.326) < 0.1, f"{came:.2f}: the best of five lies 1.16 spreads above the mean, on average."
assert head_start(20, 2.0) > came + 1, "The best of twenty is further ahead."
### END HIDDEN TESTS
