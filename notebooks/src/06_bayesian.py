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
# # 06 · Routes as random variables: how Bayesian is it?
#
# A route is drawn at random, so what AdaMix answers is a random variable. Below are four routes of the
# one-dimensional world that tell two classes apart. They form a *band*, and it looks like uncertainty.
#
# **Is it?** Afterwards you will be able to
#
# 1. average over routes exactly, and say what more draws improve;
# 2. split a model's doubt into that of its routes and that between them;
# 3. say what is missing for a posterior, and what agreement is worth on a text of another kind.
#
# *Fifty minutes in class; under a minute of computing on two CPU cores. No network, no GPU.*

# %%
from adamix_lab import load_task, load_twin
from adamix_lab.lessons import posterior as lesson

lesson.draw_band(lesson.band("AdaMix", consistency=0, noise=0.1)).picture

# %% [markdown]
# ## One dimension: where are the routes sure?
#
# Rows lie between −2 and 2. Each movement trains again. The lower panel
# splits doubt in two, which a later section explains: grey is each route's own, orange is what lies *between* routes.

# %%
lesson.band_explorer()

# %% [markdown]
# With clean labels all routes are sure beyond the rows, and all say the same. A band tells where routes were *trained*
# to differ, and nothing was trained out there.
#
# ## What would a posterior need?
#
# A Bayesian keeps a distribution over weights, $p(W \mid \text{rows})$, and averages answers over it. The paper reads
# routes like that ([Gal & Ghahramani, 2016](https://arxiv.org/abs/1506.02142), did the same for dropout masks), with
# $q(W)$ uniform over routes. Fitting such a $q$ to a posterior means minimising
#
# $$-\mathbb{E}_{q(W)} \log p(\text{rows} \mid W) + \mathrm{KL}\bigl(q(W) \,\|\, p(W)\bigr).$$
#
# AdaMix trains with the first term. Its *weights* in $q$, 1/M for each expert, never move, whatever the rows say. Its
# *atoms*, the experts, are trained; and no KL to a prior stands in the loss, so nothing keeps them apart. That is an
# interpretation, not an inference. Bayes' rule would weigh each route by its likelihood:

# %%
answers = lesson.load_answers("adamix", 20, data="noisy")  # what all 16 routes say of 1,000 fresh sentences
for rows in (0, 10, 100, 1000):
    weights = lesson.bayes_weights(answers, slice(0, 1000, 1000 // rows if rows else None) if rows else slice(0))
    print(f"{rows:4} rows: the largest of 16 weights is {float(weights.max()):.2f}")

# %% [markdown]
# ## The average, exactly
#
# What is left is an average over routes (Eq. 7):
#
# $$p(y \mid x) = \mathbb{E}_{q(W)}\, p(y \mid x, W) \approx \frac1T \sum_{t=1}^{T} p(y \mid x, W_t)$$
#
# With 16 routes it is a plain mean; with M = 4 in 24 layers one draws $T$ of them. The error of such an estimate falls
# as $1/\sqrt T$, as that of any mean of independent draws. The distance below is *total variation*: by how much the
# probability of a class is off.

# %%
exact = answers.routes.exp().mean(1)
print("equal to the library's:", bool((exact - lesson.marginal(answers.routes).exp()).abs().max() < 1e-6))
lesson.draw_convergence(answers, "AdaMix on noisy sentences, seed 20")

# %%
lesson.forest("06", "minus one")

# %% [markdown]
# AdaMix's merge is nearer to the average of all routes than one drawn route is (*shown*); on seed 20 it is worth about
# seven, at the cost of one. Trained apart, it is farther away (*shown*). The average's loss is below a route's, as
# Jensen's inequality guarantees, but by less than 0.02 nats: *alike*.
#
# ## Two kinds of doubt
#
# *Entropy*, $H = -\sum p \log p$, is how unsure an answer is, in nats: 0 is sure, 0.69 is a coin. That of the average
# splits: $H = \mathbb{E}[H] + \mathrm{MI}$. The first part is each route's own doubt. The *mutual information* MI is
# what knowing the route would tell: it is 0 where all routes say the same, however unsure they are.
#
# The next piece of your `my_adamix.py`, from probabilities `[routes, rows, classes]` to the average's entropy and the
# mutual information, `[rows]` each, in nats:
#
# ```python
# def doubt(p):
#     ...
#     return entropy, information
# ```

# %%
lesson.check_program("doubt")
doubt = lesson.mine("doubt")
entropy, information = doubt(answers.routes.exp().transpose(0, 1))
print(f"AdaMix, seed 20: {float(entropy.mean()):.3f} nats of doubt, {float(information.mean()):.3f} between routes")

# %% [markdown]
# ## Beside it: a deep ensemble and one adapter
#
# *Deep ensembles* average models that were trained apart
# ([Lakshminarayanan et al., 2017](https://arxiv.org/abs/1612.01474)). Four of 150 steps have AdaMix's compute.

# %%
lesson.side_by_side([20, 21]).round(3)

# %%
lesson.forest("06", "deep ensemble of four, trained apart, minus")

# %% [markdown]
# **Here AdaMix loses**: at equal compute the deep ensemble is *shown* to be more accurate, by 2.1 points (0.8
# to 3.3), at four passes an answer; their losses are *alike*. So are the doubts between its members and between
# AdaMix's routes, both below 0.02 nats.
#
# ## Calibration
#
# A model is *calibrated* if what it gives 80 % is right in 80 % of the cases. One number, the *temperature*, often
# mends it: divide the logits by it, fitted on rows that are not judged on ([Guo et al.,
# 2017](https://arxiv.org/abs/1706.04599)). A fair comparison rescales **both** sides.

# %%
prediction = lesson.Prediction(
    "After both temperatures were fitted, whose loss is lower: merged AdaMix, or one slow adapter with averaging?",
    answers=("AdaMix", "the slow adapter", "not shown"),
)
prediction

# %%
prediction.then(
    lambda: [lesson.draw_reliability(20), *(lesson.forest("06", about) for about in ("confidence", "Mix minus s"))],
    lesson.outcome("06", "both rescaled: merged AdaMix minus slow", "the slow adapter", "AdaMix", "not shown"),
)

# %% [markdown]
# As trained, one adapter is far too sure and AdaMix too modest, both *shown*. With both temperatures fitted, AdaMix's
# loss is still below that adapter's (*shown*). A slow adapter with averaged weights is *alike* as trained, and *not
# shown* to differ once both are rescaled: lesson 07.
#
# ## A text of another kind
#
# Routes, members and dropout masks now read what *you* type. The task is to tell opinions on films from plots.
# Break it: press "nonsense".

# %%
models = {name: load_twin(name, 20, data="noisy") for name in ("adamix", "apart")}
lesson.spread_explorer(models, load_task("subjectivity"))

# %% [markdown]
# All routes can agree on nonsense. Nothing in the loss asks them to doubt what they never saw, and a text in the tone
# of a review is an opinion to each of them. Agreement says that routes were trained to agree, not that they know.
#
# ## Exercise: average (five minutes)
#
# `average(logits)`: from `[rows, routes, classes]` to Eq. 7's probabilities `[rows, classes]`. The version below
# makes a common mistake.


# %%
def average(logits):
    return logits.mean(1).softmax(-1)


lesson.attempt(lesson.check_marginal, average)

# %% [markdown]
# ## Where the library has it
#
# `analysis/posterior.py`: averages, convergence, doubt; `analysis/calibration.py`: calibration and temperatures.
# `adamix-lab posterior` does it for a folder of yours.
#
# ## You can now
#
# 1. average over routes; 2. split doubt in two; 3. say what is missing for a posterior.
#
# **Three questions.** 1. What would have to change for uniform routes to become a posterior? 2. T goes from 16 to 64.
# What improves? 3. All 16 routes say 95 %. What do you know about the answer?
#
# <details><summary>Answers</summary>1. Their weights would have to follow from rows and a prior, or a KL to that prior
# would have to stand in the loss. 2. The estimate of the average, twofold; not the average. 3. That routes trained
# together agree; not that the text is one they know.</details>

# %%
lesson.brier([prediction])

# %% [markdown]
# ## Further: does disagreement find mistakes?
#
# AUROC: the chance that a wrong answer is in more doubt than a right one; 50 points tell nothing. Mutual information
# against plain entropy:

# %%
lesson.forest("06", "wrong answers")

# %% [markdown]
# ## Further: does Bayes' rule help?
#
# Routes weighed by their likelihood on one half of the rows, judged on the other. Labels do tell something about
# routes, and a uniform q does not listen: about a hundredth of a nat, *shown* for adapters trained apart, *alike* for
# AdaMix.

# %%
lesson.forest("06", "Bayes")
