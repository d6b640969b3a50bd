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
# # 03 · Merging: average the weights
#
# Four experts are trained, one is shipped: the mean of their weights. Whoever uses it hopes for the mean of their
# *answers*. **When is the average of functions the function of averages?** Afterwards you will be able to
#
# 1. say of a layer, before anything is measured, whether its merge is exact;
# 2. find mixtures that are worse than each of their parts, and an architecture that has none;
# 3. say what exactness costs where labels are wrong.
#
# *Fifty minutes in class, about a minute of computing. No network, no GPU. Before: lessons 01 and 02.*

# %%
from adamix_lab.lessons import merging as lesson

lesson.draw_question()

# %% [markdown]
# Four experts, and the mean of their answers, the *ensemble* (dashed), which runs all four. They share the
# up-projection, as in AdaMix. Merging (Eq. 6) leaves one, with
#
# $$\bar A = \tfrac1M \sum_i A_i, \qquad \bar B = \tfrac1M \sum_j B_j.$$
#
# The picture leaves the merge out.

# %%
side = lesson.Prediction(
    "Which side do the experts have to share for the merge to lie exactly on the dashed curve?",
    answers=("the up-projection, as in AdaMix", "the down-projection", "either of them"),
)
side

# %%
side.then(lesson.sides_explorer, "the down-projection")

# %% [markdown]
# **A correction, in bold.** Earlier versions of this lesson taught that the shared up-projection is what makes the
# merge work. *That was wrong.* It is the side that leaves a gap. Write down the mean over all routes of one
# bottleneck, with $f$ the GELU between the two projections:
#
# $$\frac1{M^2} \sum_{i,j} f(x A_i)\, B_j \;=\; \Big( \frac1M \sum_i f(x A_i) \Big)\, \bar B .$$
#
# The merge is $f(x \bar A)\, \bar B$. The up-projection $B$ enters *affinely*, as it is, times something, plus
# something; a mean goes straight through it. The down-projection stands inside of $f$, and a mean does not go through
# a GELU. **The rule: per layer and for a given input, the merge equals the mean of its routes in every side that
# enters affinely and is drawn independently.** So a shared *down*-projection is exact. A shared *up*-projection is
# not, and its gap grows with the experts' distance, which the slider moved.
#
# Over two layers it is an approximation in any case: the second layer's input depends on the route. (Here, below
# 0.004.)
#
# ## The rule on MiniLM

# %%
lesson.draw_gaps(lesson.layer_gaps())

# %% [markdown]
# Layer by layer. [LoRA](https://arxiv.org/abs/2106.09685) has no $f$: its update is $x A_i B_j$, affine in both
# sides. It is exact with either side shared, and with none shared if both are drawn independently. *Tied* experts,
# where $A_i$ only ever meets $B_i$, break the second half of the rule: the last two lines are the same four LoRAs,
# and only the drawing differs. LoRAs that somebody trained apart are tied.
#
# **Break it.** The smallest failure of tied pairs: change both signs, and the update is the same.

# %%
import torch

A, B = torch.randn(6, 2, generator=lesson.generator_for(1)), torch.randn(2, 5, generator=lesson.generator_for(2))
print("equal updates:", torch.equal(A @ B, (-A) @ (-B)))
print("update of the averaged factors:", float((((A - A) / 2) @ ((B - B) / 2)).norm()))

# %% [markdown]
# ## The merge, written by you
#
# The next piece of your `my_adamix.py`:
#
# ```python
# def merge_layer(layer):
#     """A copy of the layer with one expert, the average: its A is [1, d, r]; the layer itself stays as it is."""
# ```
#
# <details><summary>Hint</summary>`copy.deepcopy(layer)`, then a new `nn.Parameter` of `layer.A.detach().mean(0,
# keepdim=True)`.</details>

# %%
lesson.check_program("merge_layer")
merge_layer = lesson.mine("merge_layer")
lesson.equal_to_library("merge_layer")

# %% [markdown]
# ## The triangle that cannot fail
#
# A **mixture point** weighs experts with shares that sum to 1: a route is a corner, the merge the centre. One
# triangle has three adapters trained *apart* on made-up reviews ("aspects") at its corners, each right on nearly all
# rows. The other has experts that share the down-projection. Each layer is affine in their shares, and cross-entropy
# is convex in the answers, so no mixture is worse than its worst corner, up to what a second layer adds.

# %%
worse = lesson.Prediction(
    "How large is the loss in the middle of three adapters trained apart, whose own losses are about 0.002?",
    answers=("less than 0.002", "up to ten times as large", "more than a hundred times as large"),
)
worse

# %%
apart, down = lesson.ground_of("apart"), lesson.ground_of("down", 20, "noisy")
worse.then(lambda: lesson.mixing_triangle(apart), "more than a hundred times as large")

# %%
worse.then(lambda: lesson.mixing_triangle(down, highest=0.7))

# %%
lesson.forest("03", "alone, accuracy")

# %% [markdown]
# With the down-projection shared, merge and experts are *alike* in both worlds. On "aspects" adapters trained apart
# lose 20 to 29 points by merging, AdaMix 3 to 7: on each of three seeds, too few for a verdict (*not shown*). On
# sentences, after 300 steps, AdaMix's merge loses nothing on average, and adapters trained apart, for 150, lose five
# points (*shown*). So the gap is one that experts *can* fall into when they are far apart.
#
# ## Why, then, does AdaMix share the up-projection?
#
# The paper compares both sides in its Table 11, on two large tasks: 90.9 and 97.1 with up shared, 90.8 and 97.1 with
# down shared: nearly equal. And on few sentences with wrong labels?

# %%
cost = lesson.Prediction(
    "400 sentences, a quarter of the labels wrong: which merge is more accurate?",
    answers=("up shared (AdaMix)", "down shared (exact)", "not shown", "alike"),
)
cost

# %%
truth = lesson.outcome("03", "wrong labels: up minus down shared, the merge's accuracy", *cost.answers[:2])
cost.then(lambda: lesson.forest("03", "the merge's accuracy"), truth)

# %% [markdown]
# **Exactness has a price.** With wrong labels the exact side is less accurate, on every seed, with consistency and
# without: by four points (*shown*). So is an expert alone: the reason lies in what is learned. With right labels the
# sides are *alike* in accuracy. One reading: a side that is not shared learns only when its expert is drawn, a quarter
# of the time, and AdaMix so trains its nonlinear half slowly; lesson 07 tests that. Every result here names its side:
# up, the paper's, unless it says otherwise.
#
# ## Equal functions are not enough
#
# The *units* of a bottleneck, between its projections, have no order.
# Permute them, down and up alike, and the function is the same. Take
# *one* good adapter and three copies of it with their units in other orders: four equal functions. Their average?


# %%
def permuted(weights):
    return lesson.permuted_copies(weights, expert=0, generator=lesson.generator_for(0))


print(lesson.tell_merge("one adapter, permuted", permuted))

# %% [markdown]
# Weights have to mean the same in the same place.
#
# ## Exercise: align (fifteen minutes)
#
# Put the units back into order before averaging, after [Git Re-Basin](https://arxiv.org/abs/2209.04836). Write
# `align(reference, expert)`; an expert is a dict of `down` `[r, d]`, `down_bias` `[r]`, `up` `[d, r]`, `up_bias`
# `[d]`. This version forgets something.


# %%
def align(reference, expert):
    best = (reference["down"] @ expert["down"].T).argmax(1)
    return {**expert, "down": expert["down"][best]}


lesson.attempt(lesson.check_align, align)

# %% [markdown]
# ## Where the library has it
#
# `adamix_lab/core/merging.py` has the merge, soups, and `merge_gap`, which measured the layers above.
#
# ## You can now
#
# 1. say which merges are exact; 2. find mixtures that fail; 3. say what exactness costs.
#
# **Three questions.** 1. Is merging ensembling? 2. Two models answer every row alike. May their weights be averaged?
# 3. Which side makes a bottleneck's merge exact, and which one does AdaMix share?
#
# <details><summary>Answers</summary>1. In one layer, where the rule holds; over a network nearly, or not at all. 2.
# Not for that reason. 3. Sharing down; AdaMix shares up.</details>

# %%
print(lesson.brier([side, worse, cost]))
lesson.progress()

# %% [markdown]
# ## Further: repair what was trained apart
#
# No training: each expert's units in the order that fits expert 0's best, then the mean.

# %%
print(lesson.tell_merge("apart, aligned", lesson.aligned))
lesson.effects_table("03", "aligned")

# %% [markdown]
# ## Further: merge and ensemble over the whole network
#
# Even where each layer is exact, LayerNorm, attention and the next layer stand between. On how many of 1,000
# sentences do the merge and the average over all routes give different answers?

# %%
lesson.effects_table("03", "the merge and the ensemble")
