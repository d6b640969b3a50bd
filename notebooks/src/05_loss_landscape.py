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
# # 05 · The loss landscape between experts
#
# Two adapters of the one-dimensional world fit the same rows equally well (green). Their averaged weights (blue) fit
# nothing. AdaMix averages weights, too, and loses almost nothing.
#
# **Why does averaging work here, and not there?** Afterwards you will be able to
#
# 1. measure the barrier between two models, above the chord;
# 2. name two reasons for a barrier, and take one of them away without training;
# 3. say what a line, a plane and a flat picture leave out.
#
# *Fifty minutes in class, one of computing. No network, no GPU.*

# %%
from adamix_lab.lessons import landscape as lesson

lesson.draw_segment(lesson.segment(t=0.5, near=1.0, order="as trained")).picture

# %% [markdown]
# ## One dimension: walk from one expert to the other
#
# A *mixture* of two experts has the weights $(1 - t)\,W_0 + t\,W_1$. As $t$ grows, the blue curve leaves the first
# expert and comes back as the second. The right panel draws its error at every $t$. The **chord** is the straight
# line between the ends: the error if nothing stood in the way. The greatest height above it is the **barrier**
# ([Frankle et al., 2020](https://arxiv.org/abs/1912.05671)).
#
# Both adapters are trained apart, on the same rows, from first weights as far apart as you choose. A *unit* is one of
# the twelve bends inside an adapter. Break it: "permute" puts the units of expert 1 into another order.

# %%
lesson.segment_explorer()

# %% [markdown]
# ## Predict: the same function, in another order
#
# Inside an adapter, $f(x) = U\,\mathrm{GELU}(D x)$, and its units have no order. For a permutation matrix $P$, $(U
# P^\top)\,\mathrm{GELU}(P D x) = f(x)$, because GELU works on each unit alone. A permuted copy *is* the same
# function, for every sentence.
#
# Now on real weights: an adapter of MiniLM, and a copy of it with its units permuted. What is the loss half-way?

# %%
prediction = lesson.Prediction(
    "Half-way between an adapter and its permuted copy, the loss is ...",
    answers=("as at the ends", "above the ends", "below the ends"),
)
prediction

# %%
prediction.then(lambda: lesson.plot_landscapes({"permuted copies": lesson.scan("permuted copies")}), "above the ends")

# %% [markdown]
# Both ends are one function, and between them stands a wall: a main reason why networks trained apart cannot be
# averaged ([Entezari et al., 2022](https://arxiv.org/abs/2110.06296)). *Alignment* looks for the order of units that
# fits the other model best ([Ainsworth et al., 2023](https://arxiv.org/abs/2209.04836)). Averages of four, on the
# made-up task "aspects", three seeds:

# %%
lesson.forest("05", "order of units")

# %% [markdown]
# Both are *shown*. What one dimension hides: MiniLM is more forgiving, for there independent small starts are near each
# other in what the units compute.
#
# ## On real sentences: three ways to get four experts
#
# MiniLM, 400 sentences, a quarter of their labels wrong. AdaMix trains four experts for 300 steps of two passes.
# *Apart* are four single adapters of 150 steps each: the same compute. *One start* gives those four the same first
# weights. From expert 0 to expert 1, seed 20:

# %%
names = ("adamix", "apart", "aligned (apart)", "one start (apart)")
lesson.plot_landscapes({name: lesson.scan(name, steps=11) for name in names})

# %% [markdown]
# AdaMix has no wall here, adapters trained apart have one, and either cure lowers it.
#
# ## Write the scan yourself
#
# The next piece of your `my_adamix.py`: losses at evenly spaced places between two experts, of numbers `first` and
# `second`. Put each mixture into all of `A`, for the merge of equal experts is that expert; and put the old weights
# back. Fill in the dots:
#
# ```python
# @torch.no_grad()
# def line(model, layers, batch, labels, first, second, points=11):
#     ...  # for t from 0 to 1: every layer's A becomes (1 - t) A[first] + t A[second]
#     return losses
# ```

# %%
lesson.check_program("line")
line, layer, step = lesson.mine("line"), lesson.mine("Layer"), lesson.mine("step")
for start in (1, 25):
    losses = line(*lesson.small_adamix(layer, step, start), 0, 1)
    print(f"first weights {start:2} times as large:", *(f"{loss:.2f}" for loss in losses))

# %% [markdown]
# That was your own AdaMix, on points. Larger first weights are farther apart: a wall, although a side is shared.
#
# ## From the line to the merge
#
# The paper compares the loss of averaged weights with that of averaged answers, the ensemble:
#
# $$L_{AM} - L_{Ens} = L\bigl(f(x; \mathbb{E}\,W)\bigr) - L\bigl(\mathbb{E}\,f(x; W)\bigr)$$
#
# Near 0, merging gives nothing away. And apart, at *equal compute*, half the steps each?

# %%
second = lesson.Prediction(
    "Whose merge lies farther above its own ensemble, in loss?", answers=("AdaMix", "trained apart", "not shown")
)
second

# %%
second.then(lambda: [lesson.forest("05", "sentences: "), lesson.forest("05", "compared")], "trained apart")

# %% [markdown]
# AdaMix's merges are *alike* to their ensembles, with either side shared, with consistency and without. Apart, and with
# nothing shared, the merge is *shown* to lie above it, by 0.17 to 0.19 nats; with one start, by 0.03. Averaging works
# here because of a shared side or one start, not because of consistency. Trained for 300 steps from one start, the
# merge lies even *below* its ensemble (*shown*).
#
# ## Is it flatness?
#
# The paper explains a small difference by a flat loss around the merge. To second order it is
#
# $$-\tfrac12\,\mathbb{E}\,\delta^\top \nabla^2 L\;\delta + \tfrac12\,\mathbb{E}\,\mathrm{Var},$$
#
# where $\delta$ leads from the merge to a route. Flatness alone does not decide: the *distance* $\delta$ stands there
# squared, and the formula holds for short distances only. The *residual* is what it leaves unexplained (seed 20):

# %%
lesson.gaps({"AdaMix": "adamix", "one start": "apart-same-start", "apart": "apart"}).round(3)

# %% [markdown]
# ## Planes and simplices, on one scale
#
# Three experts are the corners of a *simplex*, a triangle of mixtures. Mind the scale: on one of its own, each picture
# would be a mountain. Experts of "aspects", trained longer; the plane's merge is of four experts, the triangle's mean
# of three:

# %%
planes = {name: lesson.landscape_of(name, "plane", steps=7, rows=32, device="cpu") for name in ("adamix", "apart")}
lesson.plot_landscapes(planes)

# %%
lesson.stored("triangle", ["adamix", "apart"])

# %% [markdown]
# On a GPU, add `device="cuda"` to the same call. *Further* shows what that buys: all six blocks, all rows and 101 × 101
# points.
#
# ## Exercise: the barrier (ten minutes)
#
# Write `height(t, losses)`, the barrier; places t run from 0 to 1, not always evenly. Below is a common mistake.


# %%
def height(t, losses):
    return losses.max() - losses.min()


lesson.attempt(lesson.check_barrier, height)

# %% [markdown]
# ## Where the library has it
#
# `analysis/points.py`, `landscape.py` and `theory.py` beside it; `adamix-lab landscape` for a folder of yours.
#
# ## You can now
#
# 1. measure a barrier above the chord; 2. name two reasons for it; 3. mind distance and scale, not flatness alone.
#
# **Three questions.** 1. The loss climbs from 0.1 to 0.5 in a straight line. How high is the barrier? 2. Two models
# compute the same function. Is their average that function? 3. A merge lies in a flat valley. What else do you ask?
#
# <details><summary>Answers</summary>1. 0: that is the chord. 2. Not in general: their units may stand in another order.
# 3. How far apart the experts are, and how low the valley is: flat is not low.</details>

# %%
lesson.brier([prediction, second])

# %% [markdown]
# ## Further: flat is not low
#
# Two random directions around each merge, every row of them as long as the same row of the weights ([Li et al.,
# 2018](https://arxiv.org/abs/1712.09913)). In these pictures the merge of adapters trained apart lies in the flatter
# plane, and it is the worse model.

# %%
lesson.stored("random", ["adamix", "apart"])

# %% [markdown]
# ## Further: the made-up task
#
# On "aspects", after 1,400 steps at a higher rate, experts have moved farther. Without consistency the merge pays for
# it (*shown*); with it three seeds are too few for a verdict:

# %%
lesson.forest("05", "aspects: ")

# %% [markdown]
# ## Further: all six blocks, on a GPU
#
# Adapters in every block, loss of all 996 rows of "aspects" at 101 × 101 points of a plane through two experts and the
# merge: two minutes on one NVIDIA H200 (one seed, so a picture and no effect). MiniLM's weights were rounded to half
# precision for the journey. The commands: `adamix-lab train --task aspects --top-blocks 0 --steps 1400 --lr 0.003
# --head-lr 0.004 --bucket 1 --out runs/six`, then `adamix-lab landscape runs/six/seed0 --points 101 --batch-size 1024`.

# %%
lesson.stored("plane", ["six-blocks"])
