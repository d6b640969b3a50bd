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
# # Exercises 02 · Consistency
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are run
# only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · The loss
#
# Two views answer the same rows with logits `a` and `b`, `[rows, classes]`. With `p` and `q` their probabilities in
# each row, the consistency loss is `½ [KL(p‖q) + KL(q‖p)]`, summed over classes and averaged over rows. Return it as a
# tensor with one number. Write it yourself: PyTorch is allowed, the library is not.
#
# <details><summary>Hint</summary>`kl_div(..., reduction="mean")` divides by rows times classes. What do you want to
# divide by?</details>


# %% answer="loss" minutes=12 difficulty=2 aims="any softmax and any mean will do: the loss only has to be small"
def consistency(a, b):
    """½ [KL(p‖q) + KL(q‖p)], a mean over rows."""
    ### BEGIN SOLUTION
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
    ### END SOLUTION


# %% check="loss-basics" points=1
a = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
assert consistency(a, a).abs() < 1e-6, "Two equal views agree: the loss is 0."
assert consistency(a, a + 5).abs() < 1e-6, "Adding 5 to every logit changes no probability: the loss is still 0."
assert consistency(a, -a) > 0, "Views that disagree cost something."
print("Agreement costs nothing, disagreement does.")

# %% check="loss-value" points=2
# These tests are run when your notebook is graded: the value, both directions, the mean, and whose work it is.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(consistency)
g = torch.Generator().manual_seed(3)
a, b = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
p, q = a.softmax(-1), b.softmax(-1)
rows = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1))
got = float(consistency(a, b))
assert abs(got - float(rows.mean())) < 1e-5, {
    True: "This is the sum over rows, not their mean.",
    False: f"{got:.4f} where {float(rows.mean()):.4f} was expected: softmax over classes? both directions? ½?",
}[abs(got - float(rows.sum())) < 1e-5]
assert abs(float(consistency(b, a)) - got) < 1e-5, "The loss does not depend on which view is called a."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · Its gradient
#
# The reference detaches the targets: `½ [KL(sg(q)‖p) + KL(sg(p)‖q)]`, where `sg` lets no gradient through. Return its
# gradient on the logits `a`, `[rows, classes]`. Only the first term reaches `a`.
#
# <details><summary>Hint</summary>The gradient of a cross-entropy on logits is probabilities minus targets. What does
# the mean over rows do to it?</details>


# %% answer="gradient" minutes=10 difficulty=3 aims="detaching the targets changes nothing, the value is the same"
def gradient(a, b):
    """The gradient of the reference's loss on the logits a."""
    ### BEGIN SOLUTION
    return 0.5 * (a.softmax(-1) - b.softmax(-1)) / len(a)
    ### END SOLUTION


# %% check="gradient-basics" points=1
a = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
assert gradient(a, -a).shape == a.shape, "A number for each logit."
assert gradient(a, a).abs().max() < 1e-6, "Where views agree, nothing pulls."
assert gradient(a, -a).sum(-1).abs().max() < 1e-6, "The gradient on logits sums to 0 in each row."
print("The gradient has the right form.")

# %% check="gradient-value" points=2
# These tests are run when your notebook is graded: size, sign, and the detached targets.
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(4)
a, b = torch.randn(4, 3, generator=g, requires_grad=True), torch.randn(4, 3, generator=g)
p, q = a.log_softmax(-1), b.log_softmax(-1)
term = torch.nn.functional.kl_div(p, q.detach(), reduction="batchmean", log_target=True)
(0.5 * term).backward()
got = gradient(a.detach(), b)
assert torch.allclose(got, a.grad, atol=1e-6), "½ (p − q) / rows: is it halved, divided, and the right way round?"
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · The step
#
# Now put the training step of Eq. 5 together. `send(rows, route)` gives logits, `draw()` gives a random route. Send the
# same rows through **two** routes of their own. Return the loss: cross-entropy with `labels` on the *first* view, plus
# `weight` times the consistency of the two. The value is that of exercise 1; its gradient has to be that of exercise 2,
# so hold each target fixed (`.detach()`).
#
# <details><summary>Hint</summary>`½ [KL(sg(q)‖p) + KL(sg(p)‖q)]`: the first argument of each is a target, and
# `torch.nn.functional.kl_div(p, q, log_target=True)` has the target second.</details>


# %% answer="step" minutes=15 difficulty=3 aims="one random route a step is enough: the two views may share it"
def step(send, draw, rows, labels, weight):
    """The loss of one training step, a tensor with one number."""
    ### BEGIN SOLUTION
    first, second = send(rows, draw()), send(rows, draw())
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    there = kl(p, q.detach(), reduction="batchmean", log_target=True)
    back = kl(q, p.detach(), reduction="batchmean", log_target=True)
    return torch.nn.functional.cross_entropy(first, labels) + weight * 0.5 * (there + back)
    ### END SOLUTION


# %% check="step-basics" points=1
rows, labels = torch.eye(3), torch.tensor([0, 2, 1])
always = step(lambda rows, route: 2 * rows, lambda: 0, rows, labels, 1.0)
plain = torch.nn.functional.cross_entropy(2 * rows, labels)
assert abs(float(always - plain)) < 1e-5, "Two routes that answer alike: only the cross-entropy is left."
print("Where two views agree, the step is an ordinary one.")

# %% check="step-value" points=3
# These tests are run when your notebook is graded: two routes, the first view's labels, the weight, the gradient.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(step)
g = torch.Generator().manual_seed(6)
experts = torch.randn(2, 4, 3, generator=g, requires_grad=True)
rows, labels = torch.randn(5, 4, generator=g), torch.tensor([0, 1, 2, 1, 0])
drawn = []


def draw():
    drawn.append(len(drawn) % 2)
    return drawn[-1]


a, b = rows @ experts[0].detach(), rows @ experts[1].detach()
loss = step(lambda rows, route: rows @ experts[route], draw, rows, labels, 2.0)
loss.backward()
assert len(drawn) == 2, f"{len(drawn)} routes were drawn: a step sends its rows through two."
p, q = a.log_softmax(-1), b.log_softmax(-1)
agree = 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
expected = float(torch.nn.functional.cross_entropy(a, labels) + 2.0 * agree)
got = float(loss.detach())
assert abs(got - expected) < 1e-5, f"{got:.4f} where {expected:.4f} was expected: labels on the first view, weight 2?"
pull = 0.5 * (q.exp() - p.exp()) / len(rows)
assert torch.allclose(experts.grad[1], 2.0 * rows.T @ pull, atol=1e-5), "½ (q − p) / rows: hold the targets fixed."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · A model with one output
#
# STS-B asks for a number: one logit a row. Softmax over one class is always 1. First predict: what is the KL
# divergence of two views then? Then write a loss that does make the two outputs `[rows, 1]` agree: the mean squared
# difference.

# %% answer="regression" minutes=6 difficulty=1 aims="KL makes any two outputs agree"
kl_of_one_logit = None  # a number
### BEGIN SOLUTION
kl_of_one_logit = 0.0
### END SOLUTION


def regression_consistency(a, b):
    """The mean squared difference of two outputs [rows, 1]."""
    ### BEGIN SOLUTION
    return (a - b).square().mean()
    ### END SOLUTION


# %% check="regression-basics" points=1
assert isinstance(kl_of_one_logit, (int, float)), "Set kl_of_one_logit to a number."
assert regression_consistency(torch.ones(3, 1), torch.ones(3, 1)) == 0, "Equal outputs agree."
print("Equal outputs agree.")

# %% check="regression-value" points=2
# These tests are run when your notebook is graded: the prediction, and outputs that differ.
### BEGIN HIDDEN TESTS
assert kl_of_one_logit == 0, "Both distributions give the one class probability 1: nothing to disagree about."
a, b = torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0], [0.5]])
assert abs(float(regression_consistency(a, b)) - 4.625) < 1e-5, "(3² + 0.5²) / 2 = 4.625."
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · Agreement is not correctness
#
# `answers [rows, routes]` holds the class that each route answers, `labels [rows]` the right one. Return the share of
# rows on which *all routes agree and are wrong*.


# %% answer="agree" minutes=8 difficulty=2 aims="routes that agree are right"
def agree_and_wrong(answers, labels):
    """A share of the rows."""
    ### BEGIN SOLUTION
    together = (answers == answers[:, :1]).all(1)
    return float((together & (answers[:, 0] != labels)).double().mean())
    ### END SOLUTION


# %% check="agree-basics" points=1
answers = torch.tensor([[1, 1], [0, 0]])
assert agree_and_wrong(answers, torch.tensor([1, 0])) == 0, "Two rows, both agreed and right."
assert agree_and_wrong(answers, torch.tensor([0, 1])) == 1, "Two rows, both agreed and wrong."
print("The clear cases are right.")

# %% check="agree-mixed" points=2
# These tests are run when your notebook is graded: rows on which routes differ.
### BEGIN HIDDEN TESTS
answers = torch.tensor([[1, 1, 1], [0, 0, 1], [2, 2, 2], [2, 0, 1], [0, 2, 0]])
labels = torch.tensor([0, 1, 2, 2, 1])
got = float(agree_and_wrong(answers, labels))
assert abs(got - 0.2) < 1e-9, f"{got:.2f} where 0.20 was expected: one row of five is agreed on and wrong."
### END HIDDEN TESTS
