"""The training objective: task loss on the first view plus consistency between views (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.core.errors import Consistency as Consistency
from adamix_lab.core.errors import LabError
from adamix_lab.core.sites import answer_kind
from adamix_lab.core.views import WAYS, Batch, Way, check_way, routed_logits

TaskLoss = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100  # labels of positions that do not count


class Losses(NamedTuple):
    """What a step returns: scalars, and the first view's logits `[B, ...]`.

    agreement: the share of the answers that both views give alike; NaN without a second view, and where the views are
        compared as numbers ("mse").
    """

    total: Tensor
    task: Tensor
    consistency: Tensor
    agreement: Tensor
    logits: Tensor


class Objective(nn.Module):
    """Both views inside one forward call, losses returned: what DDP, accelerate and the Trainer wrap.

    ways: how views may be taken, by name; `adamix_lab.fast.blocks.WAYS` has "shared_prefix" as well. Raises ValueError
    where the consistency asks for another.

    >>> losses = Objective(mixture, Consistency())({**batch, "labels": labels}, Router(mixture.space).views(0, 2))
    >>> torch.allclose(losses.total, losses.task + losses.consistency)
    True
    """

    def __init__(
        self,
        mixture: Any,
        consistency: Consistency | None = None,
        task_loss: TaskLoss | None = None,
        ways: Mapping[str, Way] = WAYS,
    ) -> None:
        super().__init__()
        self.mixture = mixture
        self.consistency = consistency or Consistency()
        self.ways = ways
        check_way(self.consistency.views, ways)
        self.task_loss = task_loss or task_loss_of(mixture)

    def forward(self, batch: Batch, routes: Tensor) -> Losses:
        """`batch` with `labels`; `routes` `[views, sites, sides]` (or per example, per token), one view or two."""
        inputs = without_labels(self.mixture.model, batch)
        logits = routed_logits(self.mixture, inputs, routes, self.consistency.views, self.ways)
        return self.losses(logits, batch["labels"])

    def losses(self, logits: Tensor, labels: Tensor) -> Losses:
        """The losses of logits `[views, B, ...]` that are there already. Raises ValueError for more than two views."""
        if len(logits) > 2:
            raise LabError(f"{len(logits)} views: expected one, or two that are held together.")
        task = self.task_loss(logits[0], labels)
        if len(logits) == 1 or self.consistency.weight == 0:
            nothing = torch.zeros_like(task)
            return Losses(task, task.detach(), nothing, nothing + torch.nan, logits[0])
        kind = answer_kind(self.mixture.model)
        as_numbers = self.consistency.kind == "mse"
        if kind == "numbers" and not as_numbers:
            raise LabError(NO_DISTRIBUTION)
        if kind == "labels" and not as_numbers:  # each a choice of two: a softmax over (0, z) is the sigmoid of z
            logits = torch.stack([torch.zeros_like(logits), logits], -1)
        views = self._two_views(logits, labels, kind)
        distance = DISTANCES[self.consistency.kind](*views)
        alike = torch.full_like(task, torch.nan) if as_numbers else agreement(*views).to(task.dtype)
        total = task + self.consistency.weight * distance
        return Losses(total, task.detach(), distance.detach(), alike, logits[0])

    def _two_views(self, logits: Tensor, labels: Tensor, kind: str | None) -> tuple[Tensor, Tensor, Tensor | None]:
        first, second = logits[0], logits[1]
        if first.dim() != 3 or kind == "labels":
            return first, second, None
        if predicts_next(self.mixture.model):  # only the positions that predict a target
            return first[:, :-1], second[:, :-1], labels[:, 1:] != IGNORED
        return first, second, labels != IGNORED


def without_labels(model: nn.Module, batch: Batch) -> Batch:
    """The inputs of a batch; the shifted labels are among them where the decoder reads them."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if reads_labels(model) and "decoder_input_ids" not in inputs and "labels" in batch:
        inputs["decoder_input_ids"] = _shifted(model, batch["labels"])
    return inputs


def _shifted(model: Any, labels: Tensor) -> Tensor:
    # to the right, as the model has it; Whisper and its kin do it inside `forward` alone
    if own := getattr(model, "prepare_decoder_input_ids_from_labels", None):
        return own(labels)  # type: ignore[no-any-return]
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    if start is None:
        raise LabError("config.decoder_start_token_id = None: expected the token that starts a decoder's text. Set it.")
    shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1)
    return shifted.masked_fill(shifted == IGNORED, pad or 0)


def reads_labels(model: nn.Module) -> bool:
    """Whether the model is an encoder-decoder that writes texts: its decoder reads the shifted labels."""
    both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    return both and answer_kind(model) == "texts"


def predicts_next(model: nn.Module) -> bool:
    """Whether the logits at a position are about the next token: a causal language model."""
    generates = getattr(model, "can_generate", lambda: False)()
    return answer_kind(model) == "texts" and generates and not reads_labels(model)


def task_loss_of(mixture: Any, smoothing: float = 0.0) -> TaskLoss:
    """Cross-entropy, over the next tokens for causal language models; binary for several labels; numbers: squared.

    smoothing: share of each label that is spread evenly over the classes. Raises ValueError for it without classes.
    """
    kind, name = answer_kind(mixture.model), type(mixture.model).__name__
    if name.endswith("ForCTC"):
        raise LabError(f"{name} aligns labels with frames itself (CTC): expected a task loss of your own. Give one.")
    if smoothing and kind in ("labels", "numbers"):
        raise LabError(f"label_smoothing = {smoothing} for {kind}: expected classes to spread a label over.")
    losses = {"labels": binary_cross_entropy, "numbers": mean_squared_loss}
    loss: Callable[..., Tensor] = next_token_loss if predicts_next(mixture.model) else losses.get(kind, cross_entropy)
    return partial(loss, smoothing=smoothing) if smoothing else loss


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits `[B, C]`, of tokens `[B, T, C]` or spans `[B, 2, T]` (labels of -100 are left out).

    Raises ValueError for a label outside the classes, and for labels that are no class numbers.
    """
    if labels.is_floating_point():
        raise LabError(
            f"Labels {list(labels.shape)} of {labels.dtype}: expected class numbers. For several labels or numbers a "
            'row load the model with problem_type="multi_label_classification" or "regression".'
        )
    if logits.dim() > 3 or labels.numel() != logits.numel() // logits.shape[-1]:
        raise LabError(
            f"Labels {list(labels.shape)} for logits {list(logits.shape)}: expected one class number for each row of "
            "logits [B, C] or [B, T, C]. Give a task_loss of your own where the head answers otherwise."
        )
    check_label_range(labels[labels != IGNORED] if logits.dim() == 3 else labels, logits.shape[-1])
    flat = logits.flatten(0, -2).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def check_label_range(labels: Tensor, classes: int) -> None:
    """Raises ValueError for a label outside the classes (on a GPU the device itself refuses)."""
    outside = (labels < 0) | (labels >= classes)
    if labels.device.type == "cpu" and bool(outside.any()):
        raise LabError(
            f"Label {int(labels[outside][0])} is outside the {classes} classes: expected 0 to {classes - 1}. "
            "Check num_labels, and leave out rows without a label (-1)."
        )


def mean_squared_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of logits `[B, 1]` against numbers `[B]`, or of `[B, C]` against `[B, C]`."""
    return F.mse_loss(logits.float(), _shaped(labels, logits))


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits `[B, C]` against labels `[B, C]`, 1 where one holds and 0 elsewhere."""
    return F.binary_cross_entropy_with_logits(logits.float(), _shaped(labels, logits))


def _shaped(labels: Tensor, logits: Tensor) -> Tensor:
    if labels.numel() != logits.numel():
        raise LabError(f"Labels {list(labels.shape)} for logits {list(logits.shape)}: expected a number for each.")
    return labels.reshape(logits.shape).float()


def next_token_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the next token, `labels` unshifted with -100 where nothing is to be predicted."""
    return cross_entropy(logits[:, :-1], labels[:, 1:], smoothing)


# -- consistency: how far two views of the same rows disagree (Eq. 5) --
# From two logit tensors `[..., C]` and an optional mask `[...]` of the positions that count, the mean over rows (for
# generation over masked target tokens, as in the reference).


NO_DISTRIBUTION = (
    "KL between distributions over one class is always 0 (the reference spends a pass on it for STS-B), and numbers "
    'have no distribution: expected two classes or more. Use kind="mse" for regression.'
)


def _rows(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise LabError(f"Views of shapes {list(a.shape)} and {list(b.shape)} cannot be compared: expected equal ones.")
    a, b = a.reshape(-1, a.shape[-1]).float(), b.reshape(-1, b.shape[-1]).float()
    if mask is not None:
        keep = mask.reshape(-1).bool()
        a, b = a[keep], b[keep]
    return a, b


def _log_probabilities(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    a, b = _rows(a, b, mask)
    if a.shape[-1] == 1:
        raise LabError(NO_DISTRIBUTION)
    return F.log_softmax(a, -1), F.log_softmax(b, -1)


def reference_kl(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """`0.5 * [KL(sg(q) || p) + KL(sg(p) || q)]`, targets detached as in the reference.

    The value is the symmetric KL; the gradient on a's logits is exactly `0.5 * (p - q) / rows`.
    """
    p, q = _log_probabilities(a, b, mask)
    to_p = F.kl_div(p, q.detach(), reduction="batchmean", log_target=True)
    to_q = F.kl_div(q, p.detach(), reduction="batchmean", log_target=True)
    return 0.5 * (to_p + to_q)


def agreement(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of the rows, or of the positions that count, on which both views choose the same class."""
    a, b = _rows(a, b, mask)
    return (a.argmax(-1) == b.argmax(-1)).float().mean()


def symmetric_kl(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """`0.5 * [KL(p || q) + KL(q || p)]` as printed in Eq. 5, gradients through both sides."""
    p, q = _log_probabilities(a, b, mask)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def mean_squared_difference(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the outputs: the consistency of a regression."""
    a, b = _rows(a, b, mask)
    return F.mse_loss(a, b)


DISTANCES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "reference": reference_kl,
    "symmetric": symmetric_kl,
    "mse": mean_squared_difference,
}
