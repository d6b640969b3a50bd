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

CARD = "README.md"
MARK = "<!-- written by adamix_lab: a card without this line is left alone -->"
PIPELINES = {
    "classification": "text-classification",
    "generation": "text-generation",
    "masked": "fill-mask",
    "tokens": "token-classification",
}
LOAD = """```python
from adamix_lab import from_pretrained

mixture = from_pretrained("THIS FOLDER, OR ITS NAME ON THE HUB"{base})
```

`mixture(**batch)` answers merged; `adamix_lab.merge(mixture)` leaves one module a site, and `adamix_lab.export` writes
folders that `peft`, `adapters` or `transformers` load without this library.
"""


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
        mb = (self.merged + self.head) * 4 / 1e6
        return (
            f"trained experts {self.experts:,} + head {self.head:,}; after merging {self.merged:,} + head "
            f"{self.head:,} = {100 * self.share_of_base:.2f} % of the base's {self.base:,} ({mb:.2f} MB in float32)"
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
    notes, base = config["notes"], config["base"]
    lines = [
        *_front(config),
        MARK,
        "",
        f"# {_title(config)}",
        "",
        f"Trained with AdaMix Lab {config['versions']['adamix_lab']} (AdaMix: Wang et al., EMNLP 2022) on a frozen "
        f"`{base['name'] or base['model_type']}`; its weights have the fingerprint `{base['fingerprint']}`.",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(mixture, config).items()),
        "",
        *_results(notes.get("results")),
        "## Loading",
        "",
        load or LOAD.format(base="" if notes.get("backbone") or "/" in base["name"] else ", model=YOUR_BASE_MODEL"),
    ]
    return "\n".join(lines)


def _front(config: Mapping[str, Any]) -> list[str]:
    base, task = config["base"], config["notes"].get("task")
    fields = {
        "library_name": "adamix-lab",
        "license": config["notes"].get("license", "unknown"),  # whoever trained them chooses
        "base_model": base["name"] if "/" in base["name"] else None,
        "pipeline_tag": PIPELINES.get(base.get("kind")),
        "tags": ["adamix", config["adaptation"]["kind"], base["model_type"], *([f"task:{task}"] if task else [])],
    }
    # JSON is YAML, whatever quotes or colons a name holds
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items() if value), "---"]


def _title(config: Mapping[str, Any]) -> str:
    experts, kind, task = config["experts"], config["adaptation"]["kind"], config["notes"].get("task")
    what = f"{experts} x {kind}" if experts > 1 else f"{kind}, merged"
    return f"{what} on {config['base']['name'] or config['base']['model_type']}" + (f", task {task}" if task else "")


def _facts(mixture: MixtureModel, config: Mapping[str, Any]) -> dict[str, Any]:
    counts, notes, sites, base = parameter_report(mixture), config["notes"], config["sites"], config["base"]
    megabytes = (counts.merged + counts.head + counts.own) * 4 / 1e6
    facts = {
        "adaptation": ", ".join(f"{key} {value}" for key, value in config["adaptation"].items()),
        "experts, shared sides": f"{config['experts']}, {', '.join(config['share']) or 'none'}",
        "routes": "tied: one index for all sides of a site" if config["tied"] else None,
        "sites": f"{len(sites)}: `{sites[0]}` to `{sites[-1]}`" if sites else "0",
        "trained experts": f"{counts.experts:,} parameters",
        "after merging": f"{counts.merged:,} parameters",
        "head": f"{counts.head:,} parameters" + ", on the mean of all tokens" * (base.get("pooling") == "mean"),
        "the base's own weights that train": f"{counts.own:,} parameters" if counts.own else None,
        "base": f"{counts.base:,} parameters",
        "merged and head": f"{100 * counts.share_of_base:.2f} % of the base, {megabytes:.2f} MB in float32",
        "classes": ", ".join(map(str, notes.get("classes") or [])) or config["num_labels"] or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in config["versions"].items()),
        "train_rows": notes.get("train_rows"),
        "seed": notes.get("seed"),
        "source": notes.get("source"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _results(results: Any) -> list[str]:
    # as `adamix-lab train` keeps them (a list of rows), or by strategy (the shipped experts)
    if isinstance(results, Mapping):
        results = [{"strategy": name, **row} for name, row in results.items() if isinstance(row, Mapping)]
    if not isinstance(results, list) or not results or not all(isinstance(row, Mapping) for row in results):
        return ["No figures were kept with it.", ""]
    names = list(dict.fromkeys(key for row in results for key in row))
    shown = [[row.get(name, "") for name in names] for row in results]
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in shown]
    table = [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)]
    return ["Figures on the evaluation rows, as they were kept at the end of training:", "", *table, ""]
