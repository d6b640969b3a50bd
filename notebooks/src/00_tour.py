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
# # 00 · The tour
#
# AdaMix puts several small adapters into each layer of a frozen model, sends every batch through a random one, asks
# two random
# routes to agree, and averages the adapters into one at the end. Afterwards you will be able to
#
# 1. switch an adapter off and on, and say how many weights did the work;
# 2. train AdaMix and read its table: merged, fixed, random, ensemble;
# 3. state the puzzle that the other lessons solve.
#
# *Ten minutes to read; about a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os

import pandas as pd
import torch

from adamix_lab import attach, load_backbone, load_task, load_twin, merge, parameter_report, predict, structure
from adamix_lab.evaluation import evaluate, wilson
from adamix_lab.plots import Bar, Picture, compare, new_figure

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"  # set ADAMIX_LAB_FAST=0 for the full training
torch.set_num_threads(2)

task = load_task("aspects")
mixture, tokenizer = load_twin("adamix")  # MiniLM with trained experts in its top two blocks, shipped with the project

# %% [markdown]
# ## What a frozen model knows, and what a few weights add
#
# The task: a sentence says one thing about one aspect and another about the next; what does it say about the aspect
# before the colon?

# %%
for row in task.evaluation[:3]:
    print(task.classes[row["label"]], "|", row["sentence"])

# %% [markdown]
# Effective weights are tensors, so we can dial the adapters' strength from 0 (the frozen model) to 1 (as trained):
# the up-projection is scaled.


# %%
def at_strength(mixture, strength):
    """The merged weights of each site, the up-projection scaled."""
    points = {}
    for path, layer in mixture.sites.items():
        merged = layer.weights(None)
        points[path] = {name: w * strength if name.startswith("up") else w for name, w in merged.items()}
    return points


texts = [row["sentence"] for row in task.evaluation[:256]]
gold = torch.tensor([row["label"] for row in task.evaluation[:256]])
batch = tokenizer(texts, padding=True, return_tensors="pt")
strengths, accuracies = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], []
with torch.no_grad():
    for strength in strengths:
        answers = mixture(selection=at_strength(mixture, strength), **batch).logits.argmax(-1)
        accuracies.append(float((answers == gold).float().mean()))

figure, ax = new_figure(6.5, 3.2)
ax.plot(strengths, [100 * a for a in accuracies], marker="o", color="#0072B2")
ax.set_xlabel("strength of the adapters")
ax.set_ylabel("accuracy on 256 rows (%)")
ax.grid(alpha=0.3)
told = ", ".join(f"{s:.1f}: {100 * a:.0f} %" for s, a in zip(strengths, accuracies, strict=True))
Picture(figure, f"Accuracy on 256 rows against the strength of the adapters. {told}.")

# %% [markdown]
# How many weights is that? `parameter_report` counts the trained experts, what is left after merging, and the head
# apart.

# %%
print(parameter_report(mixture))
print(structure(mixture.model.bert.encoder.layer[-1]))

# %% [markdown]
# ## Train it
#
# The same in code: attach four bottleneck adapters a site with a shared up-projection (the paper's default), and
# train with two routed views a step.
# In the fast mode a few steps show that it learns; the shipped experts have had all of them.

# %%
from dataclasses import replace

from adamix_lab import train
from adamix_lab.twins import ADAPTATION, BLOCKS, RECIPE

model, tokenizer = load_backbone("minilm", num_labels=task.num_labels)
mine = attach(model, ADAPTATION, experts=4, share="up", blocks=BLOCKS)
history = train(mine, task, tokenizer, replace(RECIPE, steps=60 if FAST else RECIPE.steps), progress=False)
print(f"trained {60 if FAST else RECIPE.steps} steps")

# %% [markdown]
# ## One set of experts, several ways to use it

# %%
STRATEGIES = ["merged", "fixed", "random", "ensemble"]
results = evaluate(mixture, task, tokenizer, STRATEGIES)
pd.DataFrame([result.row() for result in results]).round(3)

# %% [markdown]
# Whether two of them differ on these rows is a question for an interval, not for the third digit; and one seed is one
# seed: over the three shipped seeds the merge is 4.1 ± 5.8 points below the experts it averages
# (`data/experts/README.md`).
# Merging keeps one adapter a layer, so it costs what a single adapter costs; the ensemble costs four passes.
#
# ## The puzzle
#
# Now four adapters that were trained *apart*, each good on its own, side by side in the same layers. Before you run
# the cell: what will their average do?

# %%
apart, _ = load_twin("apart")
four = evaluate(apart, task, tokenizer, ["fixed-0", "fixed-1", "fixed-2", "fixed-3", "merged"])

figure, ax = new_figure(7.5, 3.8)
bars = [Bar(f"AdaMix, {r.strategy}", r.accuracy, *wilson(r.accuracy, len(r.labels)), r.strategy) for r in results]
bars += [
    Bar(f"trained apart, {n + 1}", r.accuracy, *wilson(r.accuracy, len(r.labels)), "single")
    for n, r in enumerate(four[:4])
]
bars += [Bar("trained apart, merged", four[4].accuracy, *wilson(four[4].accuracy, len(four[4].labels)), "apart")]
alt = compare(bars, ax)
Picture(figure, alt)

# %% [markdown]
# Four adapters that are each better than any expert of AdaMix average to something much worse; AdaMix's own experts
# lose little. Sharing, random routes and consistency are what differs: the next lessons take them one at a time.
#
# ## Ask it something
#
# Write your own sentence: an aspect, a colon, a sentence.

# %%
merged = merge(mixture)
mine_says = predict(
    merged,
    tokenizer,
    [
        "food : we found the food lovely, whereas the film was awful.",
        "film : we found the food lovely, whereas the film was awful.",
    ],
)
pd.DataFrame(mine_says.numpy().round(3), columns=task.classes)

# %% [markdown]
# ## We learned
#
# 1. A few tens of thousands of weights in two blocks turn a frozen encoder from guessing into answering.
# 2. AdaMix's strategies share one set of experts; the merge costs one pass and one module a layer, and on this task it
#    is not the best of them.
# 3. Averaging good adapters is not safe in itself: something in AdaMix's training makes it much safer.
