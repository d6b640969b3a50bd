"""Lesson 01's contrast: a learned Switch gate on the shipped experts, and where it sends the tokens.

Only the gates train; experts and head stay as AdaMix left them. A gate reads hidden states, so its routes depend on
the sentence. AdaMix's routes are drawn before the sentence is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamix_lab.analysis.gate import SwitchLayer, attach_gates, collect_gates, detach_gates
from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import cross_entropy
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.routing import BLOCKS, by_construction, heat
from adamix_lab.tasks.batches import collate, encode
from adamix_lab.tasks.tasks import Task, load_task
from adamix_lab.training.twins import load_twin


@dataclass(frozen=True)
class Gated:
    """What trained gates do on the evaluation rows.

    Attributes:
        loads: share of each row's tokens that each expert serves, `[rows, sites, M]`.
        right: whether the gated model answers each row rightly, `[rows]`, as 0 and 1.
        sure: mean probability of the chosen expert before and after training.
    """

    loads: Tensor
    right: Tensor
    sure: tuple[float, float]


def train_gates(
    mixture: MixtureModel,
    task: Task,
    tokenizer: object,
    steps: int = 40,
    rows: int = 192,
    balance: float = 0.1,
    lr: float = 0.01,
    seed: int = 0,
) -> Gated:
    """Puts gates on the mixture, trains them alone, looks at the first evaluation rows, and takes them off again.

    balance: weight of the balancing loss (Fedus et al., 2022); 0 leaves it out.
    """
    pad = tokenizer.pad_token_id or 0  # type: ignore[attr-defined]
    train, judged = encode(task.train, task, tokenizer), encode(task.evaluation[:rows], task, tokenizer)
    frozen = [(p, p.requires_grad) for p in mixture.parameters()]
    model = attach_gates(mixture, seed).eval()
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    gates = [module.gate for module in model.modules() if isinstance(module, SwitchLayer)]
    optimizer = torch.optim.Adam(gates, lr)
    try:
        before = _look(model, judged[:16], pad)[2]
        for step in range(steps):
            chosen = torch.randint(len(train), (16,), generator=generator_for(seed, step)).tolist()
            batch = collate([train[n] for n in chosen], pad)
            labels = batch.pop("labels")
            with collect_gates() as record:
                loss = cross_entropy(model(**batch).logits, labels) + balance * record.balance()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loads, right, after = _look(model, judged, pad)
    finally:
        detach_gates(mixture)
        for parameter, trains in frozen:
            parameter.requires_grad_(trains)
    return Gated(loads, right, (before, after))


def gate_load(seed: int) -> Tensor:
    """How far the load of a row's construction lies from the mean load, less the same for shuffled rows: `[rows]`.

    Total variation, mean over sites, of balanced gates on AdaMix's experts. Shuffling gives what chance alone does.
    """
    gated, names = _on_adamix(seed, balance=0.1)
    mixed = torch.randperm(len(names), generator=generator_for(seed)).tolist()
    return _from_mean(gated.loads, names) - _from_mean(gated.loads, [names[n] for n in mixed])


def favourite_share(seed: int) -> Tensor:
    """Share of each row's tokens that the busiest expert serves without a balancing loss, less 1/M: `[rows]`."""
    loads = _on_adamix(seed, balance=0.0)[0].loads  # [rows, sites, M]
    busiest = loads.mean(0).argmax(-1)
    return (loads[:, range(len(busiest)), busiest] - 1 / loads.shape[-1]).mean(1)


def _on_adamix(seed: int, balance: float) -> tuple[Gated, list[str]]:
    task = load_task("aspects")
    mixture, tokenizer = load_twin("adamix", seed)
    gated = train_gates(mixture, task, tokenizer, balance=balance, seed=seed)
    return gated, [str(row["construction"]) for row in task.evaluation[: len(gated.loads)]]


def _from_mean(loads: Tensor, names: Sequence[str]) -> Tensor:
    distance = torch.zeros(len(loads))
    for name in set(names):
        here = torch.tensor([other == name for other in names])
        distance[here] = 0.5 * (loads[here].mean(0) - loads.mean(0)).abs().sum(-1).mean()
    return distance


@torch.no_grad()
def _look(model: torch.nn.Module, examples: Sequence[dict[str, Tensor]], pad: int) -> tuple[Tensor, Tensor, float]:
    loads, right, sure = [], [], []
    for start in range(0, len(examples), 32):
        batch = collate(examples[start : start + 32], pad)
        labels, mask = batch.pop("labels"), batch["attention_mask"]
        with collect_gates() as record:
            right.append((model(**batch).logits.argmax(-1) == labels).float())
        experts = record.probabilities[0].shape[-1]
        chosen = torch.nn.functional.one_hot(torch.stack(record.choices, 1), experts).float()  # [rows, sites, T, M]
        kept = mask[:, None, :, None].float()
        loads.append((chosen * kept).sum(2) / kept.sum(2))
        top = torch.stack([p.amax(-1) for p in record.probabilities], 1)  # [rows, sites, T]
        sure.append(float((top * mask[:, None]).sum() / (mask.sum() * top.shape[1])))
    return torch.cat(loads), torch.cat(right), sum(sure) / len(sure)


def draw_loads(gated: Gated, constructions: Sequence[str]) -> Picture:
    """Share of tokens by construction (rows) and by expert of each block (columns)."""
    names, table = by_construction(gated.loads, constructions[: len(gated.loads)])
    sites, experts = table.shape[1:]
    figure, ax = new_figure(7.0, 4.6)
    heat(ax, 100 * table.flatten(1), low=0, label="share of the tokens (%)")
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_xticks(range(sites * experts), [f"{BLOCKS[s]}\nexpert {e}" for s in range(sites) for e in range(experts)],
                  fontsize=8)  # fmt: skip
    ax.axvline(experts - 0.5, color="white", linewidth=3)
    mean = 100 * gated.loads.mean(0)
    told = "; ".join(
        f"{block}: {', '.join(f'{share:.0f}' for share in loads)} %" for block, loads in zip(BLOCKS, mean, strict=True)
    )
    accuracy = 100 * float(gated.right.mean())
    alt = (
        f"Heat map of a trained gate's load, a row a construction, a column an expert. Mean load of experts 0 to "
        f"{experts - 1} in {told}. The gated model answers {accuracy:.0f} % of {len(gated.right)} rows rightly."
    )
    return Picture(figure, alt)
