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
# # 04 · Merged, ensemble, random, fixed: four ways to answer
#
# Training left four experts in each block; a *route* takes one of them in each. Below, each thin green
# curve is one route of the one-dimensional world. One answer is wanted. **Which one should be given, and what does it
# cost?** Afterwards you will be able to
#
# 1. name the four ways of the paper's Table 7, and count their passes;
# 2. say what Jensen's inequality promises about an ensemble, and what it does not;
# 3. find sentences that every route answers rightly and the merge does not.
#
# *Fifty minutes in class, half a minute of computing on two CPU cores. No network, no GPU. Before: lesson 03.*

# %%
from adamix_lab import load_task, load_twin
from adamix_lab.lessons import strategies as lesson

lesson.draw_fan(near=0.4)

# %% [markdown]
# ## Four ways
#
# Write $W$ for the weights along one route, and $\overline W$ for the mean of the experts' weights (Eq. 6).
#
# | way | answer | passes |
# |---|---|---|
# | **fixed** | $p(y \mid x, W_0)$, expert 0 in every block | 1 |
# | **random** | $p(y \mid x, W)$ for a route that is drawn | 1 |
# | **ensemble** | $\frac1R \sum_W p(y \mid x, W)$, the mean over all $R$ routes (Eq. 7) | $R$ |
# | **merged** | $p(y \mid x, \overline W)$ | 1 |
#
# Four experts in two blocks make $R = 4^2 = 16$ routes; in RoBERTa-large's 24 blocks there would be $4^{24}$, so the
# paper draws four and averages their *logits*. Averaging models' answers is old
# ([Lakshminarayanan et al., 2017](https://arxiv.org/abs/1612.01474)); averaging weights instead is the idea of
# [model soups (Wortsman et al., 2022)](https://arxiv.org/abs/2203.05482).
#
# Light a route: that is *random*, and expert 0 is *fixed*. The dashed mean is the *ensemble*. Then move the starts.

# %%
print(lesson.HIDES)
lesson.world_explorer(
    "The fan, its mean and the merge",
    "Find a distance of the starts at which the merge is twice as far from the truth as the ensemble.",
    ("near", "drawn", "route"),
    shown={"near": 0.6, "drawn": "merge"},
)

# %% [markdown]
# ## On real sentences
#
# AdaMix was trained on 400 sentences, subjective or objective, with a quarter of the labels wrong, and is judged on
# 1,000 others, with other seeds each time. You know from lesson 03 that the merge is *not* exactly the ensemble.

# %%
better = lesson.Prediction(
    "Which answers more sentences rightly: the merge, or the ensemble of all 16 routes?",
    answers=("the merge", "the ensemble", "alike", "not shown"),
)
better

# %%
runs = lesson.seeds_of("adamix", "noisy")  # what every route and the merge answer, one for each seed
merge_and_ensemble = "the merge minus the ensemble of all routes, accuracy"
better.then(
    lambda: [lesson.draw_violins(runs), lesson.forest("04", "the merge minus")],
    lesson.outcome("04", merge_and_ensemble, "the merge", "the ensemble"),
)

# %% [markdown]
# Each violin holds the 16 routes of one seed, as the paper's Figures 5 and 6 do. The merge (circle) and the ensemble
# (diamond) lie close together. A fixed expert (square) may be among the best routes of its violin or the worst: nobody
# knows beforehand. In the forest, *alike* means that the whole interval is too small to matter, and *not shown* that
# what was measured leaves room for both sides.
#
# What does each way cost?

# %%
lesson.four_ways(runs)

# %% [markdown]
# The ensemble of all routes runs sixteen passes for one answer, the merge one. **The two are *alike* here: the merge
# answers as well, at a sixteenth of the cost.** It does not give the same answers, though:

# %%
for run in runs[:3]:
    merged, ensemble = run.merged.argmax(-1), run.routes.exp().mean(1).argmax(-1)
    print(f"of {len(merged)} sentences, merge and ensemble answer {int((merged != ensemble).sum())} differently")

# %% [markdown]
# ## A theorem, and a measurement
#
# The loss of a sentence with label $y$ is $-\log p(y)$, and $-\log$ is convex. So by **Jensen's inequality**, on
# *every* sentence,
#
# $$-\log\Big(\frac1R\sum_W p(y \mid x, W)\Big) \;\le\; \frac1R\sum_W -\log p(y \mid x, W) .$$
#
# The ensemble's loss is at most the mean loss of its routes. No data are needed for that, so a paper that reports it
# reports a theorem. (It holds for averaged logits, too: cross-entropy is convex in the logits.) *How far* below it lies
# is a measurement. For the merge there is no such theorem, so all of its line below is measured.

# %%
lesson.draw_jensen(runs[0])

# %% [markdown]
# The dashed line never goes below 0. The other one does: on many sentences the merge loses more than its routes do on
# average, and the sentences on which it loses less make up for them.
#
# ## A quiz about Table 7
#
# The paper's Table 7 (BERT-base, a mean over eight tasks) prints 84.5 for merging, 83.7 for fixed routing, 83.3 for
# one random route, and **83.2 for the ensemble of four random routes**.

# %%
quiz = lesson.Prediction("Does Jensen's inequality forbid 83.2 below 83.3?", answers=("yes", "no"))
quiz

# %%
quiz.reveal(
    "It does not. The theorem is about losses; the table's metrics are accuracies and correlations. An ensemble can "
    "answer fewer sentences rightly than each of its members (exercise 4 of the assignment builds one). But 0.1 is a "
    "small difference over three seeds, and no interval is printed. So the table does not show that averaging harms.",
    "no",
)

# %% [markdown]
# ## Break it: all routes right, the merge wrong
#
# The made-up reviews of "aspects" were learned for much longer, and their experts lie far apart. These sentences are
# answered rightly by all 16 routes. What does the merge say?

# %%
task, apart = load_task("aspects"), lesson.load_answers("apart")  # four adapters that were trained apart
lesson.lost_rows(apart, task)

# %%
lesson.forest("04", "aspects")

# %% [markdown]
# An ensemble cannot do this: where every route gives the label more than one half, so does their mean. The merge is a
# model that nobody trained, and each layer's error goes into the next layer. For adapters that were trained apart it is
# wrong on about every fifth sentence that no route got wrong. Check a merge against its routes before you ship it.
#
# ## Your sentence
#
# Write a sentence. How many of the 16 routes say what the merge says?

# %%
models = {
    "AdaMix": load_twin("adamix", 20, data="noisy"),
    "four trained apart": load_twin("apart-long", 20, data="noisy"),
}
lesson.agreement_explorer(models, load_task("subjectivity"))

# %% [markdown]
# ## Exercise: who agrees with the merge? (ten minutes)
#
# Write `agree(routes, merged)`: for logits `routes [rows, routes, classes]` and `merged [rows, classes]`, the share of
# routes that give the merge's answer, `[rows]`. The version below makes a common mistake.
#
# Then write the next piece of your `my_adamix.py`. A route sets `layer.expert` of each layer, and `model(batch)` gives
# logits:
#
# ```python
# def ensemble(model, layers, batch):
#     ...  # every route: itertools.product(range(4), repeat=len(layers))
#     return probabilities  # [rows, classes], their mean
# ```


# %%
def agree(routes, merged):
    return (routes.softmax(-1).mean(1).argmax(-1) == merged.argmax(-1)).float()


lesson.attempt(lesson.check_agree, agree)
lesson.check_program("ensemble")
ensemble = lesson.mine("ensemble")

# %% [markdown]
# ## Where the library has it
#
# Strategies of `adamix_lab.evaluate`: `adamix_lab/training/evaluation.py`. All routes in one walk of a tree:
# `adamix_lab/fast/tree.py`. Averages over routes: `adamix_lab/analysis/posterior.py`.
#
# ## You can now
#
# 1. name four ways to answer and count their passes; 2. tell what a theorem says from what was measured; 3. find
# sentences that only the merge gets wrong.
#
# **Three questions.** 1. How many passes does the ensemble of all routes take with M = 8 and three blocks? 2. A paper
# writes that its ensemble has a smaller loss than its members do on average. What did it show? 3. Every route is right
# on a sentence. Is the ensemble right? Is the merge?
#
# <details><summary>Answers</summary>1. 8³ = 512. 2. Nothing about the data: it is a theorem; only the size of the
# difference is a measurement. 3. With two classes the ensemble is right; the merge need not be.</details>

# %%
lesson.brier([better, quiz])

# %% [markdown]
# ## Further: experts that are merged badly, or exactly
#
# The same comparison for experts that share the down-projection, that share nothing, and that were trained apart. Then
# the sentences of "aspects" that AdaMix's own merge gets wrong against all of its routes.

# %%
lesson.forest("04", "merged minus its ensemble")

# %%
lesson.lost_rows(lesson.load_answers("adamix"), task)
