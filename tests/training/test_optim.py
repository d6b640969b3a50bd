import close
import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401
from torch import nn

from adamix_lab.core.adaptations import IA3
from adamix_lab.models.model import attach
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import StackedAdamW, make_optimizer, on_route, parameter_groups, set_rate

M, STEPS = 3, 25


def test_decay_follows_the_declaration_and_the_head_has_its_rate():
    mixture = tiny_task.mixture(blocks=(-1,))
    groups = parameter_groups(mixture, Recipe(lr=1e-3, head_lr=5e-3, weight_decay=0.1))
    named = {id(p): name for name, p in [*mixture.expert_parameters(), *mixture.head_parameters()]}
    found = {
        (group["stacked"], group["weight_decay"], group["lr"]): sorted(
            named[id(p)].split(".")[-1] for p in group["params"]
        )
        for group in groups
    }
    assert found == {
        (True, 0.1, 1e-3): ["down", "up"],
        (True, 0.0, 1e-3): ["down_bias", "up_bias"],  # two dimensions when stacked, and still no decay
        (False, 0.1, 5e-3): ["weight"],
        (False, 0.0, 5e-3): ["bias"],
    }
    trained = sum(p.numel() for p in mixture.parameters() if p.requires_grad)
    assert sum(p.numel() for group in groups for p in group["params"]) == trained


def test_sides_have_rates_of_their_own_as_groups_made_by_hand():
    settings = Recipe(lr=1e-2, head_lr=2e-2, weight_decay=0.1, side_rates={"down": 0.25})
    ours, by_hand = tiny_task.mixture(), tiny_task.mixture()
    named = dict(by_hand.expert_parameters())
    rates = {"down": 2.5e-3, "down_bias": 2.5e-3, "up": 1e-2, "up_bias": 1e-2}
    groups = [
        {"params": [p], "lr": rates[n.split(".")[-1]], "weight_decay": 0.0 if n.endswith("bias") else 0.1}
        for n, p in named.items()
    ]
    groups += [
        {"params": [p], "lr": 2e-2, "weight_decay": 0.1 if p.dim() > 1 else 0.0} for _, p in by_hand.head_parameters()
    ]
    optimizers = make_optimizer(ours, settings), torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for step in range(5):
        for model, optimizer in zip((ours, by_hand), optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for _, parameter in [*model.expert_parameters(), *model.head_parameters()]:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    assert tiny_task.apart(tiny_task.weights(ours), tiny_task.weights(by_hand)) == 0


def test_the_rate_of_a_side_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"Side of bottleneck in side_rates 'B'.*down, up"):
        make_optimizer(tiny_task.mixture(), Recipe(side_rates={"B": 0.5}))
    with pytest.raises(ValueError, match=r"side_rates\['up'\] = -1: expected a factor"):
        Recipe(side_rates={"up": -1})


def test_a_scale_that_starts_at_one_never_decays():
    import tiny

    mixture = attach(tiny.bert(), IA3(), targets="attention.self.key", train_head=False)
    assert [group["weight_decay"] for group in parameter_groups(mixture, Recipe())] == [0.0]


def test_rates_scale_from_each_groups_own():
    optimizer = make_optimizer(tiny_task.mixture(), Recipe(lr=1e-3, head_lr=4e-3))
    set_rate(optimizer, 0.5)
    set_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {2.5e-4, 1e-3}


def test_nothing_to_train_is_an_error():
    mixture = tiny_task.mixture()
    mixture.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing trains"):
        make_optimizer(mixture, Recipe())


def test_kinds():
    mixture = tiny_task.mixture()
    assert type(make_optimizer(mixture, Recipe())) is torch.optim.AdamW
    assert type(make_optimizer(mixture, Recipe(off_route="freeze"))) is StackedAdamW


def gradients(step: int) -> torch.Tensor:
    return torch.randn(M, 4, 5, generator=torch.Generator().manual_seed(step))


def used(step: int) -> list[int]:
    return sorted(set(torch.randint(M, (2,), generator=torch.Generator().manual_seed(100 + step)).tolist()))


def test_frozen_off_route_equals_separate_parameters_without_gradients():
    start = torch.randn(M, 4, 5, generator=torch.Generator().manual_seed(9))
    stacked = nn.Parameter(start.clone())
    apart = [nn.Parameter(start[n].clone()) for n in range(M)]
    ours = StackedAdamW([{"params": [stacked], "stacked": True}], lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(apart, lr=1e-2, weight_decay=0.1)
    for step in range(STEPS):
        on = used(step)
        gradient = torch.zeros(M, 4, 5)
        for n in range(M):
            apart[n].grad = gradients(step)[n].clone() if n in on else None
            if n in on:
                gradient[n] = gradients(step)[n]
        if step % 5 == 4:  # an exactly zero gradient on the route still moves, as with separate Parameters
            gradient[on[0]] = 0
            apart[on[0]].grad = torch.zeros(4, 5)
        stacked.grad = gradient
        ours.active = {stacked: torch.tensor([n in on for n in range(M)])}
        ours.step()
        theirs.step()
    close.assert_close(stacked, torch.stack(list(apart)))
    for name in ("exp_avg", "exp_avg_sq"):
        expected = torch.stack([theirs.state[p][name] for p in apart])
        close.assert_close(ours.state[stacked][name], expected)
    assert ours.state[stacked]["step"].tolist() == [float(theirs.state[p]["step"]) for p in apart]


def test_off_route_rests_to_the_bit_and_drifts_by_default():
    for off_route, rests in (("freeze", True), ("drift", False)):
        mixture = tiny_task.mixture()
        optimizer = make_optimizer(mixture, Recipe(off_route=off_route, lr=1e-2))
        every = mixture.space.draw(torch.Generator().manual_seed(0), (20,))
        for routes in (every, mixture.space.fixed(1)):
            before = tiny_task.weights(mixture)
            for _, parameter in [*mixture.expert_parameters(), *mixture.head_parameters()]:
                parameter.grad = torch.ones_like(parameter)
            for parameter, mask in on_route(mixture, routes).items():
                parameter.grad[~mask] = 0
            if rests:
                optimizer.active = on_route(mixture, routes)
            optimizer.step()
        after = tiny_task.weights(mixture)
        down = next(name for name in after if name.endswith("down"))
        assert torch.equal(before[down][[0, 2]], after[down][[0, 2]]) == rests
        assert not torch.equal(before[down][1], after[down][1])
        assert not torch.equal(before["head.classifier.weight"], after["head.classifier.weight"])


def test_weights_that_are_not_named_are_updated_whole_as_adamw_does():
    start = torch.randn(4, 5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a, b = StackedAdamW([ours], lr=1e-2), torch.optim.AdamW([theirs], lr=1e-2)
    for step in range(5):
        ours.grad = theirs.grad = gradients(step)[0]
        a.step()
        b.step()
    close.assert_close(ours, theirs, close.ROUNDED)


def test_masks_of_a_route():
    mixture = tiny_task.mixture()
    routes = torch.stack([mixture.space.fixed(0), mixture.space.fixed(2)])
    masks = {name: on_route(mixture, routes)[p].tolist() for name, p in mixture.expert_parameters()}
    assert {tuple(mask) for name, mask in masks.items() if ".down" in name} == {(True, False, True)}
    assert {tuple(mask) for name, mask in masks.items() if ".up" in name} == {(True,)}  # shared
