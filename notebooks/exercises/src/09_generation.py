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
# # Exercises 09 · Generation
#
# Put your answers where `raise NotImplementedError()` stands, and run the cells below each of them. Some tests are run
# only when your notebook is graded. Nothing here trains, and nothing needs the network.

# %%
import torch

# %% [markdown]
# ## 1 · Labels behind a masked prefix
#
# A decoder is trained on `source <sep> target <end>` as one row of ids. Only the target and its end are to be learned:
# every other label is -100. Labels are *unshifted*: the label at a position is the id that stands there, and the loss
# compares it with the prediction one position earlier. Return the ids and the labels, two lists of equal length.


# %% answer="mask" minutes=10 difficulty=2 aims="a decoder learns its source, too, or labels are shifted twice"
def encode(source, target, sep, end):
    """(ids, labels) of a pair; source and target are lists of ids."""
    ### BEGIN SOLUTION
    written = [*target, end]
    return [*source, sep, *written], [-100] * (len(source) + 1) + written
    ### END SOLUTION


# %% check="mask-shape" points=1
ids, labels = encode([5, 6, 7], [8, 9], 1, 2)
assert ids == [5, 6, 7, 1, 8, 9, 2], "The row is source, separator, target, end."
assert len(labels) == len(ids), "A label for every id."
print("One row, as many labels.")

# %% check="mask-labels" points=2
# These tests are run when your notebook is graded: where the loss counts, and what it counts.
### BEGIN HIDDEN TESTS
from adamix_lab.lessons.checks import refuse_library

refuse_library(encode)
for n_source, n_target in ((3, 2), (1, 4), (6, 1)):
    source, target = list(range(10, 10 + n_source)), list(range(30, 30 + n_target))
    ids, labels = encode(source, target, 1, 2)
    counted = [n for n, label in enumerate(labels) if label != -100]
    first = n_source + 1
    assert counted[:1] != [first - 1], "Off by one: the separator is not to be learned, the source's end is fixed."
    assert counted == list(range(first, first + n_target + 1)), "Exactly the target and its end are to be learned."
    assert [labels[n] for n in counted] == [ids[n] for n in counted], "A label is the id of its own position."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · Slot coverage
#
# A meaning representation is a dict from slots to values. Return the share of its values that stand in a text: as whole
# words, whether in capitals or not.


# %% answer="coverage" minutes=8 difficulty=1 aims="a text that overlaps with a reference says what it should"
def slot_coverage(text, slots):
    """The share of the values that the text holds, 0 to 1."""
    ### BEGIN SOLUTION
    import re

    words = re.findall(r"\w+", text.lower())
    return sum(value.lower() in words for value in slots.values()) / len(slots)
    ### END SOLUTION


# %% check="coverage-plain" points=1
meaning = {"event": "race", "place": "school", "month": "June", "host": "king"}
assert slot_coverage("In June there is a race.", meaning) == 0.5, "Two of four values stand in this text."
assert slot_coverage("", meaning) == 0.0, "Nothing is said, nothing is covered."
print("Counted.")

# %% check="coverage-words" points=2
# These tests are run when your notebook is graded: capitals, commas, and words inside of other words.
### BEGIN HIDDEN TESTS
refuse_library(slot_coverage)
assert slot_coverage("KING: a Race, at the School; june.", meaning) == 1.0, "Capitals and marks do not matter."
assert slot_coverage("Asking for the embrace of scholars.", meaning) == 0.0, "asking holds no king, embrace no race."
assert slot_coverage("A race, a race, a race, a race.", meaning) == 0.25, (
    "Said four times, it is still one of four slots."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · One route a text, so that generation replays
#
# `next_token(tokens, route)` is a decoder: it gives the next token (a number) after a list of tokens, under a route (a
# list of expert numbers). Write a text of `n` tokens after the prompt: draw *one* route from the seed, `layers` numbers
# from 0 to `experts - 1`, and hold it for the whole text. The same seed has to give the same text, whoever drew what in
# between. Return the new tokens and the route.


# %% answer="replay" minutes=15 difficulty=2 aims="routes of a text are a coin at every token, not to be repeated"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    """(list of n new tokens, route): one route for the whole text, a function of the seed."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed)
    route = torch.randint(experts, (layers,), generator=generator).tolist()
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens, route))
    return tokens[len(prompt) :], route
    ### END SOLUTION


# %% check="replay-length" points=1
def toy(tokens, route):
    return (3 * tokens[-1] + sum((k + 1) * expert for k, expert in enumerate(route)) + len(tokens)) % 101


new, route = write(toy, [1, 2], 6, seed=0)
assert len(new) == 6 and len(route) == 4, "Six new tokens without the prompt, and a route of four numbers."
assert all(0 <= expert < 4 for expert in route), "Experts count from 0 to 3."
print("A text and its route.")

# %% check="replay-same" points=2
# These tests are run when your notebook is graded: replay, one route for all tokens, different seeds.
### BEGIN HIDDEN TESTS
refuse_library(write)
seen = []


def watched(tokens, route):
    seen.append((list(tokens), tuple(route)))
    return toy(tokens, route)


prompt = [4, 8]
first = write(watched, prompt, 8, seed=3)
assert prompt == [4, 8], "The prompt was changed: it belongs to the caller."
assert len({route for _, route in seen}) == 1, "The route changed within the text."
assert seen[0][1] == tuple(first[1]), "The route that is returned is not the one that was used."
assert [len(tokens) for tokens, _ in seen] == list(range(2, 10)), "Each token is written after all those before it."
torch.manual_seed(99)
torch.rand(5)
assert write(toy, [4, 8], 8, seed=3) == first, "The same seed gave another text: is the route drawn globally?"
routes = {tuple(write(toy, [4, 8], 1, seed=seed)[1]) for seed in range(60)}
assert len(routes) > 30, "Sixty seeds give hardly more than one route: it has to depend on the seed."
assert {expert for route in routes for expert in route} == {0, 1, 2, 3}, "Some expert is never drawn."
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Which beam wins?
#
# A finished text has the log-probabilities of its tokens. Adding up favours short texts: every further token costs.
# Beam search divides the sum by the text's length to a power, the length penalty. Return the index of the best text.


# %% answer="beam" minutes=6 difficulty=2 aims="the most probable text is the best one"
def best_text(log_probabilities, penalty):
    """The index of the text with the highest sum / length ** penalty; a list of lists of log-probabilities."""
    ### BEGIN SOLUTION
    scores = [sum(one) / len(one) ** penalty for one in log_probabilities]
    return scores.index(max(scores))
    ### END SOLUTION


# %% check="beam-sum" points=1
short, long = [-0.9, -0.9], [-0.5, -0.5, -0.5, -0.5, -0.5]
assert best_text([short, long], penalty=0.0) == 0, "Without a penalty sums are compared: -1.8 is above -2.5."
print("Sums are compared.")

# %% check="beam-length" points=2
# These tests are run when your notebook is graded: penalties in between and above 1.
### BEGIN HIDDEN TESTS
refuse_library(best_text)
assert best_text([short, long], penalty=1.0) == 1, "With penalty 1 means are compared: -0.5 is above -0.9."
assert best_text([[-1.0], [-0.6] * 4], penalty=0.5) == 0, "-1.0 against -2.4 / 2 = -1.2."
assert best_text([[-1.0], [-0.6] * 4], penalty=0.8) == 1, "-1.0 against -2.4 / 3.03 = -0.79."
assert best_text([[-0.5], [-0.52] * 3], penalty=1.2) == 1, "Above 1 length is rewarded: -0.5 against -1.56 / 3.74."
### END HIDDEN TESTS
