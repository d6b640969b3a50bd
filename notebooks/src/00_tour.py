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
# two random routes to agree, and averages the adapters into one at the end. Afterwards you will be able to
#
# 1. switch adapters off and on, and say how many weights did the work;
# 2. train AdaMix and read its table: merged, fixed, random, ensemble;
# 3. state the puzzle that the other lessons solve.
#
# *Fifty minutes in class; about a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os
from dataclasses import replace

import pandas as pd
import torch

from adamix_lab import attach, load_backbone, load_task, load_twin, merge, parameter_report, predict, structure, train
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.checks.routing import check_count
from adamix_lab.training.evaluation import evaluate
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.tour import at_strength, strength_dial
from adamix_lab.analysis.plots import Bar, Picture, compare, new_figure
from adamix_lab.analysis.statistics import wilson
from adamix_lab.training.shipped import ADAPTATION, BLOCKS, RECIPE
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"  # set ADAMIX_LAB_FAST=0 for the full training
torch.set_num_threads(2)

task = load_task("aspects")
if FAST:
    task = replace(task, evaluation=task.evaluation[:256])
mixture, tokenizer = load_twin("adamix")  # MiniLM with trained experts in its top two blocks, shipped with the project
dial = strength_dial(mixture, task, tokenizer, rows=128)
dial

# %% [markdown]
# The task: a sentence says one thing about one aspect and another about the next. What does it say about the aspect
# before the colon? Move the strength: 0 is the frozen model, 1 the adapters as trained. The same picture stands below
# for those who read without running.

# %%
dial.picture

# %% [markdown]
# ## Before you go on: a card
#
# - *KL divergence* KL(p‖q): how many nats it costs to expect q where p is true. 0 where they are equal.
# - *NLL*, here "loss": minus the logarithm of the probability given to the right answer; the mean over rows.
# - A *transformer block* is attention, then a feed-forward network (FFN). Adapters here sit at the FFN's output.
# - A *bottleneck adapter* at width d and size r: down `[r, d]`, up `[d, r]`, with biases. It adds
#   `up(gelu(down(y)))` to y.
# - *LoRA* of rank r beside a weight `[out, in]`: A `[r, in]`, B `[out, r]`. It adds `B A x`.
#
# Five questions to test yourself:
#
# 1. What is KL(p‖p)? 2. A right answer gets probability 0.5: how many nats? 3. Which half of a block does the adapter
# follow? 4. How many weights has a bottleneck at d = 10, r = 2? 5. Which matrix of LoRA reads the input?
#
# <details><summary>Answers</summary>1. 0. 2. ln 2, about 0.69. 3. The feed-forward half. 4. 2 × 10 × 2 + 2 + 10 = 52.
# 5. A.</details>
#
# ## The smallest adapter

# %%
y = torch.randn(3, 10)  # three tokens of width 10, as the frozen layer gave them
down, up = 0.1 * torch.randn(2, 10), torch.zeros(10, 2)
adapted = y + torch.nn.functional.gelu(y @ down.T) @ up.T
print("changed by an adapter whose way up is zero:", float((adapted - y).abs().max()))

# %% [markdown]
# An adapter with a zero way up changes nothing: that is strength 0. In the model, `structure` shows where the trained
# ones sit, and `parameter_report` counts them: in training, after merging, and the head apart.

# %%
print(structure(mixture.model.bert.encoder.layer[-1]))
print(parameter_report(mixture))

# %% [markdown]
# **Break it.** Nothing stops you at 1. What do strengths of 3 and of −1 do?

# %%
texts = [row["sentence"] for row in task.evaluation[:128]]
gold = torch.tensor([row["label"] for row in task.evaluation[:128]])
batch = tokenizer(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    for strength in (-1.0, 0.0, 1.0, 3.0):
        right = mixture(selection=at_strength(mixture, strength), **batch).logits.argmax(-1) == gold
        low, high = wilson(float(right.float().mean()), len(gold))
        print(f"strength {strength:4.1f}: between {100 * low:.0f} and {100 * high:.0f} % right")

# %% [markdown]
# ## Train it
#
# Attach four bottleneck adapters a layer that share the way up (the paper's default), and train with two random
# routes a step. The fast mode shows the loop, not learning: after 24 steps the loss is still near ln 2 = 0.69, which
# is chance on two classes. The shipped experts had 1,400 steps, and so has the full mode.

# %%
model, tokenizer = load_backbone("minilm", num_labels=task.num_labels, pooling="cls")
mine = attach(model, ADAPTATION, experts=4, share="up", blocks=BLOCKS)
steps = 24 if FAST else RECIPE.steps
history = train(mine, task, tokenizer, replace(RECIPE, steps=steps, log_every=4), progress=False)
first, last = history.rows[0], history.rows[-1]
print(f"step {first['step']}: loss {first['task']:.3f}; step {last['step']}: loss {last['task']:.3f}")

# %% [markdown]
# ## One set of experts, several ways to use it
#
# *Fixed* takes one expert everywhere. *Random* draws a route for each batch. *Ensemble* averages the answers of four
# routes. *Merged* averages the weights: one pass, one adapter a layer.

# %%
results = evaluate(mixture, task, tokenizer, ["merged", "fixed", "random", "ensemble"])
pd.DataFrame([result.row() for result in results]).round(3)

# %% [markdown]
# Whether two of them differ on these rows is a question for an interval, not for the third digit. One seed is one
# seed: `data/results/effects/00.csv` has three.
#
# ## The puzzle
#
# Now four adapters that were trained *apart*, each on its own, put side by side in the same layers. Each answers
# well. Their average keeps one adapter a layer, as AdaMix's merge does. What will it score?

# %%
prediction = Prediction("Accuracy of four good adapters, trained apart and averaged")
prediction

# %% jupyter={"outputs_hidden": true}
apart, adamix = load_answers("apart"), load_answers("adamix")  # what each route answers on all 996 rows


def bar(label, right, style):
    accuracy = float(right.mean())
    return Bar(label, accuracy, *wilson(accuracy, len(right)), style)


bars = [bar(f"AdaMix, expert {n + 1}", adamix.right[:, r], "fixed") for n, r in enumerate(adamix.fixed)]
bars += [bar("AdaMix, merged", adamix.merged_right, "merged")]
bars += [bar(f"trained apart, {n + 1}", apart.right[:, r], "single") for n, r in enumerate(apart.fixed)]
bars += [bar("trained apart, merged", apart.merged_right, "apart")]
figure, ax = new_figure(7.5, 4.6)
Picture(figure, prediction.mark(ax, compare(bars, ax)))

# %% [markdown]
# Four adapters, each better than any expert of AdaMix, average to something far worse. AdaMix's own experts lose less
# when averaged. The effects over three seeds, paired by row:

# %%
effects_table("00")

# %% [markdown]
# Read the verdict. *null result* means that the 95 % interval over three seeds holds 0: AdaMix's own loss by merging
# is of that kind. The fall of adapters trained apart is not. What makes the difference? Lesson 01 looks at the
# routes, 02 at consistency, 03 at sharing and at averaging itself.
#
# ## Exercise: count the weights (five minutes)
#
# Bottlenecks of size r at width d, M experts at each of L sites. How many weights are trained, and how many are left
# after merging? With `shared`, one way up serves all experts of a site. The count below makes a common mistake; the
# check names it. Biases count, the head does not.


# %%
def count(d, r, experts, sites, shared):
    trained = sites * experts * 2 * d * r
    merged = sites * 2 * d * r
    return trained, merged


attempt(check_count, count)

# %% [markdown]
# ## Where the library has it
#
# `attach`, `train`, `evaluate`, `merge` and `predict` are the five verbs of the README. The layer is
# `adamix_lab/core/mixture.py`; the training loop, on one screen, `adamix_lab/training/train.py`.

# %%
merged = merge(mixture)
sentences = ["food : we found the food lovely, whereas the film was awful."]
pd.DataFrame(predict(merged, tokenizer, sentences).numpy().round(3), columns=task.classes)

# %% [markdown]
# ## You can now
#
# 1. switch adapters off and on, and count them; 2. train AdaMix and read its table; 3. state the puzzle: good
# adapters trained apart average to a bad one.
#
# **Three questions.** 1. What does merging cost at inference? 2. AdaMix's merge is 4 points below its experts on
# three seeds, with an interval of 6: is it worse? 3. Which of the four ways needs four passes?
#
# <details><summary>Answers</summary>1. One adapter a layer, one pass: as much as a single adapter. 2. Three seeds
# cannot tell. 3. The ensemble.</details>
