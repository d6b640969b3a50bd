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
# # Exercises 00 · Four adapters for the price of one
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them: they say at once
# what does not fit yet, and why. What is tested only when your notebook is graded is whether the work is your own.
# Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · What is trained, and what is left
#
# A bottleneck adapter on a layer of width `d` has a down-projection `[r, d]` with a bias `[r]`, and an up-projection
# `[d, r]` with a bias `[d]`. AdaMix puts `M` of them on each of `L` layers. With `share_up=True` the `M` adapters of a
# layer share one up-projection and its bias. After training they are merged into one adapter a layer.
#
# Return two whole numbers: how many adapter weights are *trained*, and how many are *left after merging*. (The task
# head is counted apart.)
#
# <details><summary>Hint</summary>Which of the two numbers can depend on M at all?</details>


# %% answer="count" minutes=8 difficulty=1 aims="M experts cost M times as much at inference"
def adapter_weights(d, r, M, L, share_up):
    """(trained, left after merging)."""
    ### BEGIN SOLUTION
    down, up = r * d + r, d * r + d
    trained = L * (M * down + (up if share_up else M * up))
    return trained, L * (down + up)
    ### END SOLUTION


# %% check="count-one" points=1
trained, merged = adapter_weights(d=8, r=2, M=1, L=1, share_up=False)
assert trained == merged, "With M = 1 nothing is there to merge: both numbers are the same."
assert trained == 42, f"One adapter of width 8 and size 2 has 16 + 2 + 16 + 8 weights, not {trained}: biases count."
print("One adapter is counted rightly.")

# %% check="count-mixture" points=2
trained, merged = adapter_weights(d=384, r=16, M=4, L=2, share_up=True)
assert merged == 25_376, f"{merged} weights left after merging: one adapter a layer is left, whatever M was."
assert trained == 62_336, f"{trained} trained weights: M down-projections, and one up-projection that they share."
trained, merged = adapter_weights(d=384, r=16, M=4, L=2, share_up=False)
assert trained == 4 * 25_376 and merged == 25_376, "Without sharing, M whole adapters are trained."
print("Several experts in several layers are counted rightly.")

# %% [markdown]
# ## 2 · An adapter that changes nothing yet
#
# `adapter(x, down, up)` is a bottleneck without biases: `x` plus the up-projection of GELU of the down-projection.
# `start(d, r, generator)` gives weights `down [r, d]` and `up [d, r]` with which the adapter returns `x` exactly, *and
# from which gradient descent gets away*.
#
# <details><summary>Hint</summary>Write down the gradient of each matrix. Which factors does it have?</details>


# %% answer="identity" minutes=12 difficulty=2 aims="starting at the identity means that all weights are zero"
def adapter(x, down, up):
    """x [..., d], down [r, d], up [d, r]: the adapted x [..., d]."""
    ### BEGIN SOLUTION
    return x + torch.nn.functional.gelu(x @ down.T) @ up.T
    ### END SOLUTION


def start(d, r, generator):
    """(down, up) of an adapter that is the identity; random numbers come from the generator."""
    ### BEGIN SOLUTION
    return 0.02 * torch.randn(r, d, generator=generator), torch.zeros(d, r)
    ### END SOLUTION


# %% check="identity-exact" points=1
x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
down, up = start(8, 2, torch.Generator().manual_seed(1))
assert down.shape == (2, 8) and up.shape == (8, 2), f"Shapes {tuple(down.shape)}, {tuple(up.shape)}: see the text."
assert torch.equal(adapter(x, down, up), x), "At the start the adapter returns x itself. Is x added? Is an update left?"
print("The adapter starts as the identity.")

# %% check="identity-learns" points=2
g = torch.Generator().manual_seed(2)
x, down, up = torch.randn(4, 8, generator=g), torch.randn(2, 8, generator=g), torch.randn(8, 2, generator=g)
expected = x + torch.nn.functional.gelu(x @ down.T) @ up.T
assert torch.allclose(adapter(x, down, up), expected, atol=1e-5), "x + up(GELU(down x)) gives something else."
down, up = (w.clone().requires_grad_() for w in start(8, 2, g))
adapter(x, down, up).square().sum().backward()
moved = [w.grad is not None and bool(w.grad.abs().max() > 0) for w in (down, up)]
assert any(moved), "Both gradients are zero: from here nothing is ever learned. One of the matrices must not be zero."
print("The start can be left.")

# %% [markdown]
# ## 3 · How sure is an accuracy?
#
# Of `rows` test sentences a share `right` was answered rightly. Write Wilson's interval with `z = 1.96`:
#
# middle `(right + z²/2n) / (1 + z²/n)`, half width `z · sqrt(right (1 − right)/n + z²/4n²) / (1 + z²/n)`, `n` the rows.
#
# Return `(low, high)` as shares. Write it yourself: the library's own function is not accepted here.


# %% answer="interval" minutes=10 difficulty=2 aims="an accuracy is exact: the higher number wins"
def interval(right, rows):
    """The 95 % interval (low, high) of a share of right answers."""
    ### BEGIN SOLUTION
    z = 1.96
    middle = (right + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * (right * (1 - right) / rows + z * z / (4 * rows * rows)) ** 0.5 / (1 + z * z / rows)
    return middle - half, middle + half
    ### END SOLUTION


# %% check="interval-half" points=1
low, high = interval(0.5, 100)
assert 0 <= low < 0.5 < high <= 1, f"({low}, {high}): expected two shares with 0.5 between them."
assert abs(low - 0.404) < 0.005 and abs(high - 0.596) < 0.005, f"({low:.3f}, {high:.3f}): expected about 0.40 to 0.60."
print("An even share is right.")

# %% check="interval-edges" points=2
low, high = interval(1.0, 20)
assert abs(low - 0.8389) < 1e-3 and abs(high - 1) < 1e-6, f"20 of 20 right: ({low:.3f}, {high:.3f}). It is not certain."
low, high = interval(0.805, 400)
assert abs(low - 0.7634) < 1e-3 and abs(high - 0.8409) < 1e-3, f"0.805 on 400 rows: ({low:.4f}, {high:.4f})."
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(interval)
### END HIDDEN TESTS
print("Shares near the edges are right.")

# %% [markdown]
# ## 4 · Predict: which one is better?
#
# Two models answer 80.5 % and 80.0 % of the same number of sentences rightly: 400 each. Use your `interval`. Does this
# tell them apart? Set `told_apart` to `True` or `False`.

# %% answer="apart" minutes=3 difficulty=1 aims="the higher number wins"
told_apart = None
### BEGIN SOLUTION
told_apart = False
### END SOLUTION

# %% check="apart-verdict" points=1
assert told_apart in (True, False), "Set told_apart to True or False."
### BEGIN HIDDEN TESTS
assert told_apart is False, "Half a point is two sentences of 400; each interval is eight points wide."
### END HIDDEN TESTS
