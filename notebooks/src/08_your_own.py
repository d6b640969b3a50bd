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
# # 08 · Yours: your adaptation, your rows, and the way out
#
# What is yours has to work here, and what you train here has to work elsewhere. You have four experts, one beside
# another. A colleague has only the stock library `peft`. Can they use your merge? Afterwards you will be able to
#
# 1. write an adaptation in about fifteen lines and mix it at once;
# 2. train experts on your own rows with a stock `Trainer`;
# 3. export a merge that stock `peft` loads, and say what an export cannot hold.
#
# *Fifty minutes in class; half a minute of computing on two CPU cores. No network, no GPU.*

# %%
import csv
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import torch
from IPython.display import display
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, DistilBertConfig, Trainer, TrainingArguments

from adamix_lab import (Adaptation, Weight, attach, evaluate, export, load_backbone, load_task, load_twin, merge,
                        merge_products)  # fmt: skip
from adamix_lab.lessons import your_own as lesson

OUT = Path(mkdtemp())  # everything written here goes there
lesson.draw_experts()

# %% [markdown]
# Four LoRA experts ([Hu et al.](https://arxiv.org/abs/2106.09685)) are drawn as arrows: each is an update $B_i A_i$
# of a frozen matrix. Our `merge` averages the $A_i$ and the $B_i$. `peft` combines adapters by `add_weighted_adapter`,
# with a weight for each. A mean of four gives each the weight $1/4$.

# %%
prediction = lesson.Prediction("How large is peft's “linear” at 1/4, beside our merge?", answers=lesson.ANSWERS)
display(prediction)
prediction.then(lambda: lesson.draw_experts(1 / 4), "4 times as large")

# %% [markdown]
# ## The dial
#
# **The number to reach: logits equal to our merge's within 1e-5**, by stock `peft`. Which combination and weight?
#
# <details><summary>Why (open it after your prediction)</summary>
#
# An update is a *product*. "linear" puts the root of the weight $w$ on each factor and adds up:
#
# $$\Big(\sum_i \sqrt{w}\,B_i\Big)\Big(\sum_i \sqrt{w}\,A_i\Big) = w\,M^2\;\bar B\,\bar A .$$
#
# At $w = 1/M$ that is $M$ times the merge, which needs $w = 1/M^2$. No error tells you: the model answers.
#
# </details>

# %%
loras, tokenizer = lesson.load_loras("adamix")  # on MiniLM; B is shared
pairs, _ = lesson.load_loras("tied")  # nothing is shared: each A belongs to its own B
dial = lesson.combining_dial({"AdaMix": loras, "tied pairs": pairs}, tokenizer)
dial

# %% [markdown]
# Would accuracy have told you? These are the shipped experts on 249 rows:

# %%
lesson.forest("08", "AdaMix")

# %% [markdown]
# So compare logits whenever weights change hands, as `export` does.
#
# ## Pairs have two different means
#
# With a shared $B$, the mean of products is the product of means: $\frac1M\sum_i B A_i = B\bar A$. Experts that are
# pairs, as those one finds elsewhere, have two means. "cat" at $1/M$ gives the mean of products (our `merge_products`),
# "linear" at $1/M^2$ the product of means (our `merge`). Set the dial to tied pairs. Which one keeps what they learned?

# %%
lesson.forest("08", "tied")

# %% [markdown]
# ## An adaptation of your own
#
# It declares its weights, with the side that each belongs to, and one pure function, which must serve one set of
# weights and a stack of them; `lesson.linear` does both. This one is a small network beside the frozen layer:


# %%
@dataclass(frozen=True)
class TanhUpdate(Adaptation):
    """`y = Wx + up(tanh(down(x)))`."""

    rank: int = 4
    kind: ClassVar[str] = "tanh"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def weights(self, in_features, out_features):
        return {
            "down": Weight((self.rank, in_features), "down", lesson.normal),
            "up": Weight((out_features, self.rank), "up", lesson.zeros),
        }

    def apply(self, base, x, w, training):
        return base(x) + lesson.linear(torch.tanh(lesson.linear(x, w["down"])), w["up"])


# %% [markdown]
# ## Your own rows, your own model, your own Trainer
#
# Rows are a CSV or JSON-lines file. The model may be any of Hugging Face's; a tiny DistilBERT with random weights
# stands for yours, and `targets` says where its experts go. In training, a call with labels draws two routes and
# returns the task loss plus the consistency, so that transformers' own `Trainer` trains AdaMix without knowing it. (A
# random model learns next to nothing in 20 steps: what counts is that all of it runs.)

# %%
NOUNS, ADJECTIVES = ("food", "film", "staff", "music"), {"lovely": "yes", "awful": "no", "superb": "yes", "dull": "no"}
with open(OUT / "mine.csv", "w", newline="", encoding="utf-8") as file:
    write = csv.writer(file)
    write.writerow(["review", "recommend"])
    write.writerows([f"the {noun} was {a}", told] for noun in NOUNS for a, told in ADJECTIVES.items() for _ in range(4))
mine = load_task(OUT / "mine.csv", text="review", label="recommend")
config = DistilBertConfig(vocab_size=len(tokenizer), dim=64, hidden_dim=128, n_layers=2, n_heads=2, num_labels=2)
torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_config(config).eval()
asked = tokenizer("the food was lovely", return_tensors="pt")
with torch.no_grad():
    before = model.distilbert(**asked).last_hidden_state
mixture = attach(model, TanhUpdate(rank=4), experts=4, share="up", targets=["q_lin", "v_lin"])
rows = lesson.encode(mine.train, mine, tokenizer)
settings = TrainingArguments(OUT / "trainer", max_steps=20, learning_rate=1e-2, report_to=[], save_strategy="no",
                             disable_tqdm=True, use_cpu=True)  # fmt: skip
Trainer(mixture, settings, train_dataset=rows, processing_class=tokenizer).train()
evaluate(mixture, mine, tokenizer)

# %% [markdown]
# "AdaMix avoids catastrophic forgetting", says a popular article of 2025. That is true and says little: the base is
# frozen, so switching the experts off gives it back to the last bit. The same holds for every adapter.

# %%
mixture.eval()  # without dropout
with torch.no_grad(), mixture.disabled():
    after = mixture.model.distilbert(**asked).last_hidden_state
print("largest difference of the base's hidden states, before and after training:", float((after - before).abs().max()))

# %% [markdown]
# ## The way out
#
# `export` writes the merge, loads it back with the stock library, and compares logits before anything is put in place.
# Then anyone can load it, without adamix_lab:

# %%
done = export(loras, OUT / "merged", format="peft")
plain = load_backbone("minilm", num_labels=2, pooling="cls")[0]  # a fresh base, as a colleague has it
theirs = PeftModel.from_pretrained(plain, OUT / "merged").eval()
batch = tokenizer(["food : the food was lovely, but the film was awful."], return_tensors="pt")
with torch.no_grad():
    ours = merge(loras)(**batch).logits
    apart = (theirs(**batch).logits - ours).abs().max() / ours.abs().max()
print(f"{done.parameters:,} parameters, {done.bytes / 1e3:.0f} kB; logits differ by {float(apart):.1g} of the largest")

# %% [markdown]
# ## Break it: what an export cannot hold
#
# peft has no bottleneck after a layer, no *adaptation* (the part that is trained) of yours, and one update a layer:
# pairs have to be merged by a mean that you choose. Each is refused with a way out:

# %%
for name, made in {"bottleneck": load_twin("adamix")[0], "yours": mixture, "pairs": pairs}.items():
    try:
        export(made, OUT / name, format="peft")
    except ValueError as error:
        print(f"{name}: {error}\n")
done = export(merge_products(pairs), OUT / "products", format="peft")
print(f"pairs, merged by the mean of products: {done.parameters:,} parameters, difference {done.difference:.1g}")

# %% [markdown]
# ## Exercise: a gated LoRA (fifteen minutes)
#
# Complete `GatedLoRA`: $y = Wx + g \odot (B A x)$ with a gate $g$ of ones that does not decay, and nothing changed at
# the start. Views arrive as a stack of weights: `lesson.along(update, gate)` shapes a vector for it. Then give each
# expert's weight in peft. Both answers below are wrong.


# %%
@dataclass(frozen=True)
class GatedLoRA(Adaptation):
    rank: int = 4
    kind: ClassVar[str] = "gated-lora"
    sides: ClassVar[tuple[str, ...]] = ("A", "B")

    def weights(self, in_features, out_features):
        return {
            "A": Weight((self.rank, in_features), "A", lesson.kaiming),
            "B": Weight((out_features, self.rank), "B", lesson.zeros),
            "gate": Weight((out_features,), "B", lesson.ones),
        }

    def apply(self, base, x, w, training):
        return base(x) + w["gate"] * lesson.linear(lesson.linear(x, w["A"]), w["B"])


def weight(experts, combination):
    return 1 / experts


lesson.attempt(lesson.check_gated_lora, GatedLoRA)
lesson.attempt(lesson.check_peft_weight, weight)
print(lesson.brier([prediction]))

# %% [markdown]
# ## Where the library has it
#
# Adaptations are in `adamix_lab/core/adaptations.py`, exports in `adamix_lab/interop/` and `adamix-lab export` (peft,
# adapters, transformers, onnx). `import_peft` reads LoRAs from elsewhere as experts. The assignment lets you write an
# export of your own.
#
# ## You can now
#
# 1. write an adaptation and mix it; 2. train it on your rows with a stock Trainer; 3. export a merge, and name what
# stays behind.
#
# **Three questions.** 1. Five experts, "linear", weight 1/5 each: how many times the merge's update? 2. When is the
# mean of products the product of means? 3. A colleague wants your bottleneck in peft. What do you say?
#
# <details><summary>Answers</summary>1. Five times. 2. When one side is shared, or every A meets every B equally often.
# 3. It cannot hold one; the formats adapters and onnx can.</details>

# %% [markdown]
# ## Further: merge in the loop, a research exercise
#
# If the merge is what will answer, why not train it? Let the second view be the merge $\bar\theta = \frac1M\sum_i
# \theta_i$ instead of a second route, with the task loss on both. First see what is trivial about it: the merge's
# gradient is the same for every expert,
#
# $$\frac{\partial L(\bar\theta)}{\partial \theta_i} = \frac1M\, L'(\bar\theta) ,$$
#
# so that it moves all experts alike: alone, it trains one adapter, written as a mean of four. Slimmable networks have
# done the like ([in-place distillation](https://arxiv.org/abs/1903.05134)). In pilots with three and four seeds it was
# as good as the experts on made-up sentences, and no better than a single adapter with wrong labels; this library
# has not measured it. The question for you: is anything left over a single adapter with averaged weights (lesson 07)?

# %%
mixture.zero_grad()
torch.nn.functional.cross_entropy(mixture(selection="merge", **asked).logits, torch.tensor([1])).backward()
apart = [float((p.grad - p.grad[:1]).abs().max()) for _, p in mixture.expert_parameters() if len(p) > 1]
print("largest difference between two experts' gradients under the merge:", max(apart))

# %% [markdown]
# ## Further: experts, not only their merge
#
# `format="peft-experts"` writes each expert and the merge, side by side: for peft's own combinations, as in the dial.
# What is lost is the route: peft runs the one adapter that is set, for all rows and layers.

# %%
folder = export(loras, OUT / "experts", format="peft-experts").folder
print(sorted(path.name for path in folder.iterdir()))
