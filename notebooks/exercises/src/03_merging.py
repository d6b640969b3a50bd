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
# # Exercises 03 · Merging
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are run
# only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · The merge
#
# `experts` holds a layer's weights by name, each stacked over copies: `down [M, r, d]`, `up [1, d, r]`, ... A side that
# all experts share has one copy. Return the merged layer: one weight for each name, without the axis of copies (Eq. 6).


# %% answer="merge" minutes=6 difficulty=1 aims="a side with one copy needs another rule, or is divided by M"
def merge(experts):
    """The mean over copies of each weight."""
    ### BEGIN SOLUTION
    return {name: weight.mean(0) for name, weight in experts.items()}
    ### END SOLUTION


# %% check="merge-form" points=1
layer = {"down": torch.ones(4, 2, 5), "up": torch.ones(1, 5, 2)}
merged = merge(layer)
assert set(merged) == set(layer), "The merged layer has the same weights by the same names."
assert merged["down"].shape == (2, 5), "One weight [r, d] is left of four [4, r, d]."
assert len(layer["down"]) == 4, "The experts themselves stay as they are."
print("One module is left.")

# %% check="merge-values" points=2
# These tests are run when your notebook is graded: means, of a shared side, too.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(merge)
g = torch.Generator().manual_seed(5)
layer = {"down": torch.randn(3, 2, 5, generator=g), "up": torch.randn(1, 5, 2, generator=g)}
merged = merge({name: weight.clone() for name, weight in layer.items()})
assert torch.allclose(merged["down"], (layer["down"][0] + layer["down"][1] + layer["down"][2]) / 3, atol=1e-6)
assert torch.allclose(merged["up"], layer["up"][0], atol=1e-6), "One copy, shared by all: its mean is itself."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · Two equal updates, and nothing on average
#
# A LoRA update is a product `B @ A`, with `A [r, d]` and `B [d, r]`. Given one, make a second one with *the same
# product*, so that the average of the two `A`s is zero, and the average of the two `B`s too.


# %% answer="cancel" minutes=6 difficulty=2 aims="averaging models that compute the same keeps what they compute"
def same_update_zero_mean(A, B):
    """(A2, B2) with B2 @ A2 = B @ A, A + A2 = 0 and B + B2 = 0."""
    ### BEGIN SOLUTION
    return -A, -B
    ### END SOLUTION


# %% check="cancel-product" points=1
g = torch.Generator().manual_seed(0)
A, B = torch.randn(2, 5, generator=g), torch.randn(5, 2, generator=g)
A2, B2 = same_update_zero_mean(A, B)
assert A2.shape == A.shape and B2.shape == B.shape, "The second update has the shapes of the first."
assert torch.allclose(B2 @ A2, B @ A, atol=1e-5), "Both products have to be the same update."
print("The same update.")

# %% check="cancel-mean" points=2
# These tests are run when your notebook is graded: what merging the two gives.
### BEGIN HIDDEN TESTS
merged = ((B + B2) / 2) @ ((A + A2) / 2)
assert merged.abs().max() < 1e-5, "The merge of the two still updates something: its factors are not zero."
assert (A + A2).abs().max() < 1e-5 and (B + B2).abs().max() < 1e-5, "Both means are to be zero."
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · Mean of products, product of means
#
# `As [M, r, d]` and `Bs [M, d, r]` are the factors of M LoRA experts. On average over routes the layer is updated by a
# mean of products: over the M pairs if the sides are `tied` (`B_i` only meets `A_i`), over all M² pairs if they are
# independent (any `B_j` meets any `A_i`). Merging gives the product of means. Return how far the merge is from the
# average update: the Frobenius norm of their difference.


# %% answer="gap" minutes=12 difficulty=2 aims="the mean of products is the product of means"
def merge_gap(As, Bs, tied):
    """‖mean of products − product of means‖."""
    ### BEGIN SOLUTION
    pairs = Bs @ As if tied else (Bs[:, None] @ As[None]).flatten(0, 1)
    return (pairs.mean(0) - Bs.mean(0) @ As.mean(0)).norm()
    ### END SOLUTION


# %% check="gap-one" points=1
assert merge_gap(A[None], B[None], tied=True) < 1e-5, "One expert: nothing to average, so no gap."
assert merge_gap(torch.stack([A, A]), torch.stack([B, B]), tied=True) < 1e-5, "Two equal experts: no gap."
print("Equal experts merge without a gap.")

# %% check="gap-many" points=2
# These tests are run when your notebook is graded: experts that differ, tied and not.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(merge_gap)
As, Bs = torch.randn(4, 2, 5, generator=g), torch.randn(4, 5, 2, generator=g)
free, tied = float(merge_gap(As, Bs, tied=False)), float(merge_gap(As, Bs, tied=True))
expected = float((torch.stack([b @ a for a, b in zip(As, Bs, strict=True)]).mean(0) - Bs.mean(0) @ As.mean(0)).norm())
assert free < 1e-4, f"{free:.3f}: over all pairs the mean of products is exactly the product of means."
assert abs(tied - expected) < 1e-4, f"{tied:.3f} where {expected:.3f} was expected for tied experts."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Which side?
#
# A bottleneck expert answers `gelu(x @ A.T) @ B.T`. `downs [M, r, d]` and `ups [N, d, r]` hold the copies of both
# sides, and a route takes any A with any B. Return how far the merged layer is from the mean of all M N routes on
# inputs `x [rows, d]`: the Frobenius norm of the difference of the two *outputs*. Then try it with one A, and
# with one B.


# %% answer="side" minutes=12 difficulty=3 aims="one shared up-projection is what makes the average exact"
def bottleneck_gap(downs, ups, x):
    """‖mean over routes of outputs − output of the mean weights‖."""
    ### BEGIN SOLUTION
    gelu = torch.nn.functional.gelu
    routes = torch.stack([gelu(x @ a.T) @ b.T for a in downs for b in ups])
    return (routes.mean(0) - gelu(x @ downs.mean(0).T) @ ups.mean(0).T).norm()
    ### END SOLUTION


# %% check="side-one" points=1
x = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
assert bottleneck_gap(A[None], B[None], x) < 1e-5, "One copy on each side: one route, and the merge is that route."
print("A single adapter is its own merge.")

# %% check="side-many" points=2
# These tests are run when your notebook is graded: many A with one B, one A with many B, many of both.
### BEGIN HIDDEN TESTS
refuse_library(bottleneck_gap)
As, Bs = 2 * torch.randn(4, 2, 5, generator=g), torch.randn(3, 5, 2, generator=g)
gelu = torch.nn.functional.gelu
expected = torch.stack([gelu(x @ a.T) @ Bs[0].T for a in As]).mean(0) - gelu(x @ As.mean(0).T) @ Bs[0].T
got = float(bottleneck_gap(As, Bs[:1], x))
assert abs(got - float(expected.norm())) < 1e-3, "Four A and one B: the GELU stands between, so a gap is left."
got = float(bottleneck_gap(As[:1], Bs, x))
assert got < 1e-4, f"{got:.3f}: one A and three B are exact, for B enters as it is."
got = float(bottleneck_gap(As, Bs, x))
mean = torch.stack([gelu(x @ a.T) for a in As]).mean(0)
expected = (mean - gelu(x @ As.mean(0).T)) @ Bs.mean(0).T
assert abs(got - float(expected.norm())) < 1e-3, "Four A and three B make twelve routes, each A with each B."
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · Predict: which merges are exact?
#
# Say of each whether, in one layer and for one input, the merge equals the mean over its routes (`True` or `False`): a
# bottleneck whose *up* is shared, one whose *down* is shared; a LoRA with B *shared*, with both sides drawn
# *independently*, and *tied*.

# %% answer="exact" minutes=4 difficulty=2 aims="merging is ensembling"
exact = {"up": None, "down": None, "shared": None, "independent": None, "tied": None}
### BEGIN SOLUTION
exact = {"up": False, "down": True, "shared": True, "independent": True, "tied": False}
### END SOLUTION

# %% check="exact-form" points=0
assert set(exact) == {"up", "down", "shared", "independent", "tied"}, "Five verdicts, by these names."
print("Five verdicts are there.")

# %% check="exact-verdicts" points=2
# These tests are run when your notebook is graded.
### BEGIN HIDDEN TESTS
right = {"up": False, "down": True, "shared": True, "independent": True, "tied": False}
assert exact == right, "Ask bottleneck_gap and merge_gap with experts of your own."
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · The same adapter, other order
#
# The units of a bottleneck have no order: `down [r, d]` with its rows permuted, and `up [d, r]` with its columns
# permuted alike, is the same function, and yet averages badly with the original. You are given an adapter `a` and a
# permuted, slightly noisy copy `b`. Put `b` in `a`'s order, so that merging works again: return `(down, up)` of `b`,
# aligned.
#
# <details><summary>Hint</summary>For each row of a's down-projection, which row of b's looks most like it?</details>


# %% answer="align" minutes=15 difficulty=3 aims="averaging needs equal functions (it needs aligned weights)"
def align(down_a, up_a, down_b, up_b):
    """b's weights in a's order of units: (down [r, d], up [d, r])."""
    ### BEGIN SOLUTION
    order = (down_a @ down_b.T).argmax(1)  # for each of a's units, b's most alike
    return down_b[order], up_b[:, order]
    ### END SOLUTION


# %% check="align-same" points=1
g = torch.Generator().manual_seed(1)
down, up = torch.nn.functional.normalize(torch.randn(6, 40, generator=g), dim=1), torch.randn(40, 6, generator=g)
aligned = align(down, up, down, up)
assert torch.equal(aligned[0], down) and torch.equal(aligned[1], up), "An adapter is in its own order already."
print("Its own order is kept.")

# %% check="align-permuted" points=2
# These tests are run when your notebook is graded: a permutation that is not its own inverse, and noise.
### BEGIN HIDDEN TESTS
order = torch.tensor([2, 0, 1, 5, 3, 4])
noise = 0.01 * torch.randn(6, 40, generator=g)
down_b, up_b = align(down, up, down[order] + noise, up[:, order])
assert (down_b - down).abs().max() < 0.1, "The rows of down are in another order than a's (or in the inverse one)."
assert torch.equal(up_b, up), "The columns of up have to go with the rows of down."
x = torch.randn(3, 40, generator=g)
one = torch.relu(x @ down.T) @ up.T
merged = torch.relu(x @ ((down + down_b) / 2).T) @ ((up + up_b) / 2).T
assert (merged - one).norm() < 0.1 * one.norm(), "The merge of a and the aligned b is not a."
### END HIDDEN TESTS
