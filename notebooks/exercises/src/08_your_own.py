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
# # Exercises 08 · Your own
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are run
# only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
from dataclasses import dataclass
from typing import ClassVar

import torch

from adamix_lab.core import adaptations as lab


@dataclass(frozen=True)
class ScaledLoRA(lab.Adaptation):
    rank: int = 2
    kind: ClassVar[str] = "scaled-lora"
    sides: ClassVar[tuple[str, ...]] = ("A", "B")

    def weights(self, in_features, out_features):
        return {
            "A": lab.Weight((self.rank, in_features), "A", lab.kaiming),
            "B": lab.Weight((out_features, self.rank), "B", lab.zeros),
            "s": lab.Weight((out_features,), "B", lab.ones, decay=False),
        }

    def apply(self, base, x, w, training):
        return apply_scaled(base, x, w)


# %% [markdown]
# ## 1 · Complete an adaptation
#
# `ScaledLoRA` is `y = Wx + s * (B A x)`, with a vector `s [out]` that is learned. It is declared above; write what its
# `apply` calls. A pass may carry K views: then each weight has a leading axis K, and x holds K groups of rows, one
# after another. `lab.linear(x, weight)` takes care of matrices,
# `lab.along(x, vector)` of vectors.


# %% answer="scaled" minutes=12 difficulty=2 aims="an adaptation sees one set of weights: views never meet inside it"
def apply_scaled(base, x, w):
    """y = Wx + s * (B A x), for w with A [r, in], B [out, r], s [out], or K of each. base(x) is Wx: call it once."""
    ### BEGIN SOLUTION
    update = lab.linear(lab.linear(x, w["A"]), w["B"])
    return base(x) + lab.along(update, w["s"]) * update
    ### END SOLUTION


# %% check="scaled-one" points=1
g = torch.Generator().manual_seed(0)
frozen, x = torch.randn(5, 4, generator=g), torch.randn(6, 3, 4, generator=g)
w = {"A": torch.randn(2, 4, generator=g), "B": torch.randn(5, 2, generator=g), "s": torch.randn(5, generator=g)}
wanted = x @ frozen.T + w["s"] * (x @ w["A"].T @ w["B"].T)
came = ScaledLoRA().apply(lambda x: x @ frozen.T, x, w, False)
assert torch.allclose(came, wanted, atol=1e-5), "Wx + s * (B A x) was asked for."
print("Right for one set of weights.")

# %% check="scaled-views" points=2
# These tests are run when your notebook is graded: two views in one pass, and how often the frozen layer runs.
### BEGIN HIDDEN TESTS
two = {name: torch.stack([t, torch.randn(t.shape, generator=g)]) for name, t in w.items()}
calls = []


def counted(x):
    calls.append(1)
    return x @ frozen.T


came = ScaledLoRA().apply(counted, x, two, False)
halves = [x[3 * k : 3 * k + 3] for k in range(2)]
wanted = torch.cat([h @ frozen.T + two["s"][k] * (h @ two["A"][k].T @ two["B"][k].T) for k, h in enumerate(halves)])
assert came.shape == wanted.shape and torch.allclose(came, wanted, atol=1e-5), "Each group of rows has its own s."
assert len(calls) == 1, "The frozen layer ran more than once."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · The weights that make peft equal
#
# `peft`'s combination "linear" puts the root of each expert's weight on its A and on its B and adds them up:
# `update = (Σ √wᵢ Bᵢ) (Σ √wᵢ Aᵢ)`. "cat" adds up products: `update = Σ wᵢ Bᵢ Aᵢ`. Which equal weights give the
# product of means, `mean(B) mean(A)`, by "linear", and the mean of products by "cat"?


# %% answer="weights" minutes=8 difficulty=2 aims="the weights of a mean are 1/M, whatever they are put on"
def peft_weight(M, combination):
    """The weight that each of M experts gets; combination is "linear" or "cat"."""
    ### BEGIN SOLUTION
    return 1 / M**2 if combination == "linear" else 1 / M
    ### END SOLUTION


# %% check="weights-one" points=1
assert peft_weight(1, "linear") == 1 and peft_weight(1, "cat") == 1, "One expert is its own mean."
print("Right for one expert.")

# %% check="weights-many" points=2
# These tests are run when your notebook is graded: four experts, combined as peft does.
### BEGIN HIDDEN TESTS
As, Bs = torch.randn(4, 2, 5, generator=g), torch.randn(4, 5, 2, generator=g)
root = peft_weight(4, "linear") ** 0.5
linear_update = (root * Bs).sum(0) @ (root * As).sum(0)
times = float(linear_update.norm() / (Bs.mean(0) @ As.mean(0)).norm())
assert abs(times - 1) < 1e-4, f"linear gives {times:.3g} times the product of means."
cat_update = (peft_weight(4, "cat") * Bs @ As).sum(0)
times = float(cat_update.norm() / (Bs @ As).mean(0).norm())
assert abs(times - 1) < 1e-4, f"cat gives {times:.3g} times the mean of products."
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · An export of your own
#
# peft's folder holds one LoRA a layer: `lora_A` [rank, in], `lora_B` [out, rank], `r` and `lora_alpha`. Whoever reads
# it adds `(lora_alpha / r) lora_B lora_A` to the frozen matrix. You have M tied LoRAs, `As` [M, r, in] and `Bs`
# [M, out, r], each with the update `(alpha / r) Bᵢ Aᵢ`. Export their *mean of products* as one LoRA: which tensors,
# which rank, which alpha?


# %% answer="alpha" minutes=12 difficulty=2 aims="alpha goes along unchanged when the rank changes"
def exported_lora(As, Bs, alpha):
    """{"lora_A": [rank, in], "lora_B": [out, rank], "r": rank, "lora_alpha": alpha of the one LoRA}."""
    ### BEGIN SOLUTION
    M, r, _ = As.shape
    return {
        "lora_A": As.flatten(0, 1),
        "lora_B": Bs.permute(1, 0, 2).flatten(1) / M,
        "r": M * r,
        "lora_alpha": M * alpha,
    }
    ### END SOLUTION


# %% check="alpha-one" points=1
def read(made):
    """What a stock library makes of it."""
    assert made["lora_A"].shape[0] == made["lora_B"].shape[1] == made["r"], "r is the rank that both tensors have."
    return made["lora_alpha"] / made["r"] * made["lora_B"] @ made["lora_A"]


one_A, one_B = torch.randn(1, 2, 5, generator=g), torch.randn(1, 4, 2, generator=g)
came = read(exported_lora(one_A, one_B, 6.0))
assert torch.allclose(came, 3.0 * one_B[0] @ one_A[0], atol=1e-5), "One expert is its own mean: (6 / 2) B A."
print("Right for one expert.")

# %% check="alpha-many" points=2
# These tests are run when your notebook is graded: four experts, read as a stock library reads them.
### BEGIN HIDDEN TESTS
As, Bs = torch.randn(4, 2, 5, generator=g), torch.randn(4, 3, 2, generator=g)
came, mean = read(exported_lora(As, Bs, 6.0)), (6.0 / 2) * (Bs @ As).mean(0)
times = float(came.norm() / mean.norm())
assert torch.allclose(came, mean, atol=1e-5), f"The reader's update is {times:.3g} times as large as it should be."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Diagnose: what can be exported?
#
# For each: does *stock* `peft` (LoRA or IA3 in a folder) answer exactly as the model does, `True` or `False`?
#
# - `"merged-lora"`: LoRA experts with a shared B, merged, and the trained head along;
# - `"bottleneck"`: merged bottleneck adapters after the feed-forward layers;
# - `"random-routes"`: unmerged LoRA experts, a random route for each batch;
# - `"own"`: your own merged adaptation, `y = Wx + up(tanh(down(x)))`;
# - `"products"`: tied LoRA pairs, merged by the mean of products at rank M r;
# - `"no-head"`: a merged LoRA without its trained head, on a base with a fresh head.

# %% answer="export" minutes=6 difficulty=2 aims="any merged model fits into a folder of peft"
exportable = {
    "merged-lora": None,
    "bottleneck": None,
    "random-routes": None,
    "own": None,
    "products": None,
    "no-head": None,
}
### BEGIN SOLUTION
exportable = {
    "merged-lora": True,
    "bottleneck": False,
    "random-routes": False,
    "own": False,
    "products": True,
    "no-head": False,
}
### END SOLUTION

# %% check="export-form" points=0
assert len(exportable) == 6 and "no-head" in exportable, "Six verdicts, by the names above."
print("Six verdicts are there.")

# %% check="export-can" points=1
# These tests are run when your notebook is graded: what can be exported, together with something that cannot.
### BEGIN HIDDEN TESTS
assert exportable["merged-lora"] is True, "One LoRA a layer and a head are what peft's folder holds."
assert exportable["products"] is True, "A mean of products is one LoRA, of rank M r."
### END HIDDEN TESTS

# %% check="export-cannot" points=2
# These tests are run when your notebook is graded.
### BEGIN HIDDEN TESTS
assert exportable["bottleneck"] is False, 'peft has no adapter after a layer: format="adapters" has.'
assert exportable["random-routes"] is False, "peft runs the adapters that are set; it draws none."
assert exportable["own"] is False, "A function of your own is code: no folder of weights holds it."
assert exportable["no-head"] is False, "The head was trained: without it other logits come out."
### END HIDDEN TESTS
