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
# # 06 · Routes as random variables: how Bayesian is it?
#
# A route is drawn, so an answer is a random variable. Afterwards you will be able to
#
# 1. average over drawn routes, and say how far that is from the average over all of them;
# 2. say how many drawn routes a merge is worth, and when it is worth none;
# 3. split a model's doubt into that of its routes and that between them.
#
# *Fifty minutes in class; half a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os

import torch

from adamix_lab import load_task, load_twin
from adamix_lab.analysis.posterior import marginal
from adamix_lab.lessons.checks.merging import check_marginal, check_split
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.posterior import (
    bayes_weights, calibrations, converging, draw_convergence, draw_pulling, pulling, risks, route_sampler,
    worth_elsewhere,
)  # fmt: skip
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"
DRAWS, ROWS = (50, 124) if FAST else (200, 996)
torch.set_num_threads(2)

sampler = route_sampler({"AdaMix": load_twin("adamix"), "trained apart": load_twin("apart")}, load_task("aspects"))
sampler

# %% [markdown]
# Your sentence asks about an aspect (`film : ...`). All 16 routes answer it; T of them are drawn, with replacement,
# and averaged. How far is that average from the one over all 16, and how far is the merge?

# %%
sampler.press("Show me")
sampler.picture

# %% [markdown]
# ## The smallest marginal
#
# Average the routes' *probabilities* (Eq. 7). With 16 routes it can be done exactly; with M = 4 in 24 layers it
# cannot, and one draws T of them. The distance used here is the total variation: for two classes, by how many points
# the probability is off.

# %%
answers = load_answers("adamix")  # log-probabilities of every route on 996 rows
p = answers.routes.exp()  # [rows, routes, classes]
exact = p.mean(1)
print("the library's:", torch.allclose(exact, marginal(answers.routes).exp(), atol=1e-5))
generator = torch.Generator().manual_seed(0)
for T in (1, 4, 16):
    drawn = p[:, torch.randint(16, (T,), generator=generator)].mean(1)
    print(f"T = {T:2}: {100 * float((drawn - exact).abs().mean()):.2f} points from all routes")

# %% [markdown]
# ## A posterior?
#
# The paper reads this as sampling from a posterior over weights. It is an interpretation. The weights of the average
# are 1/16 each, before the data and after them: nothing in Eq. 7 looks at a label. Bayes' rule would weigh each route
# by its likelihood. What would it say here?

# %%
order = torch.randperm(len(answers.labels), generator=torch.Generator().manual_seed(1))
largest = {n: float(bayes_weights(answers, order[:n]).max()) for n in (0, 10, 100, 500, 996)}
print("the largest of 16 weights, by rows seen:", {n: round(weight, 2) for n, weight in largest.items()})
effects_table("06", "Bayes")

# %% [markdown]
# With data the weights leave 1/16 behind: that is what makes a posterior one. Whether it answers other rows better is
# a null result here. So: routes are random, their distribution was chosen, not inferred.
#
# ## How many drawn routes is a merge worth?
#
# The merge runs once. Say it is as near to the exact average as T drawn routes: then it is worth T passes. For
# AdaMix, how many? (0 if even one route is nearer.)

# %%
prediction = Prediction("Drawn routes that AdaMix's merge is worth", unit="routes", high=64)
prediction

# %% jupyter={"outputs_hidden": true}
SETS = {"AdaMix": "adamix", "trained apart": "apart"}
tables = {label: [converging(load_answers(name, seed), DRAWS) for seed in range(3)] for label, name in SETS.items()}
draw_convergence(tables, prediction.value)

# %%
effects_table("06", "one drawn route")

# %% [markdown]
# None. The smallest T that beats the merge is 1, for both, on each of three seeds. For adapters trained apart that is
# an effect. For AdaMix three seeds are not enough: the interval of the difference holds 0.
#
# ## What more routes improve
#
# The error of the *estimate* falls as 1/√T. The model's own loss is another matter:

# %%
tables["AdaMix"][0][["what", "T", "error", "loss", "loss_bias"]].round(4)

# %% [markdown]
# `loss_bias` is what sampling adds, and it goes to 0. What remains is the loss of the exact average, and no further
# draw lowers it: more samples reduce the sampling error, not the model's.
#
# ## Break it: pull the experts together
#
# Move each expert towards the experts' mean. The merge stays the same model. Near the mean a route's distance from
# the average should shrink with the experts' distance, and the merge's with its square: in a mean, first-order terms
# cancel. Farther out neither has to hold. What is the merge worth then?

# %%
pulled = pulling("adamix", seed=0, shares=(1, 1 / 2, 1 / 4, 1 / 8), rows=ROWS)
draw_pulling(pulled, "AdaMix, seed 0")

# %%
effects_table("06", "pulled")

# %% [markdown]
# The merge's own distance falls, an effect at each share. Whether it then lies below one route's is not settled: it
# does on all three seeds at 1/4 and 1/8, but three seeds leave 0 in the interval. A merge stands for the average over
# routes as far as experts are near to each other. The project's runs on other tasks (adapters in all six blocks, one
# seed each, so without intervals):

# %%
worth_elsewhere()[["one route", "merge", "worth", "mutual information"]].round(4)

# %% [markdown]
# ## Two kinds of doubt
#
# The entropy H of the average splits, in nats: H = E[H] + MI. E[H] is how unsure a route is; the mutual information
# MI is what knowing the route would tell. Routes that disagree have a large MI, routes that are unsure alike have
# none.

# %%
effects_table("06", "doubt of all routes")

# %% [markdown]
# Nearly all of AdaMix's doubt is its routes' own. Adapters trained apart doubt less, and a larger part of it is
# between them.
#
# ## Exercise: average, and split (fifteen minutes)
#
# `average(logits)`: from `[rows, routes, classes]` to Eq. 7's probabilities. `split(p)`: from probabilities of the
# same shape to (H, E[H], MI), each `[rows]`, in nats. Both versions below are wrong.


# %%
def average(logits):
    return logits.mean(1).softmax(-1)


def split(p):
    own = -(p * p.log()).sum(-1).mean(1)
    return own, own, torch.zeros_like(own)


attempt(check_marginal, average)
attempt(check_split, split)

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/analysis/posterior.py`: marginal, convergence, doubt; `analysis/tree.py`: every route.
# `adamix-lab posterior` does it for a folder of yours.
#
# ## You can now
#
# 1. average over routes; 2. say what a merge is worth; 3. split doubt in two.
#
# **Three questions.** 1. What would have to change for uniform routes to become a posterior? 2. T goes from 16 to
# 64. What improves? 3. Every route says 50 %. What are E[H] and MI?
#
# <details><summary>Answers</summary>1. Their weights would have to depend on data. 2. The estimate of the average,
# twofold; not the average. 3. E[H] is ln 2, about 0.69 nats; MI is 0.</details>

# %% [markdown]
# ## Further: logits or probabilities
#
# The paper's ensemble averages logits. A sure route then pulls harder. The loss of all 16, one way minus the other:

# %%
effects_table("06", "logits averaged")

# %% [markdown]
# For AdaMix a null result. For adapters trained apart logits have the lower loss: that Eq. 7 averages probabilities
# does not make it the better predictor here.
#
# ## Further: calibration
#
# Is what gets 80 % right in 80 % of the cases? The expected calibration error puts confidences into bins, closed on
# the right, so that 1.0 has one, and averages |accuracy − confidence|. Adaptive bins hold equally many rows. In
# points, AdaMix:

# %%
calibrations([load_answers("adamix", seed) for seed in range(3)]).round(1)

# %% [markdown]
# The error has no sign. The difference has one; averaging makes an answer less sure than its parts:

# %%
effects_table("06", "confidence minus accuracy")

# %% [markdown]
# ## Further: answer only what is sure
#
# Sort rows by doubt and answer the surest. AdaMix, seed 0:

# %%
risks(answers)

# %% [markdown]
# ## Further: is mutual information a detector?
#
# One hopes that routes disagree where the model is wrong, or where a text comes from elsewhere. AUROC: the chance
# that such a row is in more doubt than an ordinary one, 0.5 if it tells nothing.

# %%
effects_table("06", "AUROC")

# %%
worth_elsewhere()[["AUROC by entropy", "AUROC by mutual information"]].round(2)

# %% [markdown]
# AdaMix's wrong answers (the first table): not shown to be noticed better or worse than by entropy. Texts from
# elsewhere (the second, one seed each): the mutual information of routes is at chance or below, so it is no detector
# there, and entropy is a better one.
