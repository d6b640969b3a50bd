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
# # 07 · Ablations: which difference is one?
#
# An ablation takes one part away and trains again. What may be concluded from its table? Afterwards you will be able to
#
# 1. give a difference between two variants with an interval, paired by seed, and say what many comparisons cost;
# 2. say how often a few seeds name the wrong winner, and what rows alone can show;
# 3. spot the two tricks that turn verdicts: unequal budgets, and the best of several seeds.
#
# *Fifty minutes in class; seconds of computing on two CPU cores: the runs are stored. No network, no GPU.*

# %%
import math
import os
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t

from adamix_lab.lessons.checks.beyond import check_detectable, check_paired_interval
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.analysis.statistics import holm, t_interval
from adamix_lab.lessons.ablations import ablation_dashboard, draw_winners, in_points, winners_table
from adamix_lab.lessons.comparisons import (
    MAKERS, compare, detectable, is_run, is_there, league_table, open_results, own_scores, right_rows, shipped,
)  # fmt: skip
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"
TABLES = 300 if FAST else 3_000
pd.set_option("display.max_colwidth", 100)
dashboard = ablation_dashboard()
dashboard

# %% [markdown]
# Each line is AdaMix minus a variant, in points: *single* is one adapter of the same size, the others are AdaMix with
# one part taken away. Small strokes are seeds. Type a folder of your own, one task, or another variant to compare
# with ("AdaMix, merged" compares its ways of answering). "Save PDF and CSV" writes what is on screen. "core" is a grid
# of real tasks (RTE, MRPC, SST-2); "budget" is the project's own task at two budgets.

# %%
dashboard.picture

# %%
for name, command in MAKERS.items():
    print(f"{name}: " + ("there" if is_there(name) else f"not there yet; made by {command}"))
scores = open_results(shipped())
task = scores.tasks()[0]
print("looked at here:", shipped(), "with the tasks", ", ".join(scores.tasks()))
league_table(scores, task, seed=0)

# %% [markdown]
# That is one seed's league table. It has a first place, as every league table has. Nothing in it says whether another
# seed would print the same order.
#
# ## Paired by seed
#
# Runs of one seed share the batches' order and the head's start. So take the difference seed by seed, then ask about
# its mean. The smallest code:

# %%
adamix, single = (np.array(list(own_scores(scores, task, variant).values())) for variant in ("AdaMix", "single"))
gaps = adamix - single
student = t.ppf(0.975, len(gaps) - 1)  # few seeds: not 1.96
paired = student * gaps.std(ddof=1) / math.sqrt(len(gaps))
apart = student * math.sqrt((adamix.var(ddof=1) + single.var(ddof=1)) / len(gaps))
print("differences by seed:", gaps.round(1))
print(f"paired:   {gaps.mean():+.2f} ± {paired:.2f} points")
print(f"unpaired: {gaps.mean():+.2f} ± {apart:.2f} points (at the same t)")
print("the library's:", t_interval(gaps))

# %% [markdown]
# Pairing pays where a seed is lucky for both variants. Where it is not, little is lost. It is decided before looking.
#
# If the interval holds 0, these runs do not say who wins. That is not "both are equal": it is a null result, and the
# interval says how large a difference it leaves possible.
#
# ## How many seeds name the right winner?
#
# Let all seeds together name the winner. Draw one seed of them, then two, with replacement, and look how often their
# mean names the other one.

# %%
prediction = Prediction(f"Chance that one seed names another winner than all seeds: AdaMix or single on {task}")
prediction

# %% jupyter={"outputs_hidden": true}
draw_winners(scores, task, seed=0, predicted=prediction.value)

# %% [markdown]
# On the left it looks decided. On the right, a dashed line means that all seeds together name no winner: there is
# nothing to be right about. Why with replacement? Five of five without it are always "right".
#
# The number to reach: the fewest seeds that are wrong in under 5 % of draws, for one comparison. "Not with these
# runs" is an answer, and often the honest one.

# %%
compared = compare(scores)
winners_table(compared)

# %% [markdown]
# ## Many comparisons
#
# The table makes several comparisons at once. If no variant differed at all, each would still have a chance of 1 in 20
# to look like an effect. How likely is one at least? Holm's correction multiplies the smallest p by the number of
# comparisons, the next by one less, and so on.

# %%
number = len(compared)
equals = np.random.default_rng(0).normal(size=(TABLES, number, 5))  # nothing differs, and all are independent
ps = [[t_interval(seeds).p for seeds in table] for table in equals]
print(f"{number} comparisons of equals: some p < 0.05 in {100 * np.mean([min(p) < 0.05 for p in ps]):.0f} %, "
      f"after Holm in {100 * np.mean([min(holm(p)) < 0.05 for p in ps]):.0f} % of {TABLES} made-up tables")  # fmt: skip
shown = {
    f"{c.task}: {c.label}": {"p": round(c.estimate.p, 3), "Holm": round(c.adjusted, 3), "verdict": c.verdict}
    for c in compared
}
pd.DataFrame(shown).T

# %% [markdown]
# ## Break it: the best of five seeds
#
# Report each variant's mean, but give one its best seed ("our best run"). Even AdaMix then beats AdaMix.

# %%
for task_name in scores.tasks():
    own = np.array(list(own_scores(scores, task_name, "AdaMix").values()))
    print(f"{task_name}: best of {len(own)} seeds of AdaMix minus their mean: {own.max() - own.mean():+.1f} points")
turned = sum(np.sign(np.mean(list(c.by_seed.values()))) != np.sign(max(c.by_seed.values())) for c in compared)
print(f"AdaMix's luckiest seed, taken for the result, turns the sign of {turned} of {number} comparisons")

# %% [markdown]
# ## Equal steps, equal compute
#
# AdaMix's step has two views. A fair budget could be *steps*, or *operations*: then the single adapter may train for
# longer. The rule is chosen before looking, and named. Does the verdict stay?

# %%
if is_run("budget", "aspects", "single", "compute"):
    budget = open_results("budget")
    at_steps, at_compute = (c for c in compare(budget) if c.other == "single")
    took = budget.results.table.groupby(["variant", "compute"])["steps"].first()
    for c in (at_steps, at_compute):
        print(f"equal {c.budget}: AdaMix {took['AdaMix', 'steps']} steps, single {took['single', c.budget]}; AdaMix "
              f"minus single {in_points(c)}: {c.verdict}")  # fmt: skip
    moved = at_compute.estimate.mean - at_steps.estimate.mean
    print(
        f"{'the same verdict' if at_steps.verdict == at_compute.verdict else 'another verdict'}, moved by {moved:+.1f}"
    )
else:
    print(f"Runs at equal compute are not there yet; they are made by {MAKERS['budget']}")

# %% [markdown]
# ## How small a difference can the rows show?
#
# Seeds are one source of chance, rows another. RTE's validation set has 277. Only rows that exactly one of two models
# answers rightly count; the more they disagree, the coarser the measure.

# %%
for c in [c for c in compared if c.budget == "steps" and 0 in c.by_seed]:
    first, second = (right_rows(scores, c.task, variant, 0) for variant in ("AdaMix", c.other))
    disagree = float((first != second).mean())
    told = detectable(len(first), disagree)
    print(f"{c.task}, {len(first)} rows: {c.reference} and {c.other} disagree on {100 * disagree:.0f} % of them; four "
          f"tests of five tell {told:.1f} points from 0")  # fmt: skip
print(f"277 rows, 20 % of disagreement: {detectable(277, 0.2):.1f} points")

# %% [markdown]
# Compare this with differences that papers report on such tasks. The lesson's effect table pairs by row and by seed;
# its intervals are over seeds:

# %%
effects_table("07")

# %% [markdown]
# ## Exercise: an interval that is one (ten minutes)
#
# `interval(first, second)`: mean of first minus second and its 95 % t-interval, for scores of the same seeds.
# `smallest(rows, disagree)`: half of the 95 % interval over rows, in points, of a difference near 0. Both make a
# common mistake.


# %%
def interval(first, second):
    first, second = np.array(first), np.array(second)
    half = 1.96 * math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
    return first.mean() - second.mean(), first.mean() - second.mean() - half, first.mean() - second.mean() + half


def smallest(rows, disagree):
    return 196 * math.sqrt(disagree * (1 - disagree) / rows)


attempt(check_paired_interval, interval)
attempt(check_detectable, smallest)

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/analysis/statistics.py`: intervals, Holm, bootstrap. Differences paired by seed:
# `adamix_lab/experiments/contrasts.py`. Grids of your own: `adamix-lab ablate GRID.yaml` (`data/grids/README.md`), then
# type their folder above.
#
# ## You can now
#
# 1. give a paired difference with its interval, and correct for many; 2. say how many seeds a winner needs, and what
# the rows can show; 3. ask for the budget, and for all the seeds.
#
# **Three questions.** 1. Two models have intervals that overlap. Do they differ? 2. A table has 20 comparisons, one
# with p = 0.03. What do you say? 3. Why is a null result no proof of equality?
#
# <details><summary>Answers</summary>1. That cannot be told from two intervals: take the interval of the paired
# difference. 2. After Holm's correction it is 0.6: not told from chance. 3. The interval holds 0, and other values,
# too: it says what is still possible.</details>

# %% [markdown]
# ## Further: do all pairs agree?
#
# Here every variant meets every other, not AdaMix alone: more questions from the same runs, and a harder correction.

# %%
variants = list(league_table(scores, task).index)
by_seed = {variant: own_scores(scores, task, variant) for variant in variants}
pairs = {f"{a} minus {b}": t_interval([by_seed[a][n] - by_seed[b][n] for n in by_seed[a]])
         for a, b in combinations(variants, 2)}  # fmt: skip
corrected = holm([each.p for each in pairs.values()])
rows = [{"pair": name, "points": e.mean, "p": e.p} for name, e in pairs.items()]
pd.DataFrame(rows).assign(Holm=corrected).round(3)

# %% [markdown]
# ## Further: learning curves
#
# Was the budget long enough? Training loss of the task, a line a variant, mean over seeds.

# %%
from adamix_lab.experiments.figures import losses

named = scores.results.table.query("compute == 'steps'").drop_duplicates("run").set_index("run")[["task", "variant"]]
curves = scores.results.curves.join(named, on="run", how="inner")
curves["loss"] = curves["task_loss"]
curves["step"] = 50 * (curves["step"] // 50)  # means over 50 steps: single ones are noisy
losses({name: part for name, part in curves.groupby("task", sort=False)})

# %% [markdown]
# ## Further: other rows, or other seeds?
#
# A bootstrap over examples asks how far other test rows would move the difference; the t-interval asks about other
# runs. They answer different questions, and a claim needs both.

# %%
from adamix_lab.experiments.contrasts import minus

for c in compared:
    rows = scores.on_task(minus("AdaMix", c.other), c.task, c.budget, bootstrap=True).rows
    over_rows = f"{rows[0]:+.1f} to {rows[1]:+.1f}" if rows else "not there"
    print(f"{c.task}, {c.label}: over seeds {c.estimate.low:+.1f} to {c.estimate.high:+.1f}, over rows {over_rows}")

# %% [markdown]
# ## Further: the paper's twelve claims
#
# `adamix-lab report FOLDER` judges them by rules that were written before the runs. On these results:

# %%
from adamix_lab.experiments.claims import verdicts_of

pd.DataFrame([{"claim": v.claim.says, "verdict": v.verdict} for v in verdicts_of(scores)])
