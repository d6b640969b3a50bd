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
# # 03 · Merging: when may weights be averaged?
#
# Four good adapters averaged to a bad one in lesson 00. AdaMix's lost little. Afterwards you will be able to
#
# 1. mix experts with any weights, and find where a mixture is worse than every part of it;
# 2. make two equal functions whose average is a different one;
# 3. repair a failed merge by putting units back into order.
#
# *Fifty minutes in class; about a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os

import torch

from adamix_lab import load_task, load_twin, merge
from adamix_lab.lessons.checks.merging import check_align, check_cancelling
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.answers import answers_of, load_answers
from adamix_lab.lessons.consistency import draw_scores, scores
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.merging import aligned, ground_of, mixing_triangle, permuted_copies
from adamix_lab.analysis.plots import Picture
from adamix_lab.core.routing import generator_for
from adamix_lab.models.model import load_trained, trained_tensors
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"
ROWS = 128 if FAST else 996
torch.set_num_threads(2)

task = load_task("aspects")
ground = ground_of("apart")
triangle = mixing_triangle(ground)
triangle

# %% [markdown]
# Three adapters that were trained apart stand at the corners. A point inside averages their weights; colour is its
# loss on 64 rows. Each corner is a good model. Where are the bad ones?

# %%
triangle.press("Show me")
triangle.picture

# %% [markdown]
# ## The smallest merge
#
# Merging is a mean over experts, weight by weight (Eq. 6). The library's `merge` makes the model of it, with one
# adapter a layer.

# %%
mixture, tokenizer = load_twin("apart")
site, layer = next(iter(mixture.sites.items()))
by_hand = sum(layer.experts["down"]) / 4
merged = merge(mixture)
print("distance:", float((merged.sites[site].experts["down"][0] - by_hand).abs().max().detach()))

# %% [markdown]
# A route takes one expert, the merge a quarter of each, the triangle any shares. All are **mixture points**: a weight
# for each expert, none below 0, with sum 1. A route is a corner, the merge is the centre. In code, any of them
# selects what the layer applies.

# %%
space = mixture.space
batch = tokenizer([row["sentence"] for row in task.evaluation[:8]], padding=True, return_tensors="pt")
corner, centre = space.vertices(space.fixed(2)), space.barycentre()
with torch.no_grad():
    at_corner, on_route = (mixture(selection=chosen, **batch).logits for chosen in (corner, space.fixed(2)))
    at_centre, by_merge = mixture(selection=centre, **batch).logits, merged(**batch).logits
print("a corner is a route:", torch.allclose(at_corner, on_route, atol=1e-5))
print("the centre is the merge:", torch.allclose(at_centre, by_merge, atol=1e-5))

# %% [markdown]
# ## Four copies of one adapter
#
# The units inside a bottleneck have no order. Permute them, down and up alike, and the function is the same. Take
# *one* good adapter (99 % right) and make three copies, each with its units in another order: four equal functions.
# What will their merge score? (Chance is 50 %.)

# %%
prediction = Prediction("Accuracy of the merge of four permuted copies of one adapter")
prediction

# %% jupyter={"outputs_hidden": true}
TWINS = {"AdaMix": "adamix", "no consistency": "no-consistency", "nothing shared": "unshared-tied", "apart": "apart"}
trained = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}


def answers_with(tensors):
    load_trained(mixture, tensors)
    answers = answers_of(mixture, task, tokenizer, ROWS)
    load_trained(mixture, trained)
    return answers


copies = permuted_copies(trained, expert=0, generator=generator_for(0))
shown = {label: scores([load_answers(name, seed) for seed in range(3)]) for label, name in TWINS.items()}
shown["one adapter,\npermuted"] = scores([answers_with(copies)])
figure, ax, alt = draw_scores(shown)
Picture(figure, prediction.mark(ax, alt, axis="y"))

# %%
effects_table("03", "permuted")

# %% [markdown]
# The copies agree on every row, and their mean fails like that of adapters trained apart. So *equal functions* are
# not enough: weights must mean the same in the same place. On the left, experts that grew up together: a shared way
# up names the units, and random routes make every way down serve it.
#
# Over three seeds, paired:

# %%
effects_table("03", "the gap of the merge")

# %% [markdown]
# What is measured: AdaMix, and its twin without consistency, lose less by merging than adapters trained apart. What
# is not: which of the steps in between does it. Those intervals hold 0; three seeds of "nothing shared" differ too
# much among themselves.
#
# ## Break it: the smallest failure
#
# One LoRA is (A, B), its update B A. Flip both signs: the same update. Average:

# %%
A, B = torch.randn(2, 6, generator=generator_for(1)), torch.randn(5, 2, generator=generator_for(2))
print("equal updates:", torch.equal(B @ A, (-B) @ (-A)))
print("update of the average:", float((((B - B) / 2) @ ((A - A) / 2)).norm()))

# %% [markdown]
# The mean of products is no product of means. With one B for all, it is: mean(B Aᵢ) = B mean(Aᵢ). That is what
# sharing one side buys a LoRA exactly, and a bottleneck with its GELU nearly.
#
# ## Fail to do it with AdaMix
#
# The same triangle, the same colours, AdaMix's experts. How high can you get?

# %%
adamix_triangle = mixing_triangle(ground_of("adamix"), highest=float(ground.losses.max()))
adamix_triangle

# %%
adamix_triangle.press("Show me")
adamix_triangle.picture

# %% [markdown]
# AdaMix is not flat: its centre, too, lies above its corners. The hill is lower.
#
# ## Repair it
#
# If order is the trouble, put the units in order: match each expert's units to expert 0's, then average. No training.

# %%
before, after = load_answers("apart"), answers_with(aligned(trained))
for name, answers in (("as trained", before), ("aligned", after)):
    right = answers.merged_right[:ROWS]
    print(f"{name}: the merge answers {100 * float(right.mean()):.1f} % of {len(right)} rows rightly")
effects_table("03", "aligned")

# %% [markdown]
# Most of what the merge had lost comes back, on every seed. Adapters trained apart had learned much the same units;
# they had them in another order.
#
# ## Exercise: align (fifteen minutes)
#
# Write `align(reference, expert)`: the expert with its units in the reference's order. An expert is a dict of `down`
# `[r, d]`, `down_bias` `[r]`, `up` `[d, r]`, `up_bias` `[d]`. Hint: `scipy.optimize.linear_sum_assignment`. The
# version below forgets something. Then give `check_cancelling` two LoRAs of your own, not with flipped signs.


# %%
def align(reference, expert):
    best = (reference["down"] @ expert["down"].T).argmax(1)
    return {**expert, "down": expert["down"][best]}


attempt(check_align, align)
attempt(check_cancelling, (A, B), (A, -B))

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/core/merging.py` has the merge and soups (mixture points chosen on held-out rows). `merge_gap` says how
# far a layer's merged output is from the mean of its routes' outputs.
#
# ## You can now
#
# 1. mix experts and find bad mixtures; 2. make equal functions with a bad average; 3. repair a merge by alignment.
#
# **Three questions.** 1. Is merging ensembling? 2. Two models answer every row alike. May their weights be averaged?
# 3. What does AdaMix share, and what does that fix?
#
# <details><summary>Answers</summary>1. No: an ensemble averages answers, and all four twins' ensembles are good. 2.
# Not for that reason. 3. The way up: it gives all experts' units the same meaning.</details>

# %% [markdown]
# ## Further: merge against ensemble
#
# The ensemble of all routes averages answers. How far is the merge below it?

# %%
effects_table("03", "minus the ensemble")
