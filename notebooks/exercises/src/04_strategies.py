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
# # Exercises 04 · Four ways to answer
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them: they say at once
# what does not fit yet, and why. What is tested only when your notebook is graded is whether the work is your own.
# Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · What does an answer cost?
#
# `M` experts in each of `L` blocks, one side shared, so that a route is one expert for each block. How many passes
# through the model does one answer take? `way` is `"merged"`, `"fixed"`, `"random"`, `"four"` (four random routes) or
# `"ensemble"` (all routes).


# %% answer="passes" minutes=6 difficulty=1 aims="an ensemble of M experts costs M passes"
def passes(way, M, L):
    """A whole number."""
    ### BEGIN SOLUTION
    return {"merged": 1, "fixed": 1, "random": 1, "four": 4, "ensemble": M**L}[way]
    ### END SOLUTION


# %% check="passes-one" points=1
for way in ("merged", "fixed", "random"):
    assert passes(way, 4, 2) == 1, f"{way}: one set of weights answers, in one pass."
print("One pass is one pass.")

# %% check="passes-many" points=2
assert passes("four", 8, 3) == 4, "Four routes are four passes, however many experts there are."
assert passes("ensemble", 4, 1) == 4, "One block with four experts: four routes."
assert passes("ensemble", 4, 2) == 16, "Each block chooses on its own: choices multiply, they do not add."
assert passes("ensemble", 4, 24) == 4**24, "24 blocks of four: 4 to the power of 24."
print("The ensembles are counted.")

# %% [markdown]
# ## 2 · Four ways, four numbers
#
# `routes [routes, rows, classes]` are the logits of every route, the first of them that of expert 0 in every block;
# `merged [rows, classes]` those of the merge. Return the accuracies as a dict of four floats, `"merged"`, `"fixed"`,
# `"ensemble"` (the mean of the routes' *probabilities*, then its answer), and `"random"`: what a route that is drawn at
# random gets right *on average*.


# %% answer="four" minutes=12 difficulty=2 aims="a random route is as good as the average of all routes"
def four_ways(routes, merged, labels):
    """A dict of four accuracies, from 0 to 1."""

    ### BEGIN SOLUTION
    def accuracy(scores):
        return float((scores.argmax(-1) == labels).float().mean())

    return {
        "merged": accuracy(merged),
        "fixed": accuracy(routes[0]),
        "ensemble": accuracy(routes.softmax(-1).mean(0)),
        "random": sum(accuracy(route) for route in routes) / len(routes),
    }
    ### END SOLUTION


# %% check="four-simple" points=1
labels = torch.tensor([0, 1, 1])
routes = torch.tensor([[[1.0, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [1, 0]]])
merged = torch.tensor([[0.0, 1], [1, 0], [1, 0]])
found = four_ways(routes, merged, labels)
assert set(found) == {"merged", "fixed", "ensemble", "random"}, f"Names {sorted(found)}: expected the four ways."
assert found["merged"] == 0, "The merge has logits of its own, and here it is right on none of the rows."
assert abs(found["fixed"] - 1) < 1e-6, "The first route is right on all three rows."
print("The merge and expert 0 are right.")

# %% check="four-random" points=1
routes = torch.tensor([[[1.0, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [1, 0]]])
found = four_ways(routes, routes[0], torch.tensor([0, 1, 1]))
assert abs(found["random"] - 2 / 3) < 1e-6, (
    f"{found['random']:.2f}: one route is right on 3 rows of 3, the other on 1: a random one gets 2/3 on average. "
    "Take each route's accuracy first, then the mean."
)
print("The random route is right.")

# %% check="four-ensemble" points=1
sure = torch.tensor([[[6.0, 0]], [[0, 1.5]], [[0, 1.5]]])
found = four_ways(sure, sure[0], torch.tensor([1]))
assert abs(found["ensemble"] - 1) < 1e-6, (
    "Averaging logits lets one very sure route decide. Here the probabilities are averaged: softmax first."
)
close = torch.tensor([[[5.0, 0]], [[0, 0.4]], [[0, 0.4]]])
assert four_ways(close, close[0], torch.tensor([0]))["ensemble"] == 1, (
    "That is a vote: how sure a route is counts, too."
)
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(four_ways)
### END HIDDEN TESTS
print("The ensemble is right.")

# %% [markdown]
# ## 3 · Jensen's inequality
#
# The loss of a row is $-\log p_y$, a convex function of the probability of its label. So the ensemble's loss is at most
# the mean of the routes' losses, on every row. For `p [routes, rows, classes]` (probabilities) return that gap,
# *mean of the losses minus loss of the mean*, `[rows]`, in nats.


# %% answer="jensen" minutes=8 difficulty=2 aims="the loss of the ensemble is the mean of its members' losses"
def jensen_gap(p, labels):
    """At least 0 on every row, [rows]."""
    ### BEGIN SOLUTION
    right = p[:, torch.arange(len(labels)), labels]
    return right.mean(0).log() - right.log().mean(0)
    ### END SOLUTION


# %% check="jensen-rows" points=1
p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
gap = jensen_gap(p, torch.tensor([0, 1]))
assert gap.shape == (2,), f"Shape {tuple(gap.shape)}: expected a number for each row."
assert abs(float(gap[1])) < 1e-6, "Routes that say the same: mean of the losses and loss of the mean are equal."
print("A gap for each row.")

# %% check="jensen-value" points=2
p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
gap = jensen_gap(p, torch.tensor([0, 1]))
assert (gap >= 0).all(), "Below 0: it is the mean of the losses minus the loss of the mean, not the other way round."
assert abs(float(gap[0]) - 0.2595) < 1e-3, (
    f"{float(gap[0]):.3f}: expected (-ln 0.9 - ln 0.2) / 2 + ln 0.55, 0.260 nats."
)
other = jensen_gap(p, torch.tensor([1, 1]))
assert abs(float(other[0]) - 0.4644) < 1e-3, "Look at the label's probability, not at the first class's."
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(jensen_gap)
### END HIDDEN TESTS
print("The gap is right.")

# %% [markdown]
# ## 4 · No such theorem for accuracy
#
# Build a case in which the ensemble is *less accurate than every one of its members*. Return `(p, labels)`: the
# probabilities of three routes on three rows with two classes, `p [3, 3, 2]`, and `labels [3]`.
#
# <details><summary>Hint</summary>On each row let two routes be right, but only just, and the third one very sure of the
# wrong answer.</details>


# %% answer="worse" minutes=12 difficulty=3 aims="an ensemble is never less accurate than its members"
def worse_than_all():
    """(p [3, 3, 2], labels [3])"""
    ### BEGIN SOLUTION
    right = torch.full((3, 3), 0.55) - 0.5 * torch.eye(3)
    return torch.stack([right, 1 - right], -1), torch.zeros(3, dtype=torch.long)
    ### END SOLUTION


# %% check="worse-probabilities" points=1
p, labels = worse_than_all()
assert p.shape == (3, 3, 2) and labels.shape == (3,), f"Shapes {tuple(p.shape)}, {tuple(labels.shape)}."
assert (p >= 0).all() and torch.allclose(p.sum(-1), torch.ones(3, 3)), "Probabilities: at least 0, and 1 for each row."
print("These are probabilities.")

# %% check="worse-all" points=2
p, labels = worse_than_all()
members = (p.argmax(-1) == labels).float().mean(1)
ensemble = (p.mean(0).argmax(-1) == labels).float().mean()
assert ensemble < members.min(), (
    f"Routes: {[round(float(m), 2) for m in members]} of the rows right; ensemble: {float(ensemble):.2f}. That is not "
    "below every one of them yet. Which rows does one very sure route turn?"
)
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(worse_than_all)
### END HIDDEN TESTS
print("Less accurate than each member, and the loss is still below their mean.")
