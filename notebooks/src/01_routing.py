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
# # 01 · Routing: what does a random route do?
#
# In lesson 00 AdaMix drew a random expert in each layer for each batch. Afterwards you will be able to
#
# 1. draw a route, replay it, and count how many there are;
# 2. say, with numbers, whether AdaMix's experts have become specialists;
# 3. tell a drawn route from a learned router.
#
# *Fifty minutes in class; half a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os

import pandas as pd
import torch

from adamix_lab import Router, load_task, load_twin
from adamix_lab.lessons.checks.routing import check_draw_route, check_number_of_routes
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.routing import (
    by_expert, draw_experts, draw_loads, flips, routing_explorer, specialist_gain, train_gates,
)  # fmt: skip
from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"
torch.set_num_threads(2)

task = load_task("aspects")
adamix = load_answers("adamix")  # what each of the 16 routes answers on 996 rows, stored with the project
explorer = routing_explorer(adamix)
explorer

# %% [markdown]
# Two blocks are adapted, with four experts each: 4 × 4 ways through. The map shows what each way answers to one row;
# your way is outlined. "Show me" finds a row where one changed expert flips the answer.

# %%
explorer.press("Show me")
explorer.picture

# %% [markdown]
# ## A route is drawn before the sentence is read
#
# The smallest code: a generator, and one number for each block.

# %%
generator = torch.Generator().manual_seed(7)
print("a route:", torch.randint(4, (2,), generator=generator).tolist())

# %% [markdown]
# The library's `Router` does the same as a function of three numbers: seed, step and view. So any step of any
# training can be replayed, and every process draws the same route. The sentence is not among its arguments: AdaMix
# learns no router. A route has two columns, for the way down and the way up. Here the way up is shared, so its column
# stays 0.

# %%
mixture, tokenizer = load_twin("adamix")
router = Router(mixture.space, seed=0)
for step in (0, 1, 0):
    print(f"step {step}: view 0 {router.route(step, 0).tolist()}, view 1 {router.route(step, 1).tolist()}")
print("routes there are:", mixture.space.number)

# %% [markdown]
# ## Do experts specialise?
#
# The evaluation rows come in 14 constructions ("but", "neither", "despite", ...). In many mixtures of experts one
# would look for an expert of each kind. Take the four experts of a block and one construction: how many points lie
# between the best and the worst, on average?

# %%
prediction = Prediction("Points between the best and the worst expert within a construction", unit="points")
prediction

# %% jupyter={"outputs_hidden": true}
draw_experts(adamix, task.evaluation, prediction.value)

# %% [markdown]
# Columns differ, rows hardly do. Some difference between four experts is there by chance alone, most of all in small
# constructions. A fair test: let half of the rows choose an expert for each construction, and one expert for all. On
# the other half, how much better is the tailored choice? With specialists it would pay.

# %%
names = [row["construction"] for row in task.evaluation]
for seed in range(3):
    answers = load_answers("adamix", seed)
    gain = 100 * specialist_gain(by_expert(answers, answers.right)[:, 0], names)
    print(f"seed {seed}: gain {gain.mean():5.2f} points, 95 % interval ± {1.96 * gain.std() / len(gain) ** 0.5:.2f}")

# %% [markdown]
# All three intervals hold 0. The same test with the loss, for both blocks and paired over seeds, stands in the effect
# table; so does what it was compared with, the difference between kinds of sentences.

# %%
effects_table("01", "construct")

# %% [markdown]
# This is a null result, and it is the lesson: under random routing every expert sees every kind of row, and nothing
# rewards an expert for being different. (In the last block the tailored choice is even slightly worse, by less than a
# tenth of a point.)
#
# ## Break it: change what training held together
#
# How often does a route's answer flip when one expert changes? AdaMix has a shared way up and a consistency loss. Its
# twins lack one or more of these.

# %%
twins = ["adamix", "no-consistency", "unshared-tied", "apart"]
rows = {twin: [100 * float(flips(load_answers(twin, seed)).mean()) for seed in range(3)] for twin in twins}
pd.DataFrame(rows, index=["seed 0", "seed 1", "seed 2"]).T.round(1)

# %% [markdown]
# Without sharing flips are several times as frequent. Without consistency they look more frequent, too, but three
# seeds cannot tell. Adapters trained apart flip least of all: each is simply better. Agreement alone says little
# about how experts came to agree.
#
# ## The contrast: a learned gate
#
# A Switch gate reads each token's hidden state and sends it to the most probable expert. Here gates are trained on
# AdaMix's experts, which stay as they are.

# %%
steps, rows_seen = (24, 96) if FAST else (40, 192)
gated = train_gates(mixture, task, tokenizer, steps=steps, rows=rows_seen, balance=0.0)
draw_loads(gated, names)

# %% [markdown]
# Nobody asked for it, but one expert of a block takes most tokens: the gate scales an expert's output by its own
# probability, so it learns to be sure, and the first favourite wins. Run the cell again with `balance=0.1`, a loss
# that asks for an even load.

# %%
effects_table("01", "gate")

# %% [markdown]
# The favourite is an effect on three seeds. Whether a balanced gate sends different constructions to different
# experts is a null result here: experts that are all alike leave nothing to choose by. A gate could learn who is good
# at what, if experts differed. It has to be balanced, and it cannot be merged, because a token's weights depend on
# the token. AdaMix gives up the first and gets the last.
#
# ## Exercise: a route that can be drawn again (ten minutes)
#
# Write `draw(seed, step, view)`: a route `[3, 2]` of experts 0 to 3, uniform, independent in every place, and the
# same whenever it is asked for again. The version below makes a common mistake.


# %%
def draw(seed, step, view):
    return torch.randint(4, (3, 2))


def number_of_routes(down, up, sites):
    return down * up * sites


attempt(check_draw_route, draw)
attempt(check_number_of_routes, number_of_routes)

# %% [markdown]
# ## Where the library has it
#
# Routes: `adamix_lab/core/routing.py`. What every route answers, computed by walking the tree of routes:
# `adamix_lab/fast/tree.py`. The gate: `adamix_lab/analysis/gate.py`.
#
# ## You can now
#
# 1. draw, replay and count routes; 2. say that AdaMix's experts are no specialists here, and how that was tested;
# 3. tell a drawn route from a learned router.
#
# **Three questions.** 1. How many routes have three blocks with two experts down and two up? 2. Why does a best
# expert for each construction exist in any table of numbers? 3. Why can a Switch gate's experts not be merged?
#
# <details><summary>Answers</summary>1. (2 × 2)³ = 64. 2. Something is always the largest; whether it stays so on
# other rows is the question. 3. Each token would need its own average.</details>

# %% [markdown]
# ## Further: an expert that is never drawn
#
# In n steps with two views each, an expert of four is missed with probability (3/4)^(2n). How many steps until a miss
# is rarer than one in a million?

# %%
pd.Series({n: 0.75 ** (2 * n) for n in (1, 5, 10, 20, 25)}, name="chance that an expert was never drawn")
