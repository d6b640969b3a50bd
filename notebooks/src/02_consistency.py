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
# # 02 · Consistency: what does asking for agreement buy?
#
# Lesson 00 ended with a merge that fails. AdaMix sends each batch through *two* random routes and adds a loss that
# asks them to agree. Is that what makes its experts safe to average? Afterwards you will be able to
#
# 1. write the consistency loss and its gradient;
# 2. read a dial: agreement against accuracy, as the weight of that loss grows;
# 3. say what consistency is measured to do for the merge here, and what it is not.
#
# *Fifty minutes in class; a quarter of a minute of computing. No network, no GPU.*

# %%
import pandas as pd
import torch

from adamix_lab import Router, load_twin
from adamix_lab.lessons.checks.routing import check_consistency, check_gradient
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.core.objective import reference_kl
from adamix_lab.lessons.consistency import (
    agreed_and_wrong, consistency_dial, dial_seeds, draw_scores, pairwise_kl, scores,
)  # fmt: skip
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.answers import GRID, load_answers
from adamix_lab.analysis.plots import Picture
from adamix_lab.lessons.widgets import Prediction

torch.set_num_threads(2)
NAMES = {"trained apart": "apart", "weight 0": "no-consistency", "weight 1 (AdaMix)": "adamix"}
figure, ax, alt = draw_scores(
    {label: scores([load_answers(name, s) for s in range(3)]) for label, name in NAMES.items()}
)
Picture(figure, alt)

# %% [markdown]
# On the left the merge that fails. The other two share the way up and route at random; they differ in the weight of
# the consistency loss, 0 or 1. Both lose far less by merging than adapters trained apart.
#
# Runs of AdaMix under larger weights wait in the dial below: what if agreement counts ten or a hundred times as much?
# Predict before you turn it: at weight 100, how often does a random route answer rightly? (Chance is 50 %.)

# %%
prediction = Prediction("Accuracy of a random route at weight 100")
prediction

# %%
dial = consistency_dial(prediction)
dial

# %% jupyter={"outputs_hidden": true}
dial.press("Show me")
dial.picture

# %% [markdown]
# Agreement rises with every step of the dial: the KL between routes falls towards 0. From 10 on, accuracy falls with
# it. Routes that must agree before they know the answer find it cheapest to say little. Perfect agreement is easy:
# always answer alike. Three seeds were trained for each weight.
#
# ## The smallest code
#
# Two routes give two distributions, p and q, for the same row. KL(p‖q) asks how badly q does where p is true; half of
# both directions is the loss of Eq. 5.

# %%
first = torch.tensor([[2.0, 0.0], [0.5, 0.0]])  # logits of two rows under one route
second = torch.tensor([[1.0, 0.0], [-0.5, 0.0]])  # and under another
p, q = first.log_softmax(-1), second.log_softmax(-1)
by_hand = 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
print("by hand:", float(by_hand), " the library's:", float(reference_kl(first, second)))

# %% [markdown]
# The authors' code holds each target fixed while the other side moves. So the gradient on the first logits is simply
# half of p − q, divided by the rows: each route is pulled towards the other's probabilities.

# %%
logits = first.clone().requires_grad_()
reference_kl(logits, second).backward()
print(logits.grad)
print(0.5 * (p.exp() - q.exp()) / len(first))

# %% [markdown]
# **Break it.** A regression has one logit. What does the loss say then?

# %%
try:
    reference_kl(torch.tensor([[0.3]]), torch.tensor([[5.0]]))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Agreement is not correctness
#
# How many rows do *all* routes answer alike, and wrongly? Those are errors that no vote and no ensemble can see.

# %%
table = {
    f"weight {weight}, seed {seed}": {
        "pairwise KL": float(pairwise_kl(load_answers(name, seed)).mean()),
        "all agree and are wrong (%)": 100 * float(agreed_and_wrong(load_answers(name, seed)).mean()),
    }
    for seed in dial_seeds()
    for weight, name in GRID.items()
}
pd.DataFrame(table).T.round(4)

# %%
effects_table("02", "agree")

# %% [markdown]
# Already at weight 1 the three seeds agree on a small rise. At 10 and 100 it is large.
#
# ## Does consistency save the merge?
#
# The effect that this lesson would like to show: with consistency, merging loses less.

# %%
effects_table("02", "merged minus its experts")

# %% [markdown]
# At the paper's weight of 1 the difference is a *null result* on these three seeds: one seed says worse, two say
# better, and the interval holds 0. At weight 10 it is an *effect*: on every seed merging loses four to six points
# less. And it has a price: those experts answer six to eleven points worse, so they have less to lose. What weights 0
# and 1 have in common is random routing and a shared way up. Lesson 03 takes up sharing.
#
# ## Exercise: find the bug (ten minutes)
#
# This loss runs and goes down in training. The check says what is wrong with it. Then get the gradient right, too:
# targets are held fixed.


# %%
def consistency(a, b):
    p, q = a.log_softmax(0), b.log_softmax(0)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


attempt(check_consistency, consistency)
attempt(check_gradient, consistency)

# %% [markdown]
# ## Where the library has it
#
# Distances and both views in one call: `adamix_lab/core/objective.py`, `adamix_lab/core/views.py`. To
# train another weight: `adamix-lab train --consistency 3`.
#
# ## You can now
#
# 1. write the loss and its gradient; 2. read the dial; 3. say that agreement is bought here with accuracy, and that
# its help for the merge is not shown at weight 1.
#
# **Three questions.** 1. Which model has a consistency loss of 0 and is useless? 2. Why is the KL of one logit
# always 0?
# 3. All routes agree on a row. What does that say about the answer?
#
# <details><summary>Answers</summary>1. One that ignores its input. 2. A softmax over one number is 1, whatever the
# number. 3. That no ensemble of these routes would change it; not that it is right.</details>

# %% [markdown]
# ## Further: two views cost two passes
#
# A step with two views runs the adapted blocks twice. What lies below them is the same for both, so the library runs
# it once (`views="shared_prefix"`). The two routes of a step are replayable, like all others:

# %%

mixture, _ = load_twin("adamix")
Router(mixture.space, seed=0).views(step=5)[..., 0]  # [views, blocks]: the experts of the way down
