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
# # Exercises 05 · Loss landscapes
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are
# run only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · How high is the barrier?
#
# `losses` were measured at equal steps along a line from one model (first) to another (last). The barrier is the
# greatest height above the *chord*, the straight line between the two ends' losses; 0 where the curve is never above
# it.


# %% answer="barrier" minutes=8 difficulty=1 aims="a barrier is the height above the lowest point"
def barrier(losses):
    """A number of at least 0."""
    ### BEGIN SOLUTION
    t = torch.linspace(0, 1, len(losses), dtype=losses.dtype)
    chord = (1 - t) * losses[0] + t * losses[-1]
    return float((losses - chord).max().clamp(min=0))
    ### END SOLUTION


# %% check="barrier-even" points=1
assert abs(barrier(torch.tensor([0.4, 0.9, 0.4])) - 0.5) < 1e-6, "Even ends at 0.4, a hill of 0.9: the barrier is 0.5."
assert barrier(torch.tensor([0.4, 0.4, 0.4])) == 0, "A level line has no barrier."
print("Even ends are right.")

# %% check="barrier-uneven" points=2
# These tests are run when your notebook is graded: ends of different loss, valleys.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(barrier)
got = barrier(torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
assert abs(got) < 1e-6, f"{got:.2f}: a straight climb to a worse model is no barrier, it is the chord."
got = barrier(torch.tensor([1.0, 0.1, 0.2]))
assert abs(got) < 1e-6, f"{got:.2f}: a valley between the ends is no barrier."
got = barrier(torch.tensor([0.2, 0.9, 1.0, 1.1, 1.0]))
assert abs(got - 0.5) < 1e-6, f"{got:.2f} where 0.50 was expected: above the chord at that place, not above an end."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · Walk from one model to the other
#
# `loss(weights)` is a model's loss, a number, for a vector of weights. Give the losses at `points` evenly spaced places
# on the straight way from `first` to `second`, both ends included, as a list. The two vectors stay as they are. It is
# the heart of `line` in your `my_adamix.py`.


# %% answer="line" minutes=10 difficulty=2 aims="between two models the loss lies between their losses"
def line(loss, first, second, points):
    """A list of so many losses."""
    ### BEGIN SOLUTION
    return [loss((1 - t) * first + t * second) for t in torch.linspace(0, 1, points).tolist()]
    ### END SOLUTION


# %% check="line-ends" points=1
def bowl(weights):
    return float(weights.square().sum())


one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
losses = line(bowl, one, other, 3)
assert len(losses) == 3, f"{len(losses)} losses: expected one a place, three of them."
assert abs(losses[0] - 1) < 1e-6 and abs(losses[-1] - 1) < 1e-6, (
    "It begins at `first` and ends at `second`: both lose 1."
)
print("Both ends are there.")

# %% check="line-between" points=2
# These tests are run when your notebook is graded: the way between, its direction, and what is left of the two models.
### BEGIN HIDDEN TESTS
one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
got, expected = line(bowl, one, other, 5), [(1 - t) ** 2 + 9 * t**2 for t in (0, 0.25, 0.5, 0.75, 1)]
assert len(got) == 5 and all(abs(a - b) < 1e-5 for a, b in zip(got, expected, strict=True)), (
    f"{[round(loss, 3) for loss in got]} where {expected} was expected: mix the weights, from `first` to `second`, and "
    "ask for the loss there. Mixed losses are the chord."
)
assert torch.equal(one, torch.tensor([1.0, 0.0])) and torch.equal(other, torch.tensor([0.0, 3.0])), (
    "The two models have changed: make new vectors on the way."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · A random direction of the right size
#
# Weights can be scaled without changing what a network computes, so a random direction looks flat or steep by its
# scale alone. Filter normalisation (Li et al., 2018): scale each *row* of the random `direction` to the norm of the
# same row of `weights` (both `[rows, columns]`). Where a row of the direction is zero, it stays zero.


# %% answer="filters" minutes=8 difficulty=2 aims="a landscape that looks flat is flat"
def normalise(direction, weights):
    """The direction, row by row as long as the weights."""
    ### BEGIN SOLUTION
    length = direction.norm(dim=1, keepdim=True)
    return direction * weights.norm(dim=1, keepdim=True) / length.where(length > 0, torch.ones_like(length))
    ### END SOLUTION


# %% check="filters-one" points=1
d, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 10.0]])
assert torch.allclose(normalise(d, w), torch.tensor([[6.0, 8.0]])), "One row: length 5 becomes length 10."
print("One row is right.")

# %% check="filters-many" points=2
# These tests are run when your notebook is graded: several rows, and a row of zeros.
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(1)
d, w = torch.randn(4, 6, generator=g), torch.tensor([[0.1], [1.0], [10.0], [100.0]]) * torch.randn(4, 6, generator=g)
got = normalise(d, w)
assert torch.allclose(got.norm(dim=1), w.norm(dim=1), rtol=1e-4), "Each row is to be as long as the weights' row."
assert torch.allclose(torch.nn.functional.cosine_similarity(got, d, dim=1), torch.ones(4), atol=1e-5), "It turned."
d[2] = 0
assert torch.isfinite(normalise(d, w)).all(), "A row of zeros has no length to divide by: it stays zero."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Predict: a line is not the simplex
#
# Suppose that on the straight line between each two of four models there is no barrier at all. Is the *mean of all
# four* then sure to have a low loss, too? Set `sure` to `True` or `False`.

# %% answer="simplex" minutes=3 difficulty=2 aims="no barrier between pairs means no barrier anywhere between"
sure = None
### BEGIN SOLUTION
sure = False
### END SOLUTION

# %% check="simplex-verdict" points=1
assert sure in (True, False), "Set sure to True or False."
### BEGIN HIDDEN TESTS
assert sure is False, (
    "Edges of a tetrahedron say nothing about its centre: there, every difference is averaged at once."
)
### END HIDDEN TESTS
