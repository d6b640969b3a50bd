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
# # 01 · Routing: write AdaMix in thirty lines
#
# You may have read that "intelligent routing directs documents to the relevant module". **It does not.** A
# *route*, one expert for each adapted block, is drawn by lot before any sentence is read. Nothing learns where a
# sentence should go, and after training one adapter is left. What is a route good for, then, and what does it cost? You
# find out by writing it.
#
# Afterwards you will be able to
#
# 1. write AdaMix's layer and its router, and run them inside MiniLM;
# 2. say, with numbers, whether the experts have become specialists;
# 3. tell a drawn route from a learned gate.
#
# *Fifty minutes in class; half a minute of computing. No network, no GPU.*

# %%
from adamix_lab import Router, load_backbone, load_task, load_twin
from adamix_lab.lessons import routing as lesson

lesson.draw_block(route=(2, 0))

# %% [markdown]
# ## Write the layer
#
# A block's layer holds M down-projections A, the experts, and an up-projection B, which they share. At each step one
# expert i is drawn, and the whole batch passes through it (Eq. 4):
#
# $$x \leftarrow x + \mathrm{GELU}(x A_i)\, B$$
#
# Make a text file `my_adamix.py` beside this notebook (File, New, Python File); it will grow through the lessons. Type
# this, and replace each `...` by code:
#
# ```python
# import torch
# from torch import nn
# from torch.nn import functional as F
#
#
# class Layer(nn.Module):
#     def __init__(self, d, r=16, M=4):
#         super().__init__()
#         self.A = nn.Parameter(0.02 * torch.randn(M, d, r))
#         self.B = ...  # a parameter [r, d] of zeros
#         self.expert = None  # an expert's number; None is the merge
#
#     def forward(self, x):
#         A = ...  # of the chosen expert; of the merge the mean of all
#         return ...
#
#
# def random_route(layers, M=4):
#     ...  # a list: for each layer an expert's number, from 0 to M - 1
# ```
#
# Save, run the next cell, mend what it names. For missing pieces lessons take the library's and say so.

# %%
lesson.check_program("Layer")
lesson.check_program("random_route")

# %% [markdown]
# The library's layer does the same, fast and tested. On MiniLM, with equal weights, both answer alike:

# %%
lesson.equal_to_library("Layer")

# %% [markdown]
# `insert` freezes MiniLM and puts a layer behind each of its top two blocks. Three routes, drawn by your function:

# %%
Layer, random_route = lesson.mine("Layer"), lesson.mine("random_route")
model, tokenizer = load_backbone("minilm", num_labels=2)
layers = lesson.insert(model, Layer)
batch = tokenizer(["the plot is thin , but the leads shine ."], return_tensors="pt")
for route in [random_route(layers) for _ in range(3)]:
    for layer, expert in zip(layers, route, strict=True):
        layer.expert = expert
    print(route, model(**batch).logits.tolist())

# %% [markdown]
# Other experts, the same answer: B is zero, so training starts from the frozen model.
#
# Two blocks of four experts have 4 × 4 = 16 routes; L blocks have $M^L$. Trained, they differ. Here are sixteen in one
# dimension, all trained together; light one after another.

# %%
lesson.sixteen_curves()

# %% [markdown]
# If one expert were for the left and one for the right, their curves would part there. They run side by side.
#
# ## One sentence, sixteen answers
#
# This AdaMix learned from 400 sentences about films whether a sentence tells an opinion (subjective) or the plot
# (objective). Type one, and change one expert.

# %%
mixture, tokenizer = load_twin("adamix", seed=20, data="noisy")
lesson.route_explorer(mixture, tokenizer, ("subjective", "objective"))

# %% [markdown]
# Which answer is AdaMix's? In training each in turn, then the merge's (lesson 03).
#
# ## How often does an expert move?
#
# The library's `Router` draws as you do, but as a function of seed, step, and *view* (a step has two passes, lesson
# 02). So any step can be drawn again. Count who was drawn for the first view in 300 steps:

# %%
router = Router(mixture.space, seed=0)
routes = [router.route(step, view=0)[:, 0].tolist() for step in range(300)]  # [block 5, block 6]
{f"expert {m}": [sum(route[block] == m for route in routes) for block in (0, 1)] for m in range(4)}

# %% [markdown]
# About a quarter each: an expert learns from the labels in 1/M of the steps, while B learns in all of them. Hence the
# lr/M of lesson 00's fair opponent. And hence "no load balancing needed" and "no added parameters for selecting
# modules" are true: chance is even, and has no weights.
#
# ## Do experts specialise?
#
# Another task, *aspects*, has sentences of 14 constructions ("but", "neither", ...). If experts were specialists, each
# construction would have a best expert. Something is always the best, so half of the rows choose an expert for each
# construction, and one for all; the other half tells what the tailored choice gains.

# %%
gain = lesson.Prediction(
    "Block 5, an expert for each construction instead of one for all: its accuracy on the other rows",
    ("higher", "alike", "lower", "not shown"),
)
gain

# %%
aspects = load_task("aspects")
truth = lesson.outcome("01", "block 5: an expert chosen by construction minus one for all, accuracy", "higher", "lower")
gain.then(
    lambda: [lesson.draw_experts(lesson.load_answers("adamix"), aspects.evaluation), lesson.forest("01", "block")],
    truth,
)

# %% [markdown]
# Rows differ a lot. Columns, the experts, differ much less, and some of that is chance.
# Each expert sees every kind of sentence, and nothing rewards it for being different. No gain is shown; where the
# verdict is *alike*, a gain that matters is ruled out.
#
# ## A learned gate
#
# A [Switch](https://arxiv.org/abs/2101.03961) gate reads each token and sends it to the expert that it finds most
# probable. Here gates are trained on AdaMix's experts, which stay as they are.

# %%
twin, words = load_twin("adamix")
loads = lesson.train_gates(twin, aspects, words, steps=24, rows=96, balance=0.0)
lesson.draw_loads(loads, [row["construction"] for row in aspects.evaluation])

# %% [markdown]
# One expert of a block takes most tokens (*shown*): the gate scales an expert's answer by its own certainty, so it
# learns to be sure, and the first favourite wins. **Break it:** `balance=0.1` adds a loss that asks for an even load.
# Whether a balanced gate then sends constructions to different experts is *not shown* here: experts that are alike
# leave nothing to choose by. And its experts cannot be merged, for each token would need an average of its own.
# [THOR](https://arxiv.org/abs/2110.04260) had found random routes to do as well as learned ones.
#
# ## Exercise: a route that can be drawn again (ten minutes)
#
# Write `draw(seed, step, view)`: a route `[3, 2]` of experts 0 to 3 for three blocks and two sides (down, up), uniform,
# independent in every place, and the same when asked for again. And count routes. Both are wrong below.


# %%
def draw(seed, step, view):
    import torch

    return torch.randint(4, (3, 2))


def number_of_routes(down, up, sites):
    return down * up * sites


lesson.attempt(lesson.check_draw_route, draw)
lesson.attempt(lesson.check_number_of_routes, number_of_routes)
lesson.brier([gain])

# %% [markdown]
# ## Where the library has it
#
# The layer: `adamix_lab/core/mixture.py`; routes: `adamix_lab/core/routing.py`; all routes of a sentence:
# `adamix_lab/fast/tree.py`; the gate: `adamix_lab/analysis/gate.py`. The test on ten seeds:
# `data/results/effects/make.py`.
#
# ## You can now
#
# 1. write AdaMix's layer and router; 2. say how specialists were looked for; 3. tell a drawn route from a learned gate.
#
# **Three questions.** 1. How many routes have three blocks with two experts down and two up? 2. Why does a best expert
# for each construction exist in any table of numbers? 3. Why can a Switch gate's experts not be merged?
#
# <details><summary>Answers</summary>1. (2 × 2)³ = 64. 2. Something is always the largest; whether it stays so on other
# rows is the question. 3. Each token would need its own average.</details>

# %% [markdown]
# ## Further: an expert that is never drawn
#
# In n steps with two views each, an expert of four is missed with probability (3/4)^(2n). How many steps until a miss
# is rarer than one in a million?

# %%
{n: f"{0.75 ** (2 * n):.1e}" for n in (1, 5, 10, 20, 25)}

# %% [markdown]
# ## Further: does sharing, or training together, make routes agree?
#
# The share of routes whose answer one changed expert turns round, over the thousand sentences that judge:

# %%
lesson.forest("01", "flips")
