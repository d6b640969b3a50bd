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
# # Exercises 06 · Routes as random variables
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are
# run only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · Averaging answers
#
# Each row was answered once by each route: `logits [rows, routes, classes]`. Eq. 7's marginal is the mean of the
# routes' *probabilities*. Return it, `[rows, classes]`.


# %% answer="marginal" minutes=8 difficulty=1 aims="averaging logits is averaging probabilities"
def marginal(logits):
    """Probabilities [rows, classes]."""
    ### BEGIN SOLUTION
    return logits.softmax(-1).mean(1)
    ### END SOLUTION


# %% check="marginal-basics" points=1
logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]])
p = marginal(logits)
assert p.shape == (2, 2), f"Shape {tuple(p.shape)}: expected a row a sentence, a column a class."
assert torch.allclose(p.sum(-1), torch.ones(2)), "Probabilities sum to 1 in each row."
assert torch.allclose(p, logits[:, 0].softmax(-1)), "Routes that answer alike: their average is that answer."
print("Equal answers average to themselves.")

# %% check="marginal-mixed" points=2
# These tests are run when your notebook is graded: routes that differ, and whose work it is.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(marginal)
p = marginal(torch.tensor([[[8.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]))
expected = torch.tensor([[0.4738, 0.3842, 0.1420]])
got = [round(value, 3) for value in p[0].tolist()]
assert torch.allclose(p, expected, atol=2e-3), f"{got}: one sure route of three counts a third, however sure it is."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · Which part of the doubt is about the route?
#
# From the routes' probabilities `p [rows, routes, classes]` (all above 0), in nats: the entropy of their mean `H`,
# the mean of their entropies `E`, and the mutual information `I` of answer and route. `H = E + I`. Return `(H, E,
# I)`, `[rows]` each.


# %% answer="split" minutes=10 difficulty=2 aims="routes that are unsure and routes that disagree are the same doubt"
def split(p):
    """(entropy of the mean, mean entropy, mutual information)."""
    ### BEGIN SOLUTION
    mean = p.mean(1)
    whole = -(mean * mean.log()).sum(-1)
    expected = -(p * p.log()).sum(-1).mean(1)
    return whole, expected, whole - expected
    ### END SOLUTION


# %% check="split-basics" points=1
unsure = torch.full((1, 3, 2), 0.5)
H, E, info = split(unsure)
assert H.shape == (1,), "A number for each row."
assert torch.allclose(H, E + info, atol=1e-6), "H = E + I."
assert abs(float(info)) < 1e-6, "All routes are unsure alike: knowing the route would tell nothing."
print("Routes that agree on being unsure: no information in the route.")

# %% check="split-values" points=2
# These tests are run when your notebook is graded: routes that disagree, in nats.
### BEGIN HIDDEN TESTS
p = torch.tensor([[[0.99, 0.01], [0.01, 0.99]], [[0.9, 0.1], [0.6, 0.4]]])
H, E, info = split(p)
assert torch.allclose(H, torch.tensor([0.6931, 0.5623]), atol=1e-3), f"H = {H.tolist()}: the entropy of the mean, nats."
assert torch.allclose(E, torch.tensor([0.0560, 0.4990]), atol=1e-3), f"E = {E.tolist()}: the mean over all routes."
assert (info >= 0).all(), "Mutual information is never negative."
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · Is 80 % right in 80 % of the cases?
#
# `confidence [rows]` is each answer's probability, `right [rows]` whether it was right (0 or 1). Split (0, 1] into
# `bins` intervals of equal width, each *closed on the right*: with ten bins, 0.2 lies in (0.1, 0.2], and 1.0 in the
# last one. The expected calibration error is the sum over bins of (share of rows) · |mean of right − mean of
# confidence|.
#
# <details><summary>Hint</summary>`torch.bucketize(confidence, edges)` with inner edges says how many edges lie below;
# is an edge itself above or below?</details>


# %% answer="ece" minutes=15 difficulty=3 aims="a probability of 1.0 needs no bin, and each bin counts alike"
def calibration_error(confidence, right, bins):
    """A number from 0 to 1."""
    ### BEGIN SOLUTION
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.double)[1:-1]
    where = torch.bucketize(confidence.double(), edges)
    error = 0.0
    for n in range(bins):
        inside = where == n
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            error += float(inside.double().mean() * gap.abs())
    return error
    ### END SOLUTION


# %% check="ece-basics" points=1
confidence = torch.tensor([0.75, 0.75, 0.75, 0.75], dtype=torch.double)
assert abs(calibration_error(confidence, torch.tensor([1, 1, 1, 0]), 10)) < 1e-9, "75 % sure, 3 of 4 right: no error."
assert abs(calibration_error(confidence, torch.tensor([0, 0, 0, 0]), 10) - 0.75) < 1e-9, "75 % sure and never right."
print("One bin is right.")

# %% check="ece-edges" points=2
# These tests are run when your notebook is graded: edges, certainty, bins of different sizes.
### BEGIN HIDDEN TESTS
refuse_library(calibration_error)
sure = calibration_error(torch.tensor([1.0, 1.0], dtype=torch.double), torch.tensor([0, 0]), 4)
assert abs(sure - 1) < 1e-9, f"Certain and always wrong: the error is 1, not {sure:.2f}. Has 1.0 a bin?"
edge = calibration_error(torch.tensor([0.5, 0.3, 0.6], dtype=torch.double), torch.tensor([0, 1, 1]), 2)
assert abs(edge - (2 / 3 * 0.1 + 1 / 3 * 0.4)) < 1e-9, f"{edge:.4f}: 0.5 belongs to (0, 0.5]; bins weigh by rows."
both = calibration_error(torch.tensor([0.9, 0.9, 0.9, 0.1], dtype=torch.double), torch.tensor([0, 0, 0, 1]), 2)
assert abs(both - 0.9) < 1e-9, f"{both:.2f}: too sure in one bin and too modest in another do not cancel."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Predict: more samples
#
# The average over T drawn routes comes closer to the average over all routes as T grows. What happens to the
# *accuracy of the average over all routes* itself? Set `more_samples` to "rises", "falls" or "stays".

# %% answer="samples" minutes=3 difficulty=2 aims="more samples reduce the model's error"
more_samples = None
### BEGIN SOLUTION
more_samples = "stays"
### END SOLUTION

# %% check="samples-verdict" points=1
assert more_samples in ("rises", "falls", "stays"), 'Set more_samples to "rises", "falls" or "stays".'
### BEGIN HIDDEN TESTS
assert more_samples == "stays", "It is a fixed number, a property of the model; T only says how well you estimate it."
### END HIDDEN TESTS
