"""AdaMix in thirty lines: a layer, a random route, two views, their consistency, a step, the merge (EMNLP 2022)."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):  # stands behind a frozen layer of width d
    def __init__(self, d, r=16, M=4):
        super().__init__()
        self.A = nn.Parameter(0.02 * torch.randn(M, d, r))  # M projections down, the experts
        self.B = nn.Parameter(torch.zeros(r, d))  # one projection up, which they share
        self.expert = None  # an expert's number, or None: the merge

    def forward(self, x):
        A = self.A.mean(0) if self.expert is None else self.A[self.expert]  # the mean: Eq. 6
        return x + F.gelu(x @ A) @ self.B  # Eq. 4


def random_route(layers, M=4):  # an expert for each layer, drawn before the rows are read
    return torch.randint(M, (len(layers),)).tolist()


def send(model, layers, route, batch):  # a view: logits [rows, classes] along a route
    for layer, expert in zip(layers, route, strict=True):
        layer.expert = expert
    logits = model(batch)
    for layer in layers:
        layer.expert = None
    return logits


def consistency(first, second):  # half of both KL divergences, each target held fixed (Eq. 5)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    to_p = F.kl_div(p, q.detach(), reduction="batchmean", log_target=True)
    to_q = F.kl_div(q, p.detach(), reduction="batchmean", log_target=True)
    return 0.5 * (to_p + to_q)


def step(model, layers, batch, labels, optimiser, weight=1.0):  # model: from a batch to logits
    first, second = (send(model, layers, random_route(layers), batch) for _ in range(2))
    loss = F.cross_entropy(first, labels) + weight * consistency(first, second)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def merge_layer(layer):  # the layer with one expert, the average (Eq. 6)
    merged = copy.deepcopy(layer)
    merged.A = nn.Parameter(layer.A.detach().mean(0, keepdim=True))
    return merged


# -- what the later lessons add ---------------------------------------------------------------------------------------


def ensemble(model, layers, batch):  # probabilities [rows, classes], the mean over all routes (Eq. 7)
    routes = itertools.product(range(len(layers[0].A)), repeat=len(layers))
    return torch.stack([send(model, layers, route, batch).softmax(-1) for route in routes]).mean(0)


@torch.no_grad()
def line(model, layers, batch, labels, first, second, points=11):  # losses between two experts' weights
    losses, kept = [], [layer.A.clone() for layer in layers]
    for t in torch.linspace(0, 1, points).tolist():
        for layer, A in zip(layers, kept, strict=True):
            layer.A.copy_(((1 - t) * A[first] + t * A[second]).expand_as(A))
        losses.append(F.cross_entropy(model(batch), labels).item())
    for layer, A in zip(layers, kept, strict=True):
        layer.A.copy_(A)
    return losses


def doubt(p):  # p [routes, rows, classes]: entropy of the mean, and the part of it that is the routes' [rows]
    total, within = torch.special.entr(p.mean(0)).sum(-1), torch.special.entr(p).sum(-1).mean(0)
    return total, total - within
