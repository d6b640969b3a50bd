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
# # 07 · Ablations: when AdaMix wins, when it loses, and what it is made of
#
# AdaMix promises to beat the single adapter that it is made of. Does it? You predict six comparisons, ask what the wins
# are made of, and read a map of many more. Afterwards you will be able to
#
# 1. compare two methods in pairs, with an interval and a verdict;
# 2. say what a win is made of, by opponents that have one part each;
# 3. read a table of results: whose settings, how many rows, how many comparisons.
#
# *Fifty minutes in class; seconds of computing on two CPU cores, for the runs are stored. No network, no GPU.*

# %%
from IPython.display import display

from adamix_lab.lessons import ablations as lesson

lesson.draw_block()

# %% [markdown]
# ## Predict, then see
#
# Each question compares two ways of training adapters in MiniLM. AdaMix is merged at the end, so that both cost the
# same when they answer. Choose a winner, or *neither*, and say how sure you are. These rules were written before the
# runs. *Alike*: the 95 % interval of the difference lies within ± 1 point (or 0.02 nats of loss), too little to matter.
# *Shown*: it does not, and leaves 0 out. *Not shown*: anything else. *Neither*: alike or not shown.
#
# **1.** 2,000 sentences from film reviews; a quarter of their labels were made wrong. Both sides get the same learning
# rate and 300 steps of 16 sentences, which are 2.4 passes over the rows.

# %%
first = lesson.Prediction(lesson.question(1), answers=lesson.ANSWERS)
display(first)
first.then(*lesson.result(1))

# %% [markdown]
# **2 and 3.** Now 300 steps are twelve passes over 400 sentences: long enough to learn them by heart, wrong labels
# included.

# %%
second = lesson.Prediction(lesson.question(2), answers=lesson.ANSWERS)
display(second)
second.then(*lesson.result(2))

# %%
third = lesson.Prediction(lesson.question(3), answers=lesson.ANSWERS)
display(third)
third.then(*lesson.result(3))

# %% [markdown]
# ## What is a win made of?
#
# Take an opponent for each part. A step trains one of $M$ experts, so an expert moves at $1/M$ of the steps, as if its
# learning rate $\eta$ were $\eta/M$. And merging averages weights, which one run can do over its own steps, too
# ([SWA](https://arxiv.org/abs/1803.05407)):
#
# $$\bar\theta = \frac{1}{T - t_0} \sum_{t > t_0} \theta_t .$$
#
# The first opponent is a single adapter that trains with $\eta/M$ on the side that AdaMix routes, and averages its last
# 75 % of steps. The second, a *linear probe*, has no adapter: it is a regularised logistic regression on MiniLM's
# frozen sentence vectors; a slice of the training rows chose how strongly.

# %%
fourth = lesson.Prediction(lesson.question(4), answers=lesson.ANSWERS)
display(fourth)
fourth.then(*lesson.result(4))

# %%
fifth = lesson.Prediction(lesson.question(5), answers=lesson.ANSWERS)
display(fifth)
fifth.then(*lesson.result(5))

# %% [markdown]
# **6** is from an older table of ours: SST-2, 4,000 rows, 2,000 steps, a learning rate searched for each method.

# %%
sixth = lesson.Prediction(lesson.question(6), answers=lesson.ANSWERS)
display(sixth)
sixth.then(*lesson.result(6))

# %% [markdown]
# ## Ask of every baseline, your own first
#
# 1. Were rate and stopping searched for both, with the same budget, at the length of the run?
# 2. Did the rows that are reported choose nothing?
# 3. Do steps or operations count? A step of AdaMix has two passes.
# 4. Has each part an opponent: smaller steps, averaging, [R-Drop](https://arxiv.org/abs/2106.14448) for two passes, a
#    probe?
# 5. How many seeds, rows, comparisons?
#
# And how good were your probabilities? With $p_k$ for your answer to question $k$, and $y_k = 1$ where it was right,
# the Brier score is $\frac1K \sum_k (p_k - y_k)^2$: 0 is perfect, and "50 %" gets 0.25 everywhere. **The number to
# reach: below 0.2.**
#
# ## The map
#
# The *phase map* compares both at three numbers of rows, shares of wrong labels, and *doses*. Dose 0 is as many steps
# as are best for the single adapter (by a slice of its training rows); +1 is twice, -1 half as many. There are five
# seeds; the nine cells of a dose are judged together.

# %%
print(lesson.brier([first, second, third, fourth, fifth, sixth]))
doses = lesson.Prediction(
    "At which doses is AdaMix shown ahead of the single adapter most often?",
    answers=("below 0", "at 0", "above 0", "at none"),
)
display(doses)
doses.then(lesson.phase_map, "above 0")

# %% [markdown]
# ## All opponents
#
# In accuracy, AdaMix is *shown* ahead of the single adapter in three of 92 cells, all above dose 0 and with wrong
# labels; behind in eight, none above 0. (In loss: ahead in 27, all above 0, behind in 11.) At each method's own stop no
# difference in accuracy is shown.
#
# Your own `adamix-lab ablate` folders stand in the first menu.

# %%
dashboard = lesson.opponents()
dashboard

# %% [markdown]
# ## Paired differences
#
# Runs of one seed share their rows and wrong labels, and so their luck. Subtract seed by seed, $d_s = a_s - b_s$, and
# give the mean with Student's quantile for $S - 1$ degrees of freedom:
#
# $$\bar d \pm t_{0.975,\,S-1}\, \frac{\hat\sigma_d}{\sqrt S} .$$

# %%
import numpy as np
from scipy.stats import t

adamix, single = lesson.accuracies("adamix", "single")  # on noisy sentences, seed by seed
gaps, seeds = adamix - single, len(adamix)
paired = t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / seeds**0.5
groups = t.ppf(0.975, seeds - 1) * ((adamix.var(ddof=1) + single.var(ddof=1)) / seeds) ** 0.5
print(f"differences by seed: {gaps.round(1)}")
print(f"paired: {gaps.mean():+.1f} ± {paired:.1f} points; as two groups: ± {groups:.1f}")
print(f"seeds for ± 1 point: about {lesson.seeds_needed(gaps, 1.0)}")

# %% [markdown]
# ## Many comparisons, and few rows
#
# Compare 20 pairs that do not differ: one of them looks like an effect with a chance of $1 - 0.95^{20} = 64\,\%$. So
# the 5 % are divided among all comparisons of a family (Bonferroni): hence question 2's interval is wider than ± 1.6.
# **Break it**: judge each line of the dashboard as if it were alone.
#
# In the paper's Table 8, RTE falls from 89.2 to 84.8 % without consistency. RTE's validation set has 277 rows. How many
# rows make the difference?

# %%
print(f"{(89.2 - 84.8) / 100 * 277:.0f} of 277 rows")
for disagree in (0.1, 0.2):
    least = lesson.detectable(277, disagree)
    print(f"two models that disagree on {disagree:.0%} of the rows: four tests of five see {least:.1f} points")

# %% [markdown]
# ## What is claimed
#
# The paper's twelve claims, judged on stored runs, and nine sentences of two popular articles of 2025, in short:

# %%
lesson.claims()

# %% [markdown]
# ## Exercise: an interval that is one (ten minutes)
#
# `interval(first, second)`: the mean of first minus second and its 95 % *t-interval* (Student's t, for few seeds),
# for scores of the same seeds.
# `smallest(rows, disagree)`: half of the 95 % interval over rows, in points, of a difference near 0. Both make a common
# mistake.


# %%
def interval(first, second):
    first, second = np.array(first), np.array(second)
    half = 1.96 * ((first.var(ddof=1) + second.var(ddof=1)) / len(first)) ** 0.5
    return first.mean() - second.mean(), first.mean() - second.mean() - half, first.mean() - second.mean() + half


def smallest(rows, disagree):
    return 196 * (disagree * (1 - disagree) / rows) ** 0.5


lesson.attempt(lesson.check_paired_interval, interval)
lesson.attempt(lesson.check_detectable, smallest)

# %% [markdown]
# ## Where the library has it
#
# Intervals and verdicts: `adamix_lab/analysis/statistics.py`; opponents: `adamix_lab/baselines/`. `adamix-lab ablate
# GRID.yaml` runs a grid of your own (`data/grids/README.md`).
#
# ## You can now
#
# 1. compare in pairs, with a verdict; 2. name each part's opponent; 3. ask for settings, rows and comparisons.
#
# **Three questions.** 1. Two models have intervals that overlap. Do they differ? 2. A table has 20 comparisons, one
# with p = 0.03. What do you say? 3. AdaMix beats one adapter at equal rate by nine points. What do you ask?
#
# <details><summary>Answers</summary>1. Two intervals cannot tell: take that of the paired difference. 2. Corrected, p
# is 0.6: not shown. 3. Whether one adapter with smaller steps and averaged weights is behind, too.</details>

# %% [markdown]
# ## Further: the same dials in one dimension
#
# Here training takes a moment, so the sliders train: a probability between two classes, wrong labels among the rows.
# Give it more steps: when do the curves begin to follow single wrong labels? Halve the rate: what happens? One
# dimension hides much: no trained network is below, and nothing of what was measured above was measured here.

# %%
lesson.dials()

# %% [markdown]
# ## Further: does the map foresee?
#
# A map is worth something where it says what nobody has measured. Before the test was run, the map's predictions for
# 104 other comparisons were frozen: new seeds, rows that nothing had read, a third task, two and eight experts. Each
# gave a chance to "behind", "neither" and "ahead" (the Brier score is over these three), and a difference in points
# (the error is its mean distance from what was measured):

# %%
import pandas as pd

pd.read_csv(lesson.PHASE.with_name("score.csv")).round(3)

# %% [markdown]
# The map did better than saying "not shown" everywhere, and no better than two rules that know one number each: the
# epochs, or how low the single adapter's training loss is. So most of what decides is said in a sentence: AdaMix is
# behind while a single adapter still learns, and ahead when it has begun to learn wrong labels by heart.

# %% [markdown]
# ## Further: every line of the table

# %%
lesson.effects_table("07")
