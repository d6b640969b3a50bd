"""A Hugging Face model with mixtures attached: select a route, switch a task, detach without a trace."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.errors import LabError, check_experts, one_of, positive
from adamix_lab.core.mixture import MixtureLayer, base_parameters, release_carry
from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.core.sites import (
    Head,
    TaskModules,
    answer_kind,
    check_sites,
    declare,
    default_targets,
    drawn_modules,
    find_head,
    find_sites,
    new_head,
    read_contract,
    write_contract,
)
from adamix_lab.core.views import WAYS, check_way
from adamix_lab.models import METHODS
from adamix_lab.models.wrapping import Wrapping, follow, keep_wide, restore_head, widen

if TYPE_CHECKING:
    from adamix_lab.models.check import Verdict


@dataclass(frozen=True)
class MixtureConfig:
    """What was attached: enough to attach the same again."""

    adaptation: Adaptation
    experts: int
    share: tuple[str, ...]
    sites: tuple[str, ...]
    seed: int = 0
    tied: bool = False
    own: tuple[str, ...] = ()  # names of the base's parameters that train along (baselines; a mixture has none)
    objective: Consistency = field(default_factory=Consistency)  # what `forward` trains by


def refuse_save(*args: Any, **kwargs: Any) -> None:
    """Stands in for `save_pretrained` while mixtures are attached."""
    raise RuntimeError(
        "save_pretrained would write mixtures, which transformers cannot load back: expected adamix_lab.save(mixture, "
        "folder) for the experts, or fold/merge for a plain model; detach() gives the base model back."
    )


def refuse_resize(*args: Any, **kwargs: Any) -> None:
    """Stands in for `resize_token_embeddings` and `tie_weights` while the output embeddings are a site."""
    raise RuntimeError(
        "resize_token_embeddings and tie_weights would change the output embeddings under their experts: expected them "
        "before attach. detach() gives the base model back."
    )


class MixtureModel(Wrapping):
    """A frozen model with M experts at each site. Made by `attach`.

    Attributes:
        model: the Hugging Face model, its sites wrapped.
        mixture: what was attached (a `MixtureConfig`).
        space: the routes there are.
        task: the name of the task whose experts and head are in place.
        draws: how many times `forward` has drawn routes, a buffer `[]`: saved, so that a resumed run takes the next.

    >>> list(mixture.sites)[-1], mixture.space.experts
    ('bert.encoder.layer.2.output.dense', 4)
    >>> merged = mixture(**batch)  # in evaluation mode: the merge
    >>> one = mixture(selection=mixture.space.fixed(0), **batch)  # expert 0 at every site
    >>> bool(torch.equal(merged.logits, one.logits))
    False
    """

    def __init__(self, model: nn.Module, config: MixtureConfig, head: Head) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.mixture = config
        self.head_paths = tuple(head)
        self._requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._first_head = {path: copy.deepcopy(module.state_dict()) for path, module in head.items()}
        self._first_contract = read_contract(model)
        self._first_own = {name: p.detach().to("cpu", copy=True) for name, p in self.own_parameters()}
        self._tasks: dict[str, TaskModules] = {}
        self.task = "default"
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))
        layers = _layers(model, config, generator_for(config.seed))  # an error leaves the model untouched
        for module in head.values():
            widen(module)
        model.requires_grad_(False)
        for path, layer in layers.items():
            model.set_submodule(path, layer)
        for module in head.values():
            module.requires_grad_(True)
        for _, parameter in self.own_parameters():
            parameter.requires_grad_(True)
        self._tasks[self.task] = self._owned()
        if hasattr(model, "save_pretrained"):
            model.save_pretrained = refuse_save  # type: ignore[assignment]
        if isinstance(getattr(model, "get_output_embeddings", lambda: None)(), MixtureLayer):
            model.resize_token_embeddings = model.tie_weights = refuse_resize  # type: ignore[assignment]

    # -- parts --------------------------------------------------------------------------------------
    @property
    def sites(self) -> dict[str, MixtureLayer]:
        """The mixture layers by module path, in the model's order."""
        layers = {path: self.model.get_submodule(path) for path in self.mixture.sites}
        return {path: layer for path, layer in layers.items() if isinstance(layer, MixtureLayer)}

    @property
    def head(self) -> Head:
        """The trained head's modules by path; empty for language models."""
        return {path: self.model.get_submodule(path) for path in self.head_paths}

    @property
    def space(self) -> RouteSpace:
        """The routes there are now."""
        return RouteSpace(tuple(layer.counts() for layer in self.sites.values()), self.mixture.tied)

    def expert_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(site.weight, stacked parameter) for each weight of each site."""
        return ((f"{path}.{name}", p) for path, layer in self.sites.items() for name, p in layer.experts.items())

    def head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(path, parameter) of the head."""
        return ((f"{path}.{name}", p) for path, module in self.head.items() for name, p in module.named_parameters())

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of the base's own weights that train along: none but in baselines."""
        own = set(self.mixture.own)
        return ((name, p) for name, p in base_parameters(self.model) if name in own)

    def takes_groups(self, batch: Mapping[str, Any]) -> Verdict:
        """Whether K groups of rows may have K routes in one call, and why not; tried once, on two rows of a batch."""
        from adamix_lab.models.check import takes_groups

        return takes_groups(self, batch)

    # -- tasks --------------------------------------------------------------------------------------
    def add_task(self, name: str, num_labels: int | None = None) -> None:
        """Fresh experts and a fresh head under a name, and switches to it."""
        if name in self._tasks:
            raise LabError(f"Task {name!r} exists already: expected a new name; use switch({name!r}).")
        if self.mixture.own:
            raise LabError(f"Task {name!r} needs a frozen base, and some of its own weights train. Use another model.")
        if num_labels is not None:
            positive("num_labels", num_labels)
        if num_labels and not self.head_paths:
            given = f"num_labels = {num_labels}, but the model trains no head"
            raise LabError(f"{given}: expected a sequence classifier (train_head=True), or no num_labels.")
        generator = generator_for(self.mixture.seed, len(self._tasks))
        experts = {path: layer.experts for path, layer in _layers(self.model, self.mixture, generator).items()}
        head = new_head(self.model, self.head, num_labels, generator)
        self._tasks[name] = TaskModules(experts, head)
        kind = answer_kind(self.model)
        self.switch(name)
        if head:
            if num_labels is not None:
                write_contract(self.model, {"num_labels": num_labels})
                kind = kind if kind == "tokens" else "numbers" if num_labels == 1 else "classes"
            declare(self.model, kind)  # the former task's names are not this one's

    def switch(self, name: str) -> None:
        """Puts another task's experts and head on the frozen base. Raises ValueError for an unknown task."""
        one_of("Task", name, self._tasks)
        self._tasks[self.task] = self._owned()
        modules = self._tasks[name]
        for path, layer in self.sites.items():
            layer.experts = modules.experts[path].to(layer.weight.device)
        for path, module in modules.head.items():
            present = self.model.get_submodule(path)
            module.to(next(present.parameters()).device).train(present.training)
            self.model.set_submodule(path, module)
        self.task = name
        write_contract(self.model, modules.contract)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixtureModel:
        """`to` and its kin: tasks at rest follow, and what tasks own stays float32 at least."""
        self._tasks[self.task] = self._owned()
        owned = [(name, m) for name, task in self._tasks.items() for m in (*task.experts.values(), *task.head.values())]
        kept = keep_wide(fn, (module for _, module in owned))
        super()._apply(kept, recurse)
        for module in (module for name, module in owned if name != self.task):
            module._apply(kept)
        for path, first in self._first_head.items():
            self._first_head[path] = {name: fn(t) for name, t in first.items()}
            if any(t.element_size() < 4 for t in self._first_head[path].values()):
                for task in self._tasks.values():
                    follow(task.head[path])
        return self

    def restore(self, model: nn.Module) -> None:
        """Gives a model (ours, or a copy of it) the methods and the dtypes back that attaching changed."""
        for name in ("save_pretrained", "resize_token_embeddings", "tie_weights"):
            model.__dict__.pop(name, None)
        restore_head(model, self._first_head)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(self._tasks)

    def _owned(self) -> TaskModules:
        experts = {path: layer.experts for path, layer in self.sites.items()}
        return TaskModules(experts, self.head, read_contract(self.model) if self.head_paths else {})


def _layers(model: nn.Module, config: MixtureConfig, generator: Generator) -> dict[str, MixtureLayer]:
    made = {}
    for path in config.sites:
        base = model.get_submodule(path)
        base = base.base if isinstance(base, MixtureLayer) else base  # a further task on the same frozen layer
        try:
            layer = MixtureLayer(base, config.adaptation.at(path), config.experts, frozenset(config.share), generator)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Site {path!r}: {error}") from error
        made[path] = layer.train(base.training)
    return made


def attach(
    model: nn.Module,
    adaptation: Adaptation,
    experts: int = 4,
    share: str | Iterable[str] | None = None,
    targets: str | Sequence[str] | None = None,
    blocks: Iterable[int] | None = None,
    train_head: bool | Sequence[str] = True,
    seed: int = 0,
    tied: bool = False,
    objective: Consistency | None = None,
) -> MixtureModel:
    """Wraps the sites of a Hugging Face model, in place, with M experts each; freezes the rest but the head.

    Args:
        model: any model whose targets are linear layers.
        adaptation: what is mixed (Bottleneck, LoRA, IA3, Bias, or your own).
        experts: M, at least 1.
        share: a side, or sides, with one copy for all experts of a site (the paper: the up-projection, LoRA's B).
        targets: module path patterns. None, for known architectures: LoRA, and IA3 of outputs, at query and value; all
            others at the feed-forward part's second map.
        blocks: block numbers (transformer layers) to adapt, in each stack; negative count from its last. None: all.
        train_head: the head trains along, as in the reference, with what the base's files did not hold (a pooler of a
            masked language model), in float32; or the paths of the modules that do.
        seed: of the experts' start, and of the routes that `forward` draws in training mode.
        tied: routes take one index for all sides of a site: for experts that belong in pairs (imported, trained apart).
        objective: what `forward` trains by, in training mode; None is `Consistency()`, two views.

    Raises ValueError for experts below 1, a share name that is no side, a pattern that matches nothing, and sites whose
    weights transformers drew anew because the files did not hold them; TypeError for a site that is no linear layer, is
    offloaded, or is quantised for inference.

    >>> mixture = attach(model, Bottleneck(16), experts=4, share="up", blocks=(-2, -1))
    >>> mixture.space.counts  # two sites, each with four ways down and one way up
    ((4, 1), (4, 1))
    """
    check_experts(experts)
    names = shared_sides(adaptation, share)
    if isinstance(model, MixtureModel) or any(isinstance(m, MixtureLayer) for m in model.modules()):
        raise LabError("The model already holds mixtures: expected a plain one. Detach it, or use add_task for a task.")
    if targets is None:
        targets, adaptation = default_targets(model, adaptation)
    sites, head = find_sites(model, targets, blocks), choose_head(model, train_head)
    for path in drawn_modules(model):
        inside = (site for site in sites if f"{site}.".startswith(f"{path}.") and re.search(r"\.\d+\.", site))
        if site := next(inside, None):
            raise LabError(
                f"The weights of site {site!r} were not in the model's files and were drawn anew: expected a base that "
                f"was read. Load {type(model).__name__} from files of its own kind, or choose other targets."
            )
    sites = check_sites(model, sites, head)
    objective = objective or Consistency()
    check_way(objective.views, WAYS)
    config = MixtureConfig(adaptation, experts, names, tuple(sites), seed, tied, objective=objective)
    mixture = MixtureModel(model, config, head)
    from adamix_lab.models.check import check_called

    try:
        check_called(model)
    except LabError:
        detach(mixture)
        raise
    return mixture


def choose_head(model: nn.Module, train_head: bool | Sequence[str]) -> Head:
    """The modules that train beside the experts. Raises ValueError for a path that is no module of the model."""
    if isinstance(train_head, bool):
        return find_head(model) if train_head else {}
    modules = dict(model.named_modules())
    for path in train_head:
        one_of("Module of the head", path, modules)
    return {path: modules[path] for path in train_head}


def detach(mixture: MixtureModel) -> nn.Module:
    """The base model as it was before `attach`, bit for bit: `requires_grad`, head and configuration included.

    >>> detach(attach(model, LoRA(4))) is model
    True
    """
    mixture.switch(next(iter(mixture._tasks)))
    model = mixture.model
    for path, layer in mixture.sites.items():
        model.set_submodule(path, layer.base)
    mixture.restore(model)
    for path, state in mixture._first_head.items():
        model.get_submodule(path).load_state_dict(state)
    write_contract(model, mixture._first_contract)
    for name, parameter in mixture.own_parameters():
        parameter.data.copy_(mixture._first_own[name])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mixture._requires_grad[name])
        parameter.grad = None
    release_carry(model)
    return model


def trained_tensors(mixture: MixtureModel) -> dict[str, Tensor]:
    """What training changes: `experts.<site>.<name>` `[M, ...]`, `head.<path>.<name>`, a baseline's `own.<name>`."""
    return {name: parameter.detach() for name, parameter in trained_parameters(mixture).items()}


def trained_parameters(mixture: MixtureModel) -> dict[str, nn.Parameter]:
    """The parameters themselves, under the names of `trained_tensors`."""
    named = {f"experts.{name}": p for name, p in mixture.expert_parameters()}
    named |= {f"own.{name}": p for name, p in mixture.own_parameters()}
    return named | {f"head.{name}": p for name, p in mixture.head_parameters()}


def load_trained(mixture: MixtureModel, tensors: dict[str, Tensor]) -> None:
    """Copies trained tensors in, strictly. Raises ValueError: what is missing, unknown or of another shape."""
    own = trained_parameters(mixture)
    check_fit({name: tuple(parameter.shape) for name, parameter in own.items()}, tensors)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def check_fit(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError where names or shapes differ: what is missing, unknown or of another shape."""
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise LabError(
            f"The weights do not fit what is attached: missing {missing[:3]}, unknown {unexpected[:3]} "
            f"({len(missing)} and {len(unexpected)} in all). Attach the adaptation, sites and sharing they had."
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise LabError(
                f"{name} has shape {list(tensors[name].shape)}: expected {list(shape)} from the configuration. "
                "The configuration and the weights disagree; use the pair that was saved together."
            )


def shared_sides(adaptation: Adaptation, share: str | Iterable[str] | None) -> tuple[str, ...]:
    """The shared sides as a tuple. Raises ValueError for a name that is no side of the adaptation."""
    names = (share,) if isinstance(share, str) else tuple(share or ())
    for name in names:
        one_of(f"Side to share for {adaptation.kind}", name, adaptation.sides)
    return names


for method, call in METHODS.items():
    setattr(MixtureModel, method, call)
