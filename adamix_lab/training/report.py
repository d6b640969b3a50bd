"""What a mixture is made of: honest counts, the structure in text, and the card beside a saved one."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adamix_lab.core.files import CONFIG, write_text
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import WAYS
from adamix_lab.models import saving
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.metrics import text_table
from adamix_lab.training.display import in_words

CARD, TEMPLATE = "README.md", Path(__file__).with_name("card.md")
MARK = "<!-- written by adamix_lab: a card without this line is left alone -->"
PIPELINES = {
    "classification": "text-classification",
    "generation": "text-generation",
    "masked": "fill-mask",
    "tokens": "token-classification",
}


@dataclass(frozen=True, repr=False)
class ParameterReport:
    """Parameter counts, kept apart: what trains, what is left after merging, the head, the base.

    own: the base's own weights that train along, in baselines.
    """

    experts: int
    merged: int
    head: int
    base: int
    own: int = 0

    @property
    def share_of_base(self) -> float:
        """What is kept beside the frozen weights, as a share of the base."""
        return (self.merged + self.head + self.own) / (self.base + self.own)

    def __str__(self) -> str:
        mb = (self.merged + self.head + self.own) * 4 / 1e6
        own = f" + the base's own {self.own:,}" if self.own else ""
        return (
            f"trained experts {self.experts:,} + head {self.head:,}{own}; after merging {self.merged:,} + head "
            f"{self.head:,}{own} = {100 * self.share_of_base:.2f} % of the base's {self.base:,} ({mb:.2f} MB in "
            "float32)"
        )

    __repr__ = __str__


def parameter_report(mixture: MixtureModel) -> ParameterReport:
    """Counts of a mixture model; `base` is the frozen model without head and experts.

    >>> counts = parameter_report(mixture)
    >>> counts.merged < counts.experts < counts.base
    True
    """
    experts = merged = 0
    for _, stacked in mixture.expert_parameters():
        experts += stacked.numel()
        merged += stacked[0].numel()
    head = sum(p.numel() for _, p in mixture.head_parameters())
    own = sum(p.numel() for _, p in mixture.own_parameters())
    everything = sum(p.numel() for p in mixture.model.parameters())
    return ParameterReport(experts, merged, head, everything - experts - head - own, own)


def step_operations(mixture: MixtureModel, batch: Batch, consistency: Consistency) -> int:
    """Floating-point operations of one training step (forward and backward), as PyTorch counts them.

    batch: with labels. The gradients it makes are cleared.
    """
    from torch.utils.flop_counter import FlopCounterMode

    routes = Router(mixture.space).views(0, consistency.number)
    objective = Objective(mixture, consistency, ways=WAYS)
    objective(batch, routes)  # short-cuts are tried at their first use, which is no part of a step
    with FlopCounterMode(display=False) as counter:
        objective(batch, routes).total.backward()
    mixture.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def structure(model: nn.Module, depth: int = 6) -> str:
    """The module tree, one line a module, equal neighbours counted, with the weights and what trains.

    Sites show their adaptation; `trains` marks parts that hold trained weights.

    >>> print(structure(mixture, depth=1).splitlines()[0].split(" (")[0])
    MixtureModel
    """
    return "\n".join([_label("", model), *_branch(model, "", depth)])


def structure_html(model: nn.Module, depth: int = 6) -> str:
    """The same for a notebook."""
    return f"<pre>{html.escape(structure(model, depth))}</pre>"


def _branch(module: nn.Module, indent: str, depth: int) -> Iterator[str]:
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    if depth == 0 or hasattr(module, "adaptation"):
        return
    # neighbours of a list that look alike are one line
    groups = [list(group) for _, group in groupby(children, lambda part: repr(part[1]) if part[0].isdigit() else part)]
    for n, group in enumerate(groups):
        (first, _), (last, child) = group[0], group[-1]
        end = n == len(groups) - 1
        yield f"{indent}{'└─' if end else '├─'} {_label(first if first == last else f'{first}-{last}', child)}"
        yield from _branch(child, indent + ("   " if end else "│  "), depth - 1)


def _label(name: str, module: nn.Module) -> str:
    total = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    note = f" {module.extra_repr()}" if hasattr(module, "adaptation") else ""
    trains = f", {trained:,} train" if trained else ""
    return f"{name}{': ' if name else ''}{type(module).__name__}{note} ({total:,}{trains})"


# -- the card of a saved or exported mixture, written from its configuration: nothing in it is typed by hand ----------


def save(
    mixture: MixtureModel, folder: str | Path, notes: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Writes experts, head, configuration and card into a folder; a save that was there is replaced at one instant.

    The card (`README.md`) is written last; one of your own, not written here, stays.

    Args:
        mixture: the model, merged or not.
        folder: made if it is not there.
        notes: plain values kept beside (task, classes, metrics, license).
        dtype: of the stored tensors, e.g. torch.float16; None keeps theirs.

    Raises OSError where the disk is full; the old save survives whole.

    >>> sorted(path.suffix for path in save(mixture, folder).iterdir())
    ['.json', '.md', '.safetensors']
    """
    folder = saving.save(mixture, folder, notes, dtype)
    write_card(folder, mixture, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    return folder


def write_card(folder: Path, mixture: MixtureModel, config: Mapping[str, Any], load: str | None = None) -> None:
    """Writes `README.md`, unless the folder holds one that was not written here.

    load: how to load the folder, as Markdown; None says how this library does.
    """
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    write_text(path, card(mixture, config, load))


def card(mixture: MixtureModel, config: Mapping[str, Any], load: str | None = None) -> str:
    """The card's text: what was trained on what, the measured figures that were kept, parameters, how to load."""
    from huggingface_hub import ModelCard, ModelCardData

    base, notes, task = config["base"], config["notes"], config["notes"].get("task")
    kind, on = config["adaptation"]["kind"], base["name"] or base["model_type"]
    what = f"{config['experts']} x {kind}" if config["experts"] > 1 else f"{kind}, merged"
    data = ModelCardData(
        library_name="adamix-lab",
        license=notes.get("license", "unknown"),  # whoever trained them chooses
        base_model=base["name"] if "/" in base["name"] else None,
        pipeline_tag=PIPELINES.get(base.get("kind")),
        tags=["adamix", kind, base["model_type"], *([f"task:{task}"] if task else [])],
    )
    told = {"mark": MARK, "title": f"{what} on {on}" + (f", task {task}" if task else ""), "on": on, "load": load}
    told["by_baseline"] = kind in saving.BASELINES
    told |= {"counts": parameter_report(mixture), "results": _results(notes.get("results"))}
    return str(ModelCard.from_template(data, template_path=str(TEMPLATE), **config, **told).content)


def _results(results: Any) -> str:
    # as `adamix-lab train` keeps them (a list of rows), or by strategy (the shipped experts)
    if isinstance(results, Mapping):
        results = [{"strategy": name, **row} for name, row in results.items() if isinstance(row, Mapping)]
    kept = isinstance(results, list) and all(isinstance(row, Mapping) for row in results)
    return text_table([in_words(row) for row in results]) if kept else ""
