"""AdaMix as a method of `peft` (experimental): LoRA whose factors A and B are M experts each.

    import adamix_lab.interop.peft_tuner as adamix  # registers the method

    model = peft.get_peft_model(base, adamix.AdaMixConfig(task_type="SEQ_CLS", r=8, num_experts=4))
    transformers.Trainer(model, ...).train()

In training mode, with labels and gradients on, a call draws two routes and returns the task loss plus the consistency,
and the first view's logits; else it is the merge, which `merge_and_unload` folds into the base. `save_pretrained` and
`from_pretrained` keep the experts and how many calls were trained, so that resuming goes on with the next route.

Everything but the factors is peft's own LoRA: names, targets, dropout, saving, folding. peft 0.17 and newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import LoRA, linear
from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import carry_selection, checkpoints_gradients, during, effective, here, stack
from adamix_lab.core.objective import IGNORED, Consistency, Objective, predicts_next
from adamix_lab.core.routing import Router, RouteSpace, generator_for
from adamix_lab.core.views import Batch, logits_of
from adamix_lab.interop.peft import import_peft_library
from adamix_lab.models.model import shared_sides

peft: Any = import_peft_library()
SIDES = LoRA.sides
# LoRA's settings that mean the same here; any other, of this peft or a later one, is refused where it is set.
LORA_SETTINGS = """r lora_alpha lora_dropout target_modules exclude_modules modules_to_save layers_to_transform
layers_pattern rank_pattern alpha_pattern use_rslora fan_in_fan_out runtime_config""".split()


def _method(name: str) -> Any:
    # peft's list of methods is an enumeration, which has no way to add a member.
    kind = peft.PeftType
    if name not in kind.__members__:
        member = str.__new__(kind, name)
        member._name_ = member._value_ = name
        kind._member_map_[name] = kind._value2member_map_[name] = member
        kind._member_names_.append(name)
    return kind[name]


@dataclass
class AdaMixConfig(peft.LoraConfig):  # type: ignore[misc,name-defined]
    """LoRA's settings, and those of the mixture.

    num_experts: M. share: the side with one copy for all experts, "A", "B" or None. consistency: its weight (0 takes
    one view); consistency_kind as in `Consistency`. route_seed: of the routes and of the experts' start.

    Raises ValueError without a task_type (peft would call the base model directly, past the routes), and for settings
    of LoRA that change what its factors are.
    """

    num_experts: int = 4
    share: str | None = "B"
    consistency: float = 1.0
    consistency_kind: str = "reference"
    route_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _method("ADAMIX")
        positive("num_experts", self.num_experts)
        shared_sides(LoRA(), self.share)
        Consistency(self.consistency, self.consistency_kind)
        if self.task_type is None:
            raise LabError('task_type = None: expected "SEQ_CLS", "CAUSAL_LM" or another: peft routes calls by it.')
        known = {field.name for field in fields(peft.PeftConfig)} | set(LORA_SETTINGS)
        for field in fields(peft.LoraConfig):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if field.name not in known and (given := getattr(self, field.name)) != default:
                raise LabError(f"{field.name} = {given!r}: expected {default!r}, plain LoRA. Leave it out.")


class Experts(nn.Module):
    """M copies `[M, ...]` of a factor in the place of LoRA's linear layer; `weight` is the call's effective one."""

    def __init__(self, stacked: Tensor, side: int) -> None:
        super().__init__()
        self.experts, self.side = nn.Parameter(stacked), side
        self.trained_calls: Tensor
        self.register_buffer("trained_calls", torch.zeros((), dtype=torch.long))  # saved along: resuming goes on

    @property
    def weight(self) -> Tensor:
        """`[out, in]`, or `[K, out, in]` with K routes."""
        return effective(self.experts, self.side, here(self, "selection"))

    def forward(self, x: Tensor) -> Tensor:
        """As the linear layer without bias that it replaces. Raises ValueError in training without a route."""
        if self.training and torch.is_grad_enabled() and here(self, "selection") is None and len(self.experts) > 1:
            raise LabError("A call past the routes, in training: expected one of the PeftModel. Call that, or eval().")
        return linear(x, self.weight)


class AdaMixModel(peft.LoraModel):  # type: ignore[misc,name-defined]
    """What `peft` puts around a base model whose targets are linear layers (`nn.Linear`, GPT-2's Conv1D)."""

    def _create_and_replace(
        self, config: Any, adapter: str, target: Any, name: str, parent: Any, current_key: str, **more: Any
    ) -> None:
        super()._create_and_replace(config, adapter, target, name, parent, current_key, **more)
        layer = getattr(parent, name)
        if type(layer) is not peft.tuners.lora.Linear:
            raise LabError(f"{current_key} is a {type(target).__name__}: expected a linear layer in full precision.")
        declared = LoRA(layer.r[adapter]).weights(layer.in_features, layer.out_features)
        generator = generator_for(config.route_seed, *current_key.encode())
        for side, factors in enumerate((layer.lora_A, layer.lora_B)):
            copies = 1 if config.share == SIDES[side] else config.num_experts
            before = factors[adapter].weight
            stacked = stack(declared[SIDES[side]], copies, generator)
            device = "cpu" if before.is_meta else before.device
            factors[adapter] = Experts(stacked.to(device), side).requires_grad_(before.requires_grad)

    @property
    def _factors(self) -> list[tuple[Experts, Experts]]:
        active = self.active_adapters
        if len(active) != 1:
            raise LabError(f"Adapters {active} are active: expected one. Choose it with set_adapter.")
        layers = [module for module in self.model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
        return [(layer.lora_A[active[0]], layer.lora_B[active[0]]) for layer in layers if active[0] in layer.lora_A]

    @property
    def space(self) -> RouteSpace:
        """The routes of the active adapter."""
        return RouteSpace(tuple((len(a.experts), len(b.experts)) for a, b in self._factors))

    def forward(self, *args: Any, selection: Tensor | None = None, **batch: Any) -> Any:
        """The base model's output: at a selection, under routes drawn in training, else merged."""
        drawn = None
        if selection is None and self.training and torch.is_grad_enabled():
            drawn = self._draw(labels="labels" in batch)
            if batch.get("labels") is not None:
                return self._trained(batch, drawn)
            selection = drawn[0]
        factors = self._factors if selection is not None else []
        parts = [] if selection is None else selection.to(next(self.model.parameters()).device).unbind(-2)
        if checkpoints_gradients(self.model):
            carry_selection(self.model)
        with during({e: {"selection": part} for pair, part in zip(factors, parts, strict=True) for e in pair}):
            return self.model(*args, **batch)

    @property
    def _settings(self) -> Any:
        return self.peft_config[self.active_adapters[0]]

    def _draw(self, labels: bool) -> Tensor:
        counters = [experts.trained_calls for pair in self._factors for experts in pair]
        step = int(counters[0])
        for counter in counters:
            counter.add_(1)
        consistency = Consistency(self._settings.consistency)
        return Router(self.space, self._settings.route_seed).views(step, consistency.number if labels else 1)

    def _trained(self, batch: Mapping[str, Any], routes: Tensor) -> Any:
        from transformers.utils import ModelOutput

        settings = self._settings
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim()}
        consistency = Consistency(settings.consistency, settings.consistency_kind)
        losses = Objective(self, consistency, ways={"independent": _alone})(inputs, routes)
        total, labels, items = losses.total, inputs["labels"], batch.get("num_items_in_batch")
        if items is not None:  # the Trainer's count over all pieces of a step, by which it has losses divided
            total = total * ((labels[:, 1:] if predicts_next(self.model) else labels) != IGNORED).sum() / items
        return ModelOutput(loss=total, logits=losses.logits)


def _alone(model: Any, batch: Batch, routes: Tensor) -> Tensor:
    # Each view in a call of its own, which every model takes.
    return torch.stack([logits_of(model(selection=route, **batch)) for route in routes])


def _register() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    method = _method("ADAMIX")
    PEFT_TYPE_TO_CONFIG_MAPPING[method] = AdaMixConfig
    PEFT_TYPE_TO_TUNER_MAPPING[method] = AdaMixModel
    PEFT_TYPE_TO_PREFIX_MAPPING[method] = peft.LoraModel.prefix


_register()
