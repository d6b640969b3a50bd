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
# # 09 · Generation: which route writes?
#
# A text is many decisions, one a token. Should one route write the whole text, or may a new one be drawn for every
# token? This lesson is an elective: it asks the question of one small decoder, and tells what was measured there.
# Afterwards you will be able to
#
# 1. train a decoder on what it has to write, and on nothing else;
# 2. measure whether a text says what it should: slot coverage;
# 3. hold one route for a text, and say what happens if you do not.
#
# *Fifty minutes in class; half a minute of computing on two CPU cores. No network, no GPU.*

# %%
import torch
from IPython.display import display

from adamix_lab import load_backbone
from adamix_lab.lessons import generation as lesson

task = lesson.load_generation_task("notices")
lesson.draw_task(task)

# %% [markdown]
# A small decoder (5.3 million parameters, pre-trained on old books) was taught by AdaMix to write notices: it is given
# *slots* with values, such as `event: race`, and writes a sentence that says them. Above, a tick means that a person's
# sentence has the value. *Slot coverage* is the share of values that stand in a text as whole words.
#
# The experts are LoRA updates ([Hu et al.](https://arxiv.org/abs/2106.09685)), four for each adapted matrix. A route
# names one of them for each matrix. The library draws it once and holds it for the whole text. The other way draws a
# new route for every token; the keys and values that earlier tokens left in the attention's memory then come from
# other routes.

# %%
prediction = lesson.Prediction("Which realises more of the slots?", answers=lesson.ANSWERS)
display(prediction)
held = "one random route a text"
prediction.then(lambda: lesson.forest("09", held), lesson.outcome("09", held, *lesson.ANSWERS))

# %% [markdown]
# ## Read what they write
#
# Choose an input and a route; columns are routes, and beams are unfinished texts that are kept side by side. **The
# number to reach: over 97 % of the slots of ten inputs.** Which inputs lose a slot on every route, and which on some?

# %%
explorer = lesson.decoding_explorer()
explorer

# %% [markdown]
# ## What is learned: the target, and nothing else
#
# A decoder reads source, separator, target and end as one row of tokens $x_1, \dots, x_n$. The loss counts the target
# and its end only, each predicted from all that stands before it:
#
# $$L = -\frac{1}{|T|} \sum_{t \in T} \log p(x_t \mid x_{<t}) .$$
#
# Labels are -100 where nothing is to be learned. They are *unshifted*: each stands at its own token, and the loss
# compares it with the prediction one position earlier.

# %%
decoder, tokenizer = load_backbone("books-gpt2", kind="generation")
(example,) = lesson.encode_pairs(task.train[:1], task, tokenizer)
for number, label in list(zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True))[-18:]:
    print(f"{tokenizer.decode([number])!r:14} {label}")

# %% [markdown]
# **Break it.** Shift the labels by one, as if the loss did not. The code runs, and a loss comes out: nothing warns.
# What would such a model learn to write?

# %%
with torch.no_grad():
    row = example["input_ids"][None]
    logits = decoder(row, attention_mask=torch.ones_like(row)).logits
labels = example["labels"][None]
twice = torch.cat([labels[:, 1:], labels.new_full((1, 1), -100)], 1)
for name, wrong in {"as they should be": labels, "shifted twice": twice, "source, too": row}.items():
    counted = int((wrong[:, 1:] != -100).sum())
    loss = float(lesson.next_token_loss(logits, wrong))
    print(f"{name:18} loss {loss:.2f} nats a token, over {counted} tokens")

# %% [markdown]
# The second is asked, at each place, for the token after the next. The third is asked for the slots, too, which are
# always given.
#
# ## One route a text
#
# A text whose route is held can be written again: it is a function of the source and the seed. So can a text with a new
# route for every token, as long as the draws are seeded. Merged weights draw nothing at all.

# %%
mixture, tokenizer = lesson.load_writer()
source = lesson.inputs()[0]
print(source)
for strategy in ("merged", "random", "random", "anew", "anew"):
    print(f"{strategy:7}", lesson.write_one(mixture, source, tokenizer, strategy, seed=1))

# %% [markdown]
# ## What was measured
#
# Three sets of experts, 80 inputs each; the differences, in points of slot coverage:

# %%
lesson.forest("09")

# %% [markdown]
# *Alike* is a finding: whether a route is held makes a difference of less than one point here. *Not shown* is none:
# with three seeds, one of which learned less, larger differences are possible. Nothing of this is known for other
# decoders or tasks.
#
# ## Break it: look at one text
#
# One input that loses a slot on some routes. The counts above do not show that routes say the same things in other
# words:

# %%
at = task.sources.index(lesson.inputs()[5])
texts = {name: written[at] for name, written in lesson.load_texts().items() if "beams" not in name}
for name, written in texts.items():
    print(f"{lesson.plain(name):23} {written}")
lesson.draw_slots(task.sources[at], texts)

# %% [markdown]
# ## Exercise: labels and coverage (fifteen minutes)
#
# `labels_of(source, target, separator, end)` gives the labels of the row `source, separator, target, end`, lists of
# ids. `share(text, slots)` gives the share of the values that stand in the text. Both make a common mistake. Mend them.


# %%
def labels_of(source, target, separator, end):
    return [-100] * len(source) + [separator, *target, end]


def share(text, slots):
    return sum(value in text for value in slots.values()) / len(slots)


lesson.attempt(lesson.check_prefix_labels, labels_of)
lesson.attempt(lesson.check_coverage, share)
print(lesson.brier([prediction]))

# %% [markdown]
# ## Where the library has it
#
# Masked pairs are in `adamix_lab/generation/training.py`, one route a text or a step in `decoding.py` beside it,
# coverage in `tasks.py`. The experts are in `data/generators`, with their `make.py`.
#
# ## You can now
#
# 1. mask a prefix, and detect labels that are off by one; 2. measure slot coverage; 3. hold a route for a text, so that
# it can be written again.
#
# **Three questions.** 1. Which position predicts the first token of the target? 2. A text has a high overlap with its
# references. Does it say every slot? 3. Why is the merge the cheapest way to write the same text twice?
#
# <details><summary>Answers</summary>1. The separator's. 2. Not necessarily: the forms overlap without the values. 3. It
# draws nothing, and runs one set of weights.</details>

# %% [markdown]
# ## Further: scores with several references
#
# [BLEU](https://doi.org/10.3115/1073083.1073135) counts runs of words that a text shares with any of its references;
# each source here has four.

# %%
import pandas as pd

chosen = {"merged": "merged", "fixed-0": "expert 0", "anew": "a new route every token"}
scores = {label: lesson.score(lesson.load_texts()[name], task.references) for name, label in chosen.items()}
pd.DataFrame(scores).T[["BLEU", "NIST", "ROUGE-L", "chrF"]].astype(float).round(2)

# %% [markdown]
# ## Further: a table that does not replicate
#
# The paper's Table 3 has AdaMix with LoRA above full fine-tuning on E2E, with GPT-2 medium. With the small decoder here
# it is far below:

# %%
pd.DataFrame(lesson.e2e_scores()).T[["BLEU", "NIST", "ROUGE-L"]].astype(float).round(2)

# %% [markdown]
# One seed, 800 steps, a model seventy times smaller: one seed decides nothing, and this does not contradict the paper.
# It says that a result belongs to the size at which it was measured.
