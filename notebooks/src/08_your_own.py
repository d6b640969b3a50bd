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
# # 08 · Your own: adaptation, model, task, and the way out
#
# What you train here has to work elsewhere, and what is yours has to work here. Afterwards you will be able to
#
# 1. write an adaptation in about fifteen lines and mix it at once;
# 2. attach experts to your own model and train them on your own rows;
# 3. export a merge that stock `peft` loads, and say what an export cannot hold.
#
# *Fifty minutes in class; half a minute of computing on two CPU cores. No network, no GPU.*

# %%
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, DistilBertConfig

from adamix_lab import Recipe, attach, export, load_backbone, load_task, load_twin, merge_products, train
from adamix_lab.core.adaptations import Adaptation, Weight, kaiming, linear, normal, ones, zeros
from adamix_lab.lessons.checks.beyond import check_gated_lora, check_peft_weight
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.training.evaluation import evaluate
from adamix_lab.lessons.your_own import combining_dial, load_loras, prepare
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.widgets import Prediction

torch.set_num_threads(2)
OUT = Path(tempfile.mkdtemp())  # everything written here goes there
task = load_task("aspects")
loras, tokenizer = load_loras("adamix")  # AdaMix's LoRA experts on MiniLM, B shared, shipped with the project
pairs, _ = load_loras("tied")  # nothing shared: each A belongs to its own B

# %% [markdown]
# Four LoRA experts, exported to stock `peft`, one adapter each. Its `add_weighted_adapter` combines them with a weight
# for each expert. A mean of four gives each the weight 1/4. How large is the update of peft's "linear" at 1/4, as a
# multiple of the update of our merge?

# %%
prediction = Prediction("Norm of peft's update at weight 1/4, in multiples of our merge's", unit="times", high=20)
prediction

# %%
grounds = {name: prepare(made, task, tokenizer, name) for name, made in {"AdaMix": loras, "tied pairs": pairs}.items()}
dial = combining_dial(grounds, prediction)
dial

# %% jupyter={"outputs_hidden": true}
dial.press("Show me")
dial.picture

# %% [markdown]
# ## Where the M comes from
#
# An update is a product, B A. A combination by name "linear" puts the *root* of the weight w on each A and on each B,
# and adds up. So M experts at weight w give w M² times mean(B) mean(A): M² at weight 1, M at 1/M, and the merge at
# 1/M². By hand, in one dimension:

# %%
A, B = torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([2.0, 2.0, 1.0, 3.0])  # four experts of rank 1
for w in (1, 1 / 4, 1 / 16):
    combined = (w**0.5 * B).sum() * (w**0.5 * A).sum()
    print(f"weight {w:6.4f}: {float(combined):5.1f}, {float(combined / (B.mean() * A.mean())):4.1f} times the merge's")

# %% [markdown]
# No error tells you: the model answers, with an update that is too large. Does accuracy tell? AdaMix's shipped LoRAs,
# on 249 rows and three seeds:

# %%
effects_table("08", "AdaMix")

# %% [markdown]
# It does not: over three seeds every interval of peft's "linear" against the merge holds 0. These experts were trained
# briefly, and seeds differ. Logits tell at once. So compare logits whenever weights change hands: that is what
# `export` does.
#
# ## Pairs: two different means
#
# AdaMix shares B, so mean(B Aᵢ) = B mean(A): one merge. Experts that are pairs have two. "cat" at 1/M gives the mean of
# products (our `merge_products`), "linear" at 1/M² the product of means (our `merge`). Set the dial to tied pairs.

# %%
dial.set(experts="tied pairs", combination="cat", weight="1/4")
dial.picture

# %%
effects_table("08", "tied")

# %% [markdown]
# Here it is an effect, on every seed. The mean of products keeps what the experts learned; the mean of factors takes
# them back to about chance. "linear" at 1/M is no substitute: its loss is higher, too.
#
# ## An adaptation of your own
#
# It declares its weights, with the side that each belongs to, and one pure function. `linear` serves one weight and a
# stack of them. This one is a small network beside the frozen layer:


# %%
@dataclass(frozen=True)
class TanhUpdate(Adaptation):
    """`y = Wx + up(tanh(down(x)))`."""

    rank: int = 4
    kind: ClassVar[str] = "tanh"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def weights(self, in_features, out_features):
        return {
            "down": Weight((self.rank, in_features), "down", normal),
            "up": Weight((out_features, self.rank), "up", zeros),
        }

    def apply(self, base, x, w, training):
        return base(x) + linear(torch.tanh(linear(x, w["down"])), w["up"])


# %% [markdown]
# ## Your own rows, your own model
#
# Rows: a CSV or JSON-lines file, or a folder with `train.*` and `validation.*`. Model: any of Hugging Face's. Here a
# tiny DistilBERT with random weights stands for yours; `targets` says where experts go. One that matches nothing is
# told, with near misses. Sharing, two views, merging and the ensemble come by themselves.
# (A random model learns next to nothing in 20 steps: what counts is that all of it runs.)

# %%
NOUNS, ADJECTIVES = ("food", "film", "staff", "music"), {"lovely": "yes", "awful": "no", "superb": "yes", "dull": "no"}
with open(OUT / "mine.csv", "w", newline="", encoding="utf-8") as file:
    write = csv.writer(file)
    write.writerow(["review", "recommend"])
    write.writerows([f"the {noun} was {a}", told] for noun in NOUNS for a, told in ADJECTIVES.items() for _ in range(4))
mine = load_task(OUT / "mine.csv", text="review", label="recommend")
config = DistilBertConfig(vocab_size=len(tokenizer), dim=64, hidden_dim=128, n_layers=2, n_heads=2, num_labels=2)
torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_config(config)
mixture = attach(model, TanhUpdate(rank=4), experts=4, share="up", targets=["q_lin", "v_lin"])
history = train(mixture, mine, tokenizer, Recipe(steps=20, batch_size=16, dev_fraction=0.0), progress=False)
try:
    attach(
        AutoModelForSequenceClassification.from_config(config),
        TanhUpdate(),
        targets="distilbert.transformer.layer.*.attention.q_line",
    )
except ValueError as error:
    print(error)
print(f"{mine.classes}, {len(mine.train)} rows to train on, {len(history.rows)} log rows")
pd.DataFrame([r.row() for r in evaluate(mixture, mine, tokenizer, ["merged", "fixed", "random", "ensemble"])]).round(2)

# %% [markdown]
# ## The way out
#
# `export` writes the merge, loads it back with the stock library and compares logits before anything is put in place.
# Then anyone can load it, without adamix_lab:

# %%
done = export(loras, OUT / "merged", format="peft")
print(f"{done.parameters:,} parameters, {done.bytes / 1e3:.0f} kB, read back by {done.read_by}: {done.difference:.1g}")
plain = load_backbone("minilm", num_labels=2, pooling="cls")[0]  # a fresh base, as a colleague has it
theirs = PeftModel.from_pretrained(plain, OUT / "merged").eval()
batch = tokenizer(["food : the food was lovely, but the film was awful."], return_tensors="pt")
with torch.no_grad():
    print("difference of logits:", float((theirs(**batch).logits - loras(**batch).logits).abs().max()))

# %% [markdown]
# ## Break it: what an export cannot hold
#
# peft has no bottleneck after a layer, no adaptation of yours, no route drawn at random, and one update a layer: pairs
# that were never merged have to be merged by a mean that you choose. Each is refused with a way out:

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
# Complete `GatedLoRA`: `y = Wx + gate * (B A x)`, with A `[rank, in]`, B `[out, rank]`, a gate `[out]` of ones that
# does not decay, and nothing changed at the start. Views arrive as a stack of weights: `along(update, gate)` shapes a
# vector for it. Then give each expert's weight in peft. Both answers below are wrong.


# %%
@dataclass(frozen=True)
class GatedLoRA(Adaptation):
    rank: int = 4
    kind: ClassVar[str] = "gated-lora"
    sides: ClassVar[tuple[str, ...]] = ("A", "B")

    def weights(self, in_features, out_features):
        return {
            "A": Weight((self.rank, in_features), "A", kaiming),
            "B": Weight((out_features, self.rank), "B", zeros),
            "gate": Weight((out_features,), "B", ones),
        }

    def apply(self, base, x, w, training):
        return base(x) + w["gate"] * linear(linear(x, w["A"]), w["B"])


def weight(experts, combination):
    return 1 / experts


attempt(check_gated_lora, GatedLoRA)
attempt(check_peft_weight, weight)

# %% [markdown]
# ## Where the library has it
#
# Adaptations: `adamix_lab/core/adaptations.py`. Exports: `adamix_lab/interop/` and `adamix-lab export`; formats peft,
# adapters, transformers, onnx, peft-experts. LoRAs from elsewhere as experts: `import_peft`.
#
# ## You can now
#
# 1. write an adaptation and mix it; 2. attach experts to your model and train them on your rows; 3. export a merge, and
# name what stays behind.
#
# **Three questions.** 1. Five experts, "linear", weight 1/5 each: how many times the merge's update? 2. When is the
# mean of products the product of means? 3. A colleague wants your bottleneck in peft. What do you say?
#
# <details><summary>Answers</summary>1. Five times. 2. When one side is shared, or every A meets every B equally often.
# 3. It cannot hold one; the formats adapters and onnx can.</details>

# %% [markdown]
# ## Further: experts, not only their merge
#
# `format="peft-experts"` writes each expert and the merge, side by side: for peft's own combinations, as in the dial.
# What is lost is the route: peft runs the one adapter that is set, for all rows and layers.

# %%
folder = export(loras, OUT / "experts", format="peft-experts").folder
print(sorted(path.name for path in folder.iterdir()))
