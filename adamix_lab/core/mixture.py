"""The mixture layer: M copies of an adaptation around one frozen layer.

The layer applies *effective weights*. What they are is decided by a *selection*, which belongs to a call. The model's
call takes one for all sites, `[..., sites, sides]`; each layer is handed its own site's part:

- None: the barycentre, the mean over experts (merging, Eq. 6);
- integers `[sides]`: one expert a side (a route, Eq. 4); `[K, sides]` for K groups of rows, `[B, T, sides]` for tokens;
- floats `[sides, M]` or `[K, sides, M]`: coefficients of a mixture point (soups, landscapes within the simplex);
- a mapping of weight names to tensors: any point at all (random planes, planes through saved weights).

Nothing of a call is kept on the modules, which all threads share (see `states`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from adamix_lab.core.adaptations import Adaptation, Base, Weight, Weights
from adamix_lab.core.errors import LabError, one_of

Selection = Tensor | Mapping[str, Tensor] | None


def effective(stacked: Tensor, side: int, selection: Tensor | None) -> Tensor:
    """One effective weight from its M stacked copies `[M, ...]`: `[...]`, or `[K, ...]` with K selections."""
    if stacked.shape[0] == 1:  # shared by all experts, or merged: a simplex of one vertex
        return stacked[0]
    if selection is None:
        return stacked.mean(0)
    if selection.is_floating_point():
        return torch.tensordot(selection[..., side, :].to(stacked.dtype), stacked, dims=1)
    index = selection[..., side]
    chosen = stacked.index_select(0, index.reshape(-1))
    return chosen[0] if index.dim() == 0 else chosen


def sizes(layer: nn.Module) -> tuple[int, int]:
    """(in, out) features of a linear layer; `weight.shape` is not asked (Conv1D is transposed, 4-bit is packed)."""
    for names in (("in_features", "out_features"), ("nx", "nf")):
        if all(hasattr(layer, name) for name in names):
            return int(getattr(layer, names[0])), int(getattr(layer, names[1]))
    given = f"A {type(layer).__name__} cannot be adapted"
    raise TypeError(f"{given}: expected a linear layer (nn.Linear, GPT-2's Conv1D). Give a pattern that matches such.")


class MixtureLayer(nn.Module):
    """A frozen linear layer with M experts of an adaptation around it.

    Attributes:
        base: the frozen layer.
        experts: stacked weights, `[M, ...]` each, `[1, ...]` on shared sides; float32.

    In the present call (`during`, further down, sets them by these names):
        selection: see the module's text; None is the merge.
        enabled: False gives the frozen layer alone, bit for bit.
        fan_out: set by `adamix_lab.fast.blocks` for a pass whose K children share work. "here": the input has B rows
            and the output gets `[K, B, ...]`; "elsewhere": the pass fans out at another place. Every forward reads
            it, so compiled code of one kind of pass never serves another.
    """

    def __init__(
        self, base: nn.Module, adaptation: Adaptation, experts: int, shared: frozenset[str], generator: Generator
    ) -> None:
        super().__init__()
        self.base = base
        self.adaptation = adaptation
        declared = declared_weights(adaptation, *sizes(base))
        device = next(base.parameters()).device
        copies = {name: 1 if weight.side in shared else experts for name, weight in declared.items()}
        stacked = {name: stack(weight, copies[name], generator).to(device) for name, weight in declared.items()}
        self.experts = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in stacked.items()})
        self.side_of = {name: adaptation.sides.index(weight.side) for name, weight in declared.items()}
        self.decays = {name: weight.decay for name, weight in declared.items()}

    @property
    def selection(self) -> Selection:
        """The selection in the present call."""
        return here(self, "selection")

    @property
    def enabled(self) -> bool:
        """Whether the adaptation is on in the present call."""
        return here(self, "enabled", True)

    @property
    def fan_out(self) -> Literal["none", "here", "elsewhere"]:
        """Where the present call fans out."""
        return here(self, "fan_out", "none")

    def counts(self) -> tuple[int, ...]:
        """Experts on each side, 1 where it is shared."""
        sides = {side: self.experts[name].shape[0] for name, side in self.side_of.items()}
        return tuple(sides[n] for n in range(len(self.adaptation.sides)))

    def groups(self) -> int:
        """K, the groups of rows that the selection tells apart: 1 for the merge, one route, one point."""
        selection = self.selection
        if selection is None:
            return 1
        if isinstance(selection, Mapping):  # a K-fold weight has as many axes as M stacked ones
            return max((len(w) for name, w in selection.items() if w.dim() == self.experts[name].dim()), default=1)
        return len(selection) if selection.dim() > (2 if selection.is_floating_point() else 1) else 1

    def weights(self, selection: Tensor | None) -> dict[str, Tensor]:
        """The effective weights of a selection."""
        return {name: effective(stacked, self.side_of[name], selection) for name, stacked in self.experts.items()}

    def forward(self, x: Tensor) -> Tensor:
        """From x `[rows, ..., in]` to `[rows, ..., out]`, in the frozen layer's dtype."""
        selection = self.selection
        if selection is None and self.training and torch.is_grad_enabled():
            self._check_asked()
        base: Base = self.base
        if self.fan_out == "here":  # K children read one frozen output
            y, children = self.base(x), self.groups()
            x, base = x.expand(children, *x.shape), constant(y.expand(children, *y.shape))
        if not self.enabled:
            return base(x)
        if isinstance(selection, Tensor) and not selection.is_floating_point() and selection.dim() == 3:
            return self._by_token(x, selection)
        if x.shape[0] % self.groups():
            raise LabError(
                f"{self.groups()} selections do not divide {x.shape[0]} rows: expected a batch of K groups "
                "of equally many rows, one group after another (K routes [K, sites, sides])."
            )
        weights = selection if isinstance(selection, Mapping) else self.weights(selection)
        return self._adapted(base, x, weights)

    def _check_asked(self) -> None:
        # The merge, with gradients, in training: its experts would all get the same ones. Is it meant?
        if "selection" not in states().get(self, ()) and self.enabled and max(self.counts()) > 1:
            if torch._C._current_graph_task_id() >= 0:
                raise LabError(
                    "A layer runs again in the backward pass (a checkpoint of your own), without the route of its "
                    "first run: expected gradient_checkpointing_enable(), which keeps it. Call that instead."
                )
            raise LabError(
                "A model that holds mixtures is trained past them: expected a call of what attach gave, which draws "
                'routes (attach wraps the model in place). selection="merge", or select("merge"), says it is meant.'
            )

    def _adapted(self, base: Base, x: Tensor, weights: Weights) -> Tensor:
        # The adapted output in the dtype that the frozen layer answered in: bfloat16, autocast's, or a 4-bit layer's.
        dtypes: list[torch.dtype] = []

        def watched(x: Tensor) -> Tensor:
            y = base(x)
            dtypes.append(y.dtype)
            return y

        out = self.adaptation.apply(watched, x, weights, self.training)
        return out.to(dtypes[0]) if dtypes else out

    def _by_token(self, x: Tensor, selection: Tensor) -> Tensor:
        # All vertices in use are computed and then selected: gathering weights token by token would need a copy of
        # the weights for each token.
        if x.shape[:2] != selection.shape[:2]:
            raise LabError(
                f"Routes of {list(selection.shape[:2])} tokens do not fit an input of {list(x.shape[:2])}: expected "
                "one route for each row and token that the site sees (generation and decoders see other lengths: "
                "route per example or per batch there)."
            )
        base = memoized(self.base) if self.adaptation.keeps_input else self.base
        out: Tensor | None = None
        for vertex in torch.unique(selection.reshape(-1, selection.shape[-1]), dim=0):
            child = self._adapted(base, x, self.weights(vertex))
            here = (selection == vertex).all(-1, keepdim=True)
            out = child if out is None else torch.where(here, child, out)
        assert out is not None
        return out

    # Callers of the frozen layer read these (T5 asks for wo.weight's dtype; reports ask for sizes).
    weight = property(lambda self: self.base.weight, doc="The frozen layer's weight.")
    bias = property(lambda self: getattr(self.base, "bias", None), doc="The frozen layer's bias, or None.")
    in_features = property(lambda self: sizes(self.base)[0], doc="Width of the input.")
    out_features = property(lambda self: sizes(self.base)[1], doc="Width of the output.")

    def extra_repr(self) -> str:
        """Adaptation and experts a side, for printed models."""
        sides = ", ".join(f"{s} x {n}" for s, n in zip(self.adaptation.sides, self.counts(), strict=True))
        return f"{self.adaptation}, {sides}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module's own mode comes back, after an error too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def checkpoints_gradients(model: nn.Module) -> bool:
    """Whether any module recomputes its forward pass in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of all weights but the experts', named as they are without mixtures."""
    sites = [f"{path}." for path, module in model.named_modules() if isinstance(module, MixtureLayer)]
    for name, parameter in model.named_parameters():
        site = next((site for site in sites if name.startswith(site)), None)
        if site is None:
            yield name, parameter
        elif name.startswith(f"{site}base."):
            yield site + name.removeprefix(f"{site}base."), parameter


def declared_weights(adaptation: Adaptation, in_features: int, out_features: int) -> dict[str, Weight]:
    """The adaptation's weights, checked against its sides. Raises ValueError where the two disagree."""
    declared = adaptation.weights(in_features, out_features)
    for name, weight in declared.items():
        one_of(f"Side of {adaptation.kind}'s weight {name!r},", weight.side, adaptation.sides)
    for side in adaptation.sides:
        if all(weight.side != side for weight in declared.values()):
            raise LabError(f"Side {side!r} of {adaptation.kind} holds no weight: expected one. Leave the side out.")
    return declared


def stack(weight: Weight, copies: int, generator: Generator) -> Tensor:
    """M starts of a weight, `[M, ...]`, float32: drawn apart, or alike where the reference has it so."""
    with torch.device("cpu"):  # where the generator is, whatever the default device
        if weight.copies_start_alike:
            start = weight.start(weight.shape, generator)
            return start.float().repeat(copies, *([1] * len(weight.shape)))
        return torch.stack([weight.start(weight.shape, generator).float() for _ in range(copies)])


def constant(y: Tensor) -> Base:
    """The function that always answers y."""
    return lambda _: y


def memoized(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, computed at its first call and remembered."""
    kept: list[Tensor] = []

    def remembered(x: Tensor) -> Tensor:
        if not kept:
            kept.append(function(x))
        return kept[0]

    return remembered


# -- the present call: which route a layer takes, whether it is on, what a fast way does at a block --
#
# Each thread has its own, blocks nest, and what one block set is gone behind it, after an error too. It is a
# `threading.local`, since `torch.compile` reads that as data (at a `ContextVar` it breaks the graph): a coroutine that
# awaits inside a block lets others see what is set there.

States = Mapping[nn.Module, Mapping[str, Any]]

_CALL = threading.local()
_NOTHING: dict[Any, Any] = {}


def states() -> States:
    """All that is set in this thread: values by name, by module."""
    return getattr(_CALL, "states", _NOTHING)


def here(module: nn.Module, name: str, default: Any = None) -> Any:
    """What a name is set to for a module in the present call."""
    return states().get(module, _NOTHING).get(name, default)


@contextmanager
def restored(to: States) -> Iterator[None]:
    """Inside the block exactly these states hold: those of the call that a recomputation belongs to."""
    before = states()
    _CALL.states = to
    try:
        yield
    finally:
        _CALL.states = before


def during(changes: States) -> Any:
    """A context in which these states hold beside those that are set already."""
    before = states()
    return restored({**before, **{module: {**before.get(module, {}), **new} for module, new in changes.items()}})


# -- hooks that act in their own call alone --

_LOCK = threading.Lock()
_HOOKS: dict[tuple[nn.Module, Callable[..., Any]], tuple[int, Any]] = {}  # calls that want it, and its handle


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any], register: Callable[..., Any]) -> Iterator[None]:
    """The hook is on the module inside the block. It must do nothing in a call that has not asked for it (`here`)."""
    key = (module, hook)
    with _LOCK:
        count, handle = _HOOKS[key] if key in _HOOKS else (0, register(hook))
        _HOOKS[key] = count + 1, handle
    try:
        yield
    finally:
        with _LOCK:
            count, handle = _HOOKS.pop(key)
            if count > 1:
                _HOOKS[key] = count - 1, handle
            else:
                handle.remove()


@contextmanager
def noting(modules: Mapping[Any, nn.Module], last: nn.Module | None = None) -> Iterator[dict[Any, Any]]:
    """Gives, by name, what each module was last called with, (args, kwargs), in this call inside the block.

    last: the module whose call ends the block: the rest of the pass is not wanted.
    """
    noted: dict[Any, Any] = {}
    with ExitStack() as stack:
        for module in modules.values():
            register = partial(module.register_forward_pre_hook, with_kwargs=True)
            stack.enter_context(hooked(module, _note, register))
        notes = {module: {"note": (noted, name, module is last)} for name, module in modules.items()}
        with during(notes), suppress(_Reached):
            yield noted


class _Reached(Exception):
    """What a pass was run for is there."""


def _note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if note := here(module, "note"):
        noted, name, last = note
        noted[name] = args, kwargs
        if last:
            raise _Reached


# -- selections under gradient checkpointing: each recomputation sees the route of its own first run --
#
# A checkpointed block runs again in the backward pass, when another view's route may be set, or none, and maybe in a
# thread of autograd's own. What is set then would serve every recomputation: wrong gradients, silently. So the
# checkpoint function that transformers puts on its blocks is wrapped by one that carries along what was set.


class CarrySelection:
    """A checkpoint function whose recomputation sees the selections of its first run, not the last ones set."""

    def __init__(self, checkpoint: Any) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Called as torch's checkpoint is: a function and its arguments."""
        first = states()

        def run(*inner: Any, **named: Any) -> Any:
            with restored(first):  # now, and again in the backward pass
                return function(*inner, **named)

        return self.checkpoint(run, *args, **kwargs)


def carry_selection(model: Any) -> None:
    """Wraps the checkpoint functions that transformers has set, once each."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if function is None or isinstance(function, CarrySelection):
            continue
        module._gradient_checkpointing_func = CarrySelection(function)  # type: ignore[assignment]
        reentrant = getattr(function, "keywords", {}).get("use_reentrant", True)
        if reentrant and not _asks_for_input_gradients(model):  # it tracks none else, and the embeddings are frozen
            model.enable_input_require_grads()
            model._asked_for_input_gradients = True


def _asks_for_input_gradients(model: Any) -> bool:
    # transformers 5 keeps a list of handles; 4.57 keeps one, also after it was removed.
    handles = getattr(model, "_require_grads_hooks", None) or [getattr(model, "_require_grads_hook", None)]
    return any(handle is not None and handle.id in (handle.hooks_dict_ref() or ()) for handle in handles)


def release_carry(model: Any) -> None:
    """Puts the plain checkpoint functions back."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if isinstance(function, CarrySelection):
            module._gradient_checkpointing_func = function.checkpoint
    if model.__dict__.pop("_asked_for_input_gradients", False):
        model.disable_input_require_grads()
