"""The authors' implementation, reproduced: logits, loss and gradients of `shared/reference`."""

import close
import pytest
import reference
import torch
from tiny import largest_difference

from adamix_lab.core.merging import relative_difference
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.fast.blocks import WAYS, routed_logits

pytestmark = pytest.mark.parametrize("name", reference.NAMES)


def note(record_property, name, **figures):
    for key, value in figures.items():
        record_property(f"{name}.{key}", value)
    print(f"\n{name}: " + ", ".join(f"{key} {value:.2e}" for key, value in figures.items()))


def training_step(vector, views):
    """The public objective on the file's batch: loss, gradients by our names."""
    mixture = vector.mixture.train()
    consistency = Consistency(vector.consistency.weight, views=views)
    routes = vector.tensors["routes"][: vector.views]
    task_loss = reference.reference_next_token_loss if vector.kind == "gpt2" else None
    total = Objective(mixture, consistency, task_loss, WAYS)(vector.training_batch(), unshared(mixture, routes)).total
    mixture.zero_grad()
    total.backward()
    named = [*mixture.expert_parameters(), *mixture.head_parameters()]
    return total.detach(), {key: parameter.grad for key, parameter in named}


def unshared(mixture, routes):
    """A shared side has one expert, whatever the authors' route says."""
    counts = torch.tensor(mixture.space.counts)
    return torch.where(counts == 1, 0, routes)


@pytest.mark.parametrize("views", ["independent", "shared_prefix", "same_dropout"])
def test_vectors(shared, record_property, name, views):
    vector = reference.load(shared, name)
    mixture, expected = vector.mixture, vector.tensors
    with torch.no_grad():
        merged = mixture(**vector.inputs()).logits
        routes = unshared(mixture, expected["routes"])
        routed = routed_logits(mixture, vector.inputs(), routes, views)
    loss, gradients = training_step(vector, views)
    theirs = vector.expected_gradients()
    assert gradients.keys() == theirs.keys()
    figures = {
        "merged": relative_difference(merged, expected["merged_logits"]),
        "routed": relative_difference(routed, expected["routed_logits"]),
        "loss": relative_difference(loss, expected["pair_loss"][0]),
        "gradients": largest_difference(gradients, theirs),
    }
    note(record_property, f"{name} {views}", **figures)
    assert all(value <= close.REORDERED.share for value in figures.values()), figures


def test_experts_off_the_route_get_zero_gradients(shared, name):
    vector = reference.load(shared, name)
    _, gradients = training_step(vector, "independent")
    routes = unshared(vector.mixture, vector.tensors["routes"][: vector.views])
    for n, (path, layer) in enumerate(vector.mixture.sites.items()):
        for key, side in layer.side_of.items():
            on_route = set(routes[:, n, side].tolist())
            for expert, gradient in enumerate(gradients[f"{path}.{key}"]):
                assert (expert in on_route) == bool(gradient.any())


def test_routes_taken_one_by_one(shared, name):
    vector = reference.load(shared, name)
    routes = unshared(vector.mixture, vector.tensors["routes"])
    with torch.no_grad():
        for route, logits in zip(routes, vector.tensors["routed_logits"], strict=True):
            close.assert_close(vector.mixture(selection=route, **vector.inputs()).logits, logits)
