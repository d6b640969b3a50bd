# %% answer="passes" name="M experts cost M passes" loses="passes-many"
def passes(way, M, L):
    return {"merged": 1, "fixed": 1, "random": 1, "four": 4, "ensemble": M}[way]


# %% answer="passes" name="choices add up" loses="passes-many"
def passes(way, M, L):
    return {"merged": 1, "fixed": 1, "random": 1, "four": 4, "ensemble": M * L}[way]


# %% answer="passes" name="the merge runs every expert" loses="passes-one"
def passes(way, M, L):
    return {"merged": M, "fixed": 1, "random": 1, "four": 4, "ensemble": M**L}[way]


# %% answer="four" name="a random route is the average of the answers" loses="four-random"
def four_ways(routes, merged, labels):
    def accuracy(scores):
        return float((scores.argmax(-1) == labels).float().mean())

    mean = accuracy(routes.softmax(-1).mean(0))
    return {"merged": accuracy(merged), "fixed": accuracy(routes[0]), "ensemble": mean, "random": mean}


# %% answer="four" name="logits are averaged" loses="four-ensemble"
def four_ways(routes, merged, labels):
    def accuracy(scores):
        return float((scores.argmax(-1) == labels).float().mean())

    random = sum(accuracy(route) for route in routes) / len(routes)
    ensemble = accuracy(routes.mean(0))
    return {"merged": accuracy(merged), "fixed": accuracy(routes[0]), "ensemble": ensemble, "random": random}


# %% answer="four" name="the routes vote" loses="four-ensemble"
def four_ways(routes, merged, labels):
    def accuracy(scores):
        return float((scores.argmax(-1) == labels).float().mean())

    random = sum(accuracy(route) for route in routes) / len(routes)
    votes = torch.nn.functional.one_hot(routes.argmax(-1), routes.shape[-1]).float().mean(0)
    return {"merged": accuracy(merged), "fixed": accuracy(routes[0]), "ensemble": accuracy(votes), "random": random}


# %% answer="four" name="merging is ensembling" loses="four-simple"
def four_ways(routes, merged, labels):
    def accuracy(scores):
        return float((scores.argmax(-1) == labels).float().mean())

    random = sum(accuracy(route) for route in routes) / len(routes)
    ensemble = accuracy(routes.softmax(-1).mean(0))
    return {"merged": ensemble, "fixed": accuracy(routes[0]), "ensemble": ensemble, "random": random}


# %% answer="jensen" name="the loss of the ensemble is the mean of the losses" loses="jensen-value"
def jensen_gap(p, labels):
    return torch.zeros(len(labels))


# %% answer="jensen" name="the other way round" loses="jensen-value"
def jensen_gap(p, labels):
    right = p[:, torch.arange(len(labels)), labels]
    return right.log().mean(0) - right.mean(0).log()


# %% answer="jensen" name="the first class's probability" loses="jensen-value"
def jensen_gap(p, labels):
    right = p[..., 0]
    return right.mean(0).log() - right.log().mean(0)


# %% answer="jensen" name="one number for all rows" loses="jensen-rows jensen-value"
def jensen_gap(p, labels):
    right = p[:, torch.arange(len(labels)), labels]
    return (right.mean(0).log() - right.log().mean(0)).mean()


# %% answer="worse" name="all routes alike" loses="worse-all"
def worse_than_all():
    return torch.full((3, 3, 2), 0.5), torch.ones(3, dtype=torch.long)


# %% answer="worse" name="below the mean, not below each" loses="worse-all"
def worse_than_all():
    right = torch.tensor([[0.9, 0.9, 0.9], [0.55, 0.1, 0.1], [0.01, 0.1, 0.1]])
    return torch.stack([right, 1 - right], -1), torch.zeros(3, dtype=torch.long)


# %% answer="worse" name="scores that are no probabilities" loses="worse-probabilities"
def worse_than_all():
    right = torch.full((3, 3), 1.1) - torch.eye(3)
    return torch.stack([right, torch.ones(3, 3)], -1), torch.zeros(3, dtype=torch.long)
