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
# # 05 · Loss landscapes: what lies between experts?
#
# Some experts can be averaged, some cannot. What lies on the way between them? Afterwards you will be able to
#
# 1. measure a barrier, above the chord;
# 2. say what a line and a plane leave out;
# 3. read a picture of a landscape by its scale.
#
# *Sixty minutes in class; about a minute of computing on two CPU cores. No network, no GPU.*

# %%
import os

import pandas as pd
import torch
import torch.nn.functional as F

from adamix_lab import load_task, load_twin
from adamix_lab.analysis.landscape import task_batches
from adamix_lab.analysis.theory import AdapterLoss
from adamix_lab.lessons.checks.merging import check_barrier, check_plane
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.landscape import (
    barrier, beside_now, curvatures, draw_heights, edge, heights, landscape_viewer, likeness, load_faces, stored,
)  # fmt: skip
from adamix_lab.core.merging import weighted
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.widgets import Prediction

FAST = os.environ.get("ADAMIX_LAB_FAST", "1") == "1"
ROWS = 64 if FAST else 256
torch.set_num_threads(2)

beside_now("adamix", steps=11, rows=ROWS)

# %% [markdown]
# Each point of these pictures is a whole model: AdaMix's experts 0 and 1 and their merge span a plane in the space of
# weights, and colour is the loss there. The left one was measured beforehand; the right one came from the same call
# just now, with fewer points, and fewer rows: so its losses differ.
#
# Below, experts stand at the corners of triangles, as in lesson 03, and a segment between two of them is drawn beside
# them. AdaMix is always on the left. The dotted line is the *chord*.

# %%
viewer = landscape_viewer()
viewer

# %%
viewer.press("Show me")
viewer.picture

# %% [markdown]
# ## The smallest landscape
#
# A line: mix two experts' weights in five proportions, and ask for the loss each time.

# %%
mixture, tokenizer = load_twin("apart")
rows = load_task("aspects").evaluation[:ROWS]
batch = tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt")
labels = torch.tensor([row["label"] for row in rows])
for t in (0, 0.25, 0.5, 0.75, 1):
    point = weighted(mixture.space, [1 - t, t, 0, 0])
    with torch.no_grad():
        loss = F.cross_entropy(mixture(selection=point, **batch).logits, labels)
    print(f"t = {t:.2f}: {float(loss):.3f} nats")

# %% [markdown]
# ## How high is the barrier?
#
# The ends differ, so "how high" needs a level. If nothing stood in the way, the loss would run along the chord, from
# one end's loss to the other's. The **barrier** is the greatest height above it, or 0.

# %%
t, losses = edge(load_faces("apart"), 0, 1)
chord = (1 - t) * losses[0] + t * losses[-1]
print(f"above the chord: {float((losses - chord).max()):.3f} nats; the library: {barrier(t, losses):.3f}")
print(f"above the lowest point: {float(losses.max() - losses.min()):.3f} nats, which is no barrier")

# %% [markdown]
# A climb to a worse model is no barrier. Measured from the lowest point, it would count as one.
#
# ## From lines to the simplex
#
# Two experts span a line, three a triangle, four a tetrahedron, and the merge is its centre. Look at segments of
# adapters trained apart in the viewer. How high is the average of all four, above the mean of their four losses?

# %%
prediction = Prediction("Trained apart: the average of all four above the mean of their losses", unit="nats", high=2)
prediction

# %% jupyter={"outputs_hidden": true}
draw_heights(heights(), prediction.value)

# %%
effects_table("05", "minus AdaMix")

# %% [markdown]
# Averages of AdaMix's experts lie lower than those of experts that share nothing, and, of three or four, than those of
# adapters trained apart. (Of two, three seeds leave it open.) Between AdaMix and its twin without consistency nothing
# is shown; what both have is the shared way up.
#
# Does a pair tell the centre? From all six pairs, half of the rows choose the highest and the lowest; the other half
# measure them.

# %%
effects_table("05", "of six pairs")

# %%
effects_table("05", "above that of two")

# %% [markdown]
# Averaging four is not shown to be worse than averaging two; but pairs differ widely. Of adapters trained apart, the
# lowest pair's barrier cannot be told from 0, and the average of all four lies above it: **a line is not the simplex**.
# In the viewer, seed 2, their segment 2 - 3 has hardly a barrier. It fails in the other direction, too: on seed 0
# AdaMix's segment 1 - 3 has a barrier more than twice as high as the average of all four lies above its parts. (Both
# were picked after looking; the table's pairs were not.)
#
# ## Break it: choose the scale
#
# At the top of this lesson AdaMix's plane has a ridge that stands out. The same array beside experts that share
# nothing, on one scale:

# %%
stored("plane", ["adamix", "unshared-tied"])

# %% [markdown]
# Any landscape is a mountain on a scale of its own. Directions have scales, too: a long step is steeper than a short
# one. *Filter normalisation* makes each row of a random direction as long as the same row of the weights. Here are
# two such directions, around two merges:

# %%
stored("random", ["adamix", "apart"])

# %% [markdown]
# The merge of adapters trained apart lies in the flatter plane, and it is the worse model: flat is not low. And the
# hills between experts, which you know by now, are in neither picture. Two directions out of 25,000 would have to
# point at one of them by chance.
#
# How special is the direction toward another expert? From each expert, as far as the middles of its segments:

# %%
effects_table("05", "random direction")

# %% [markdown]
# That far away, a random direction goes uphill, too. Only where nothing is shared is the way to another expert shown
# to be steeper; for the other three, three seeds cannot tell.
#
# ## Exercise: a barrier, and a plane (fifteen minutes)
#
# Write `height(t, losses)`: the barrier of losses `[N]` at places t `[N]` from 0 to 1, not always evenly spaced. And
# `coordinates(a, b, c)` of three vectors: a lies at (0, 0), b at (width, 0), c at (along, height); three points on one
# line are refused with a `ValueError`. Both versions below make a common mistake.


# %%
def height(t, losses):
    return losses.max() - losses.min()


def coordinates(a, b, c):
    width = (b - a).norm()
    along = (c - a) @ (b - a) / width
    return width, along, (c - a - along * (b - a) / width).norm()


attempt(check_barrier, height)
attempt(check_plane, coordinates)

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/analysis/points.py` makes lines, planes and simplices; `landscape.py` beside it evaluates them, many
# points a pass, and has `barrier`. `adamix-lab landscape` does all of it.
#
# ## You can now
#
# 1. measure a barrier above the chord; 2. say what lines and planes leave out; 3. mind the scale of a picture.
#
# **Three questions.** 1. The loss climbs from 0.1 to 0.5 in a straight line. How high is the barrier? 2. A segment
# between two of four experts has a barrier. Must their merge be bad? 3. A plane looks flat. What do you ask?
#
# <details><summary>Answers</summary>1. 0: that is the chord. 2. No; nor must it be good where there is none: measure
# the merge. 3. On which scale of colours, in which directions, how long, around what loss?</details>

# %% [markdown]
# ## Further: curvature
#
# How a valley bends is said by second derivatives. Their matrix has as many rows as there are weights; its product
# with one direction costs two backward passes. Against differences of gradients:

# %%
few = task_batches(load_task("aspects"), tokenizer, rows=8)
at_merge = AdapterLoss(mixture, few)
direction = F.normalize(torch.randn(at_merge.size, generator=generator_for(0)), dim=0)
product, step = at_merge.hvp(direction), 0.05
differences = (at_merge.gradient(step * direction) - at_merge.gradient(-step * direction)) / (2 * step)
print(f"{at_merge.size:,} weights; cosine of the two: {float(F.cosine_similarity(product, differences, dim=0)):.4f}")
curvatures()

# %% [markdown]
# Over twelve stored sets of experts (two twins, two seeds, three stages), curvature at the merge goes up with the gap
# between merge and ensemble. The correlation says how loosely; sets that share a run are not independent.
#
# ## Further: how alike are experts?
#
# *Cosine* compares weights, the *angle* the spaces they span, *CKA* what experts add to the hidden states.

# %%
pd.DataFrame({name: likeness(name, batch) for name in ("adamix", "apart")}).round(2)

# %% [markdown]
# Experts trained apart add about as similar things to the hidden states as AdaMix's do, by CKA, and their weights are
# close to orthogonal. Alike in what they do, not in their weights: lesson 03's disorder once more (one seed, few rows).
#
# ## Further: stages of training
#
# The plane through the merges after 10, 40 and 100 % of the training:

# %%
stored("stages", ["adamix", "apart"])

# %% [markdown]
# AdaMix's merge gets better from stage to stage; that of adapters trained apart hardly does after the middle one
# (seed 0).
