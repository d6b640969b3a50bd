# %% answer="mask" name="the source is learned, too" loses="mask-labels"
def encode(source, target, sep, end):
    ids = [*source, sep, *target, end]
    return ids, list(ids)


# %% answer="mask" name="off by one: the separator is learned" loses="mask-labels"
def encode(source, target, sep, end):
    ids = [*source, sep, *target, end]
    return ids, [-100] * len(source) + ids[len(source) :]


# %% answer="mask" name="shifted here and again in the loss" loses="mask-labels"
def encode(source, target, sep, end):
    ids = [*source, sep, *target, end]
    return ids, [-100] * len(source) + [*target, end, -100]


# %% answer="mask" name="the end is not learned" loses="mask-labels"
def encode(source, target, sep, end):
    ids = [*source, sep, *target, end]
    return ids, [-100] * (len(source) + 1) + [*target, -100]


# %% answer="mask" name="labels of the target only" loses="mask-shape mask-labels"
def encode(source, target, sep, end):
    return [*source, sep, *target, end], [*target, end]


# %% answer="coverage" name="words inside of words" loses="coverage-words"
def slot_coverage(text, slots):
    return sum(value.lower() in text.lower() for value in slots.values()) / len(slots)


# %% answer="coverage" name="capitals matter" loses="coverage-words"
def slot_coverage(text, slots):
    import re

    words = re.findall(r"\w+", text)
    return sum(value in words for value in slots.values()) / len(slots)


# %% answer="coverage" name="marks stick to words" loses="coverage-plain coverage-words"
def slot_coverage(text, slots):
    words = text.lower().split()
    return sum(value.lower() in words for value in slots.values()) / len(slots)


# %% answer="coverage" name="slots instead of values" loses="coverage-plain coverage-words"
def slot_coverage(text, slots):
    words = text.lower().split()
    return sum(slot in words for slot in slots) / len(slots)


# %% answer="coverage" name="every mention counts" loses="coverage-words"
def slot_coverage(text, slots):
    import re

    words, values = re.findall(r"\w+", text.lower()), [value.lower() for value in slots.values()]
    return sum(word in values for word in words) / len(slots)


# %% answer="replay" name="a coin at every token" loses="replay-same"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(n):
        route = torch.randint(experts, (layers,), generator=generator).tolist()
        tokens.append(next_token(tokens, route))
    return tokens[len(prompt) :], route


# %% answer="replay" name="drawn from the global generator" loses="replay-same"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    route = torch.randint(experts, (layers,)).tolist()
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens, route))
    return tokens[len(prompt) :], route


# %% answer="replay" name="the same route for every seed" loses="replay-same"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    route = [0] * layers
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens, route))
    return tokens[len(prompt) :], route


# %% answer="replay" name="the prompt is written into" loses="replay-same"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    generator = torch.Generator().manual_seed(seed)
    route = torch.randint(experts, (layers,), generator=generator).tolist()
    start = len(prompt)
    for _ in range(n):
        prompt.append(next_token(prompt, route))
    return prompt[start:], route


# %% answer="replay" name="the prompt is counted" loses="replay-length replay-same"
def write(next_token, prompt, n, seed, layers=4, experts=4):
    generator = torch.Generator().manual_seed(seed)
    route = torch.randint(experts, (layers,), generator=generator).tolist()
    tokens = list(prompt)
    while len(tokens) < n:
        tokens.append(next_token(tokens, route))
    return tokens[len(prompt) :], route


# %% answer="beam" name="the most probable text wins" loses="beam-length"
def best_text(log_probabilities, penalty):
    scores = [sum(one) for one in log_probabilities]
    return scores.index(max(scores))


# %% answer="beam" name="always the mean" loses="beam-sum beam-length"
def best_text(log_probabilities, penalty):
    scores = [sum(one) / len(one) for one in log_probabilities]
    return scores.index(max(scores))


# %% answer="beam" name="the penalty multiplies" loses="beam-length"
def best_text(log_probabilities, penalty):
    scores = [sum(one) * len(one) ** penalty for one in log_probabilities]
    return scores.index(max(scores))


# %% answer="beam" name="divided by penalty times length" loses="beam-length"
def best_text(log_probabilities, penalty):
    scores = [sum(one) / (len(one) * penalty + 1e-9) for one in log_probabilities]
    return scores.index(max(scores))
