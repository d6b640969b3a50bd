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
# # 00 · Four adapters for the price of one
#
# A language model can be *frozen*: its weights no longer change, and a few small layers inside it, called
# [adapters](https://arxiv.org/abs/1902.00751), are trained instead. [AdaMix](https://arxiv.org/abs/2205.12410) trains
# four adapters where others train one. Each batch of sentences passes through one of them, drawn at random, and at the
# end their weights are averaged into one. **What does that promise, and is it true?**
#
# Afterwards you will be able to
#
# 1. say where adapters sit, and count their weights;
# 2. train AdaMix beside a single adapter, and say who wins when;
# 3. name the opponent that a fair comparison needs.
#
# *Fifty minutes in class; a minute of computing. No network, no GPU.*

# %%
from adamix_lab import Recipe, baseline, load_backbone, load_task, parameter_report, train
from adamix_lab.lessons import tour as lesson

lesson.draw_block(route=(2, 0))

# %% [markdown]
# A Transformer block is attention, then a feed-forward network (FFN), and behind that the adapter. Its
# *down-projection* turns a token's d numbers into r, far fewer; f bends them; an *up-projection* leads back to d, and
# the result is added to x:
#
# $$x \leftarrow x + f(x \, W_{down}) \, W_{up}$$
#
# AdaMix keeps M = 4 down-projections here, its *experts*; they share one up-projection. A *route* names an expert in
# each adapted block. The lit line is its way through this one.
#
# ## What the paper prints

# %%
lesson.table_1()

# %% [markdown]
# AdaMix has as few weights as one small adapter, and the best average, above even *full fine-tuning*, which trains
# every weight (RoBERTa-large, eight tasks; the other rows were copied from earlier papers).
#
# The paper and articles say "from 355MB to 0.8MB". They mean *million weights*. A weight takes four bytes, so 0.8
# million take 3.2 MB; and the head, the last layer, which names the class, is not counted.
#
# ## Four curves
#
# What does averaging weights do? Shrink the model to one number in, one out. Frozen, it is a straight line; each expert
# bends it into a thin curve. The dashed *ensemble* is the mean of the answers, the thick *merge* the answer of the mean
# weights. Every movement of a slider trains four experts.

# %%
lesson.four_curves()

# %% [markdown]
# So a merge can lie on its experts or leave them. One dimension hides words, layers and probabilities, and AdaMix does
# not win there.
#
# ## The promise, on real sentences
#
# Does a sentence about a film tell an opinion, or the plot? There are 400 to learn from, and on purpose a quarter of
# the labels is wrong. MiniLM, with 22 million weights, is frozen; adapters of size 16 sit in its top two blocks. A
# single adapter and AdaMix train for 300 steps at one rate. You see the *loss*: minus the logarithm of the probability
# given to the label. Where it is low, labels are known by heart, wrong ones too.

# %%
task = load_task("subjectivity", rows=400, label_noise=0.25, part="fresh")
recipe = Recipe(steps=300, batch_size=16, lr=2e-3, max_length=80, dev_fraction=0.0, cache_prefix=True)
watch = lesson.Watch(task)


def learn(name):
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels, pooling="cls")
    mixture = baseline(name, model, blocks=(-2, -1))
    looking = watch.on_step(name, mixture, tokenizer)
    train(mixture, task, tokenizer, lesson.fitted(name, recipe), progress=False, on_step=looking)
    return mixture, tokenizer


single, tokenizer = learn("single")
adamix, tokenizer = learn("adamix")

# %% [markdown]
# The single adapter knows its labels far better. Now both judge new sentences, with right labels. Results stay hidden
# until you answer.

# %%
ahead = lesson.Prediction(
    "Accuracy on new sentences after 300 steps: who is ahead?", ("AdaMix", "the single adapter", "alike", "not shown")
)
ahead

# %%
truth = lesson.outcome("00", "wrong labels: AdaMix minus a single adapter, accuracy", "AdaMix", "the single adapter")
ahead.then(lambda: [watch.picture(), lesson.forest("00", "a single adapter,")], truth)

# %% [markdown]
# One *seed*, one draw of all that is random, decides nothing; so below your two runs stand ten seeds. A line is a mean
# difference with its 95 % interval. *Alike*: it lies within what is too small to matter. *Shown*: it does not, and
# leaves out 0. All else is *not shown*.
#
# At the same rate, on wrong labels, AdaMix is ahead. With right labels no lead in accuracy is shown, but one in loss,
# which punishes being sure and wrong.
#
# ## Where would you stop?
#
# Nobody has to train for 300 steps. Drag either stop.

# %%
lesson.stop_explorer()

# %% [markdown]
# The winner depends on the stop. (You chose it on the sentences that judge, which an experiment must not do.) So what
# does AdaMix change: what can be learned, or how soon?
#
# ## The fair opponent
#
# Each expert is drawn in a quarter of the steps, so it moves about a quarter as far; and four are averaged. A single
# adapter can have both: a quarter of the rate for its down-projection (lr/M), and its weights' average over the last
# three quarters of the steps ([SWA](https://arxiv.org/abs/1803.05407)).

# %%
left = lesson.Prediction(
    "AdaMix against the single adapter with lr/M and SWA: whose accuracy is higher?",
    ("AdaMix", "the single adapter", "alike", "not shown"),
)
left

# %%
truth = lesson.outcome("00", "with lr/M and SWA, accuracy", "AdaMix", "the single adapter")
left.then(
    lambda: [lesson.draw_seeds("single", "adamix", "slow-swa", "probe"), lesson.forest("00", "wrong labels")], truth
)

# %% [markdown]
# The lead is gone: small steps and an average give one adapter what the mixture gave. And a *linear probe*, a plain
# classifier on what the frozen model says, is right more often than both. Both are true: at one rate AdaMix wins by
# far, and whoever tunes the rate does not see it (lesson 07).
#
# One part of the promise holds: the merge is right as often as the ensemble of all sixteen routes, at a sixteenth of
# the cost. Lesson 03 shows why, and where it fails.

# %% [markdown]
# ## The price

# %%
print(parameter_report(adamix))

# %% [markdown]
# "Without increasing FLOPs" (operations) is true once merged. In training a step has two passes, and the paper takes
# once or twice the usual steps.
#
# **Break it.** Set `label_noise=0.0` and run on. What is left of the lead?
#
# ## Exercise: count the weights (five minutes)
#
# Adapters of size r at width d, M experts at each of several *sites*, the adapted places. How many weights are trained,
# how many after *merging* all into one? With `shared`, one up-projection serves all experts of a site. Biases count,
# r below and d above; the head does not. This count is wrong, and the check says why.


# %%
def count(d, r, experts, sites, shared):
    trained = sites * experts * 2 * d * r
    merged = sites * 2 * d * r
    return trained, merged


lesson.attempt(lesson.check_count, count)

# %% [markdown]
# ## How well did you predict?

# %%
lesson.brier([ahead, left])

# %% [markdown]
# ## Where the library has it
#
# The layer is `adamix_lab/core/mixture.py`, the training loop `adamix_lab/training/train.py`;
# the ten seeds, `data/results/tour/make.py`.
#
# ## You can now
#
# 1. count adapters; 2. train AdaMix beside one and say who wins when; 3. name the fair opponent.
#
# **Three questions.** 1. What does merging cost at inference? 2. "355 MB became 0.8 MB": what is wrong? 3. AdaMix is
# 8 points ahead at the same rate. What would you train before you believe that the mixture did it?
#
# <details><summary>Answers</summary>1. As much as one adapter. 2. They are million weights: 1,420 and 3.2 MB. 3. One
# adapter with small steps and averaged weights, and one stopped in time.</details>

# %% [markdown]
# ## Further: every effect of this lesson

# %%
lesson.effects_table("00")

# %% [markdown]
# ## Further: a card to keep
#
# - *KL divergence* KL(p‖q): how many nats it costs to expect q where p is true. 0 where they are equal.
# - *NLL*, here "loss": minus the logarithm of the probability given to the right answer; the mean over rows.
# - A *transformer block* is attention, then a feed-forward network (FFN). Adapters here sit at the FFN's output.
# - A *bottleneck adapter* at width d and size r: down `[r, d]`, up `[d, r]`, with biases.
# - [LoRA](https://arxiv.org/abs/2106.09685) of rank r beside a weight `[out, in]`: A `[r, in]`, B `[out, r]`. It adds
#   `B A x`.
#
# Five questions to test yourself:
#
# 1. What is KL(p‖p)? 2. A right answer gets probability 0.5: how many nats? 3. Which half of a block does the adapter
# follow? 4. How many weights has a bottleneck at d = 10, r = 2? 5. Which matrix of LoRA reads the input?
#
# <details><summary>Answers</summary>1. 0. 2. ln 2, about 0.69. 3. The feed-forward half. 4. 2 × 10 × 2 + 2 + 10 = 52.
# 5. A.</details>
