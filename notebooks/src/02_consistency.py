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
# # 02 · Consistency: make two routes agree
#
# AdaMix sends each batch through **two** random routes and adds a loss that grows as their answers differ. An article
# says that this "counteracts instability". What does the loss pull on, what does it buy, and what does it cost?
# Afterwards you will be able to
#
# 1. write the training step with the consistency loss in it;
# 2. say what two routes will do when the weight of that loss grows;
# 3. tell agreement from correctness, and say what was measured on real sentences.
#
# *Fifty minutes in class, half a minute of computing. No network, no GPU. Before: lesson 01 and your `my_adamix.py`.*

# %%
from adamix_lab.lessons import consistency as lesson

lesson.draw_views()

# %% [markdown]
# The world of one dimension again: an expert turns one number into the probability of class 1; a quarter of the
# labels are wrong. Two of the four experts are drawn for a step, one for each *view* of the batch. They disagree
# where the area is shaded.
#
# ## What the loss pulls on
#
# Let $p_{\mathcal A}$ and $p_{\mathcal B}$ be the two views' probabilities for a row. The *KL divergence*
# $\mathrm{KL}(p \,\|\, q) = \sum_c p_c \log (p_c / q_c)$ is 0 if both are equal and grows as they part, in *nats*.
# The paper's Eq. 5 takes the mean of both directions and adds it to the cross-entropy of the first view:
#
# $$L = \mathrm{CE}(y, z_{\mathcal A}) + \lambda \cdot \tfrac12 \left[ \mathrm{KL}(p_{\mathcal A} \,\|\, p_{\mathcal
# B}) + \mathrm{KL}(p_{\mathcal B} \,\|\, p_{\mathcal A}) \right].$$
#
# The labels $y$ stand in the first term only. The second, the *consistency*, asks for the same answer, whichever it is.
# [THOR](https://arxiv.org/abs/2110.04260) has it for random routes, [R-Drop](https://arxiv.org/abs/2106.14448) for
# two dropout masks of one network.
#
# Predict before you turn the weight λ up to 300.

# %%
alone = lesson.Prediction(
    "At weight 300, what do the four experts say?",
    answers=("the truth, all alike", "little: one curve, nearly flat", "as before"),
)
alone

# %%
alone.then(lesson.fan_explorer, "little: one curve, nearly flat")

# %% [markdown]
# Each movement trains anew. The fan closes early, by weight 10; from about 100 on the curves flatten, too.
# The cheapest way to agree is to say little. (One dimension hides where AdaMix wins.)
#
# ## The step, written by you
#
# Your `my_adamix.py` of lesson 01 has the layer and the random route. Write the next piece below them:
#
# ```python
# def step(model, layers, batch, labels, optimiser, weight=1.0):
#     """One step on a batch; model(batch) gives logits [rows, classes]. Returns the loss as a number."""
# ```
#
# It takes two views with two routes, adds the losses, and lets the optimiser step. `send(model, layers, route,
# batch)`, a view along a route, and `consistency(first, second)`, of two views' logits, are known in that file. The
# authors' code *detaches* each target: no gradient flows through it. So the gradient on the first view's logits is
# $\tfrac{\lambda}{2} (p_{\mathcal A} - p_{\mathcal B})$ over the number of rows, a pull towards the other view.
# Without a file you go on with the library's step.
#
# <details><summary>Hint</summary>Five lines: `first` and `second` from `send` with `random_route(layers)`; the loss;
# `optimiser.zero_grad()`, `loss.backward()`, `optimiser.step()`.</details>

# %%
lesson.check_program("step")
step = lesson.mine("step")

# %%
lesson.equal_to_library("step")

# %% [markdown]
# The library is this step, tested and faster. Two views still cost two passes through the adapted layers: "without
# increasing FLOPs" is true when the model answers, not when it trains.
#
# **Break it.** A regression has a single logit, and a softmax over one number is always 1. What does Eq. 5 say then?

# %%
import torch

try:
    lesson.reference_kl(torch.tensor([[0.3]]), torch.tensor([[5.0]]))
except ValueError as error:
    print(error)

# %% [markdown]
# ## The same dial on real sentences
#
# MiniLM learns from 400 sentences whether each is subjective; a quarter of the labels are wrong. AdaMix was trained
# under the weights 0, 1, 10 and 100, and all 16 routes of each run answered 1,000 other sentences. What does a weight
# of 100 do to *accuracy*?

# %%
sentences = lesson.Prediction(
    "Accuracy of a random route on sentences, after learning from wrong labels",
    answers=("weight 100 is above weight 0", "weight 0 is above weight 100", "not shown", "alike"),
)
sentences

# %%
truth = lesson.outcome("02", "sentences, a random route's accuracy: weight 100", *sentences.answers[:2])
sentences.then(lesson.consistency_dial, truth)

# %%
sentences.then(lambda: lesson.forest("02", "sentences, a random route"))

# %% [markdown]
# At weight 100 two routes can hardly be told apart. A random route is right more often than at weight 0, **and its
# loss is near that of always saying one half** (0.693): it says little, and leans the right way. One reading:
# agreement slows learning down, and a slow learner learns fewer wrong labels by heart. Lesson 07 tests that with
# smaller steps.
#
# Where labels are right and steps many ("aspects", made-up reviews), weight 100 costs accuracy (*shown*):

# %%
lesson.forest("02", "aspects, a random route")

# %% [markdown]
# So "counteracts instability" is half of it: routes agree, as asked. The rest depends on the labels.
#
# ## Agreement is not correctness
#
# When *all* routes give the same wrong answer, no ensemble can repair it. How often? And does consistency help the
# merge?

# %%
lesson.forest("02", "agree on a wrong answer")

# %%
lesson.forest("02", "sentences, merged minus its experts")

# %% [markdown]
# Agreed mistakes become *more* (*shown*): routes agree on wrong answers, too. And the merge gains *less* over its
# experts (*shown*): between routes that are alike there is little to average. What makes merging safe: lesson 03.
#
# ## What does the second view add to AdaMix?
#
# R-Drop gives one adapter a second view; AdaMix at weight 0 has routes and none.

# %%
lesson.forest("02", "sentences, accuracy: ")

# %% [markdown]
# AdaMix is above R-Drop on each seed. But see the last line: **without any consistency it is above the single
# adapter, too**, by nearly as much. So most of its advantage here does not come from Eq. 5. The paper's Table 8 loses
# 0 to 4.4 points without consistency, most on RTE, where one row of 277 is 0.4 points.
#
# ## Exercise: find the bug (ten minutes)
#
# This loss runs, and it falls during training. The check says why it is wrong.


# %%
def consistency(a, b):
    p, q = a.log_softmax(0), b.log_softmax(0)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


lesson.attempt(lesson.check_consistency, consistency)

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/core/objective.py`; to train: `adamix-lab train --consistency 3`.
#
# ## You can now
#
# 1. write AdaMix's step; 2. say what grows and what falls with the weight; 3. tell agreement from correctness.
#
# **Three questions.** 1. Which useless model has a consistency of 0? 2. Why is the KL of one logit always 0?
# 3. All routes agree on a row. What does that say about the answer?
#
# <details><summary>Answers</summary>1. One that ignores its input. 2. A softmax over one number is 1, whatever the
# number. 3. That no ensemble of these routes would change it; not that it is right.</details>

# %%
print(lesson.brier([alone, sentences]))
lesson.progress()
