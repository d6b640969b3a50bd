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
# # Exercises 01 · Routing
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them: they say at once
# what does not fit yet, and why. What is tested only when your notebook is graded is whether the work is your own.
# Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · The layer
#
# The heart of your own AdaMix. `A [M, r, d]` and `a [M, r]` are the down-projections of M experts with their biases,
# `B [d, r]` and `b [d]` the up-projection that they share. `adapted` returns what the layer makes of `x [..., d]`: with
# an expert's number the answer of that expert, with `None` the *merge*, one pass with the mean of the experts' weights.


# %% answer="layer" minutes=10 difficulty=2 aims="merging means averaging the experts' answers"
def adapted(x, A, a, B, b, expert=None):
    """x plus the adapter's answer, `[..., d]`."""
    ### BEGIN SOLUTION
    down, bias = (A.mean(0), a.mean(0)) if expert is None else (A[expert], a[expert])
    return x + torch.nn.functional.gelu(x @ down.T + bias) @ B.T + b
    ### END SOLUTION


# %% check="layer-expert" points=1
g = torch.Generator().manual_seed(0)
x, A, a = torch.randn(3, 5, 8, generator=g), torch.randn(4, 2, 8, generator=g), torch.randn(4, 2, generator=g)
B, b = torch.randn(8, 2, generator=g), torch.randn(8, generator=g)
answers = [adapted(x, A, a, B, b, expert) for expert in range(4)]
assert answers[0].shape == x.shape, (
    f"Shape {tuple(answers[0].shape)}: the layer gives back as many numbers as it takes."
)
assert torch.equal(adapted(x, A, a, 0 * B, 0 * b, 2), x), (
    "With an up-projection of zeros x itself comes back. Is x added?"
)
assert not torch.allclose(answers[1], answers[2]), "Experts 1 and 2 answer alike: is the expert's number used?"
plain = x + torch.nn.functional.gelu(x @ A[1].T + a[1]) @ B.T + b
assert torch.allclose(answers[1], plain, atol=1e-4), "Expert 1: x + gelu(x A1 + a1) B + b gives something else."
print("Each expert answers rightly.")

# %% check="layer-merge" points=1
merged, mean = adapted(x, A, a, B, b), torch.stack(answers).mean(0)
assert not torch.allclose(merged, mean, atol=1e-4), (
    "That is the mean of the answers, the ensemble: it runs every expert. Merging averages the weights, then runs once."
)
plain = x + torch.nn.functional.gelu(x @ A.mean(0).T + a.mean(0)) @ B.T + b
assert torch.allclose(merged, plain, atol=1e-4), (
    "Merged: average A and a over the experts, then answer as one expert does."
)
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(adapted)
### END HIDDEN TESTS
print("The merge is right.")

# %% [markdown]
# ## 2 · A route is data
#
# A route says which expert serves each layer, on the down side and on the up side. `counts` lists how many experts
# there are, `(down, up)` for each layer; a shared side counts 1. Draw a route as a table of whole numbers
# `[layers, 2]`: uniform, the sides independent of each other, and **a function of `(seed, step, view)` alone**: called
# again, it gives the same route, whatever else was drawn in between. Leave PyTorch's global random numbers alone.
#
# <details><summary>Hint</summary>Make a generator of your own. Its seed must be another one for (0, 1, 0) than for
# (0, 0, 1): a sum will not do, a hash will.</details>


# %% answer="route" minutes=15 difficulty=3 aims="a route is drawn on the way, so nobody can say later which one it was"
def draw_route(counts, seed, step, view):
    """Experts [layers, 2] (int64), from 0 to count - 1."""
    ### BEGIN SOLUTION
    import hashlib

    digest = hashlib.sha256(repr((seed, step, view)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    counts = torch.tensor(counts)
    return (torch.rand(counts.shape, generator=generator) * counts).long()
    ### END SOLUTION


# %% check="route-fits" points=1
route = draw_route([(4, 1), (4, 4), (2, 1)], seed=0, step=0, view=0)
assert route.shape == (3, 2), f"Shape {tuple(route.shape)}: expected a row a layer, and two sides."
assert route.dtype == torch.int64, f"{route.dtype}: experts are counted with whole numbers (int64)."
assert (route >= 0).all() and (route < torch.tensor([(4, 1), (4, 4), (2, 1)])).all(), "Experts count from 0."
print("The route fits its layers.")

# %% check="route-replay" points=1
counts = [(4, 4)] * 6
before = torch.get_rng_state()
first = [draw_route(counts, 0, step, 0) for step in range(8)]
assert torch.equal(torch.get_rng_state(), before), "PyTorch's global random numbers were used: make a generator."
torch.manual_seed(99)
again = [draw_route(counts, 0, step, 0) for step in range(8)]
assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), "Another route at the second call."
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(draw_route)
### END HIDDEN TESTS
print("The same three numbers give the same route.")

# %% check="route-uniform" points=1
counts = [(4, 4)] * 6


def many(seed, view, first=0):
    return torch.stack([draw_route(counts, seed, step, view) for step in range(first, first + 300)])


routes = many(0, 0)
share = torch.nn.functional.one_hot(routes, 4).double().mean((0, 1))
assert (share - 0.25).abs().max() < 0.05, f"Shares of the experts, down and up: {share.tolist()}; expected 1/4 each."
same = (routes[..., 0] == routes[..., 1]).double().mean()
assert abs(same - 0.25) < 0.06, f"Both sides take the same expert in {same:.0%} of the cases: they are not independent."
for what, other in {"view": many(0, 1, -1), "seed": many(1, 0, -1)}.items():
    assert not torch.equal(routes, other), f"Step and {what} can be exchanged: (0, 1) and (1, 0) give the same route."
layers = (routes[:, 0, 0] == routes[:, 1, 0]).double().mean()
assert layers < 0.4, "All layers take the same expert: draw for each of them."
print("Every expert is drawn as often, and every place on its own.")

# %% [markdown]
# ## 3 · How many routes are there?
#
# Count all routes for `counts` as above. With `tied=True` an expert's down side always goes with its own up side: one
# choice a layer.


# %% answer="number" minutes=6 difficulty=1 aims="there are as many routes as experts"
def number_of_routes(counts, tied=False):
    """A whole number."""
    ### BEGIN SOLUTION
    number = 1
    for down, up in counts:
        number *= max(down, up) if tied else down * up
    return number
    ### END SOLUTION


# %% check="number-one" points=1
assert number_of_routes([(4, 1)]) == 4, "One layer, four experts, a shared up side: four routes."
assert number_of_routes([(4, 4)]) == 16, "Down and up are drawn on their own: each of 4 goes with each of 4."
print("One layer is right.")

# %% check="number-many" points=2
assert number_of_routes([(4, 1), (4, 1)]) == 16, "Each layer draws anew: choices multiply."
assert number_of_routes([(4, 4)] * 12) == 16**12, "Twelve layers with 16 choices each."
assert number_of_routes([(4, 1), (2, 3)]) == 24, "Layers may differ."
assert number_of_routes([(4, 4), (4, 4)], tied=True) == 16, "Tied: four choices in each of two layers."
print("Several layers are right.")

# %% [markdown]
# ## 4 · Is an expert ever left out?
#
# At each step AdaMix runs `views` routes (two, with consistency), and each draws one of `M` experts in a layer, all
# alike. What is the chance that *one given* expert has not been drawn once after `steps` steps?


# %% answer="unused" minutes=6 difficulty=2 aims="after M steps every expert has had its turn"
def chance_unused(M, steps, views):
    """A probability."""
    ### BEGIN SOLUTION
    return (1 - 1 / M) ** (steps * views)
    ### END SOLUTION


# %% check="unused-one" points=1
assert chance_unused(M=2, steps=1, views=1) == 0.5, "One of two experts is drawn: the other one is left out."
assert 0 <= chance_unused(M=4, steps=8, views=2) <= 1, "A probability lies between 0 and 1."
print("One draw is right.")

# %% check="unused-many" points=1
assert abs(chance_unused(4, 4, 1) - 0.75**4) < 1e-9, "Four draws from four experts miss a given one in 32 % of cases."
assert abs(chance_unused(4, 10, 2) - 0.75**20) < 1e-9, "Two views a step are two draws a step."
print("Many draws are right.")
