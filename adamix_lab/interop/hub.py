"""Mixtures on the Hugging Face Hub, by its conventions: `push_to_hub`, and `from_pretrained` by name or folder."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from adamix_lab.core.errors import LabError, check_repository
from adamix_lab.core.files import CONFIG, check_written, read_config
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import read_saved
from adamix_lab.training.report import CARD, save
from adamix_lab.training.shipped import load_saved

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def from_pretrained(
    name: str | Path,
    model: nn.Module | str | None = None,
    revision: str | None = None,
    token: str | None = None,
    any_base: bool = False,
) -> MixtureModel:
    """A saved mixture, in evaluation mode.

    Args:
        name: a folder that `save` wrote, or "owner/name" on the Hub (cached there as all models are).
        model: the base, or its name; None takes the one that the configuration names.
        revision: a branch, tag or commit; None takes main.
        token: for a private repository; None takes the one you are logged in with.
        any_base: accept a base with other weights.

    Raises:
        ValueError: another base, damaged files, or a configuration that names a path as its base.
        OSError: not here, and not on the Hub or not reachable.

    >>> from_pretrained(save(mixture, folder), model=fresh_model).space.experts
    4
    """
    return load_shared(fetch_saved(name, revision, token), model, any_base)[0]


def load_shared(
    folder: Path, model: nn.Module | str | None = None, any_base: bool = False
) -> tuple[MixtureModel, Any, dict[str, Any]]:
    """As `load_saved`, of a folder that may be a stranger's: its configuration may name a base, and no path."""
    if model is not None:
        return load_saved(folder, model, any_base)
    config = read_config(folder)
    name = str(config.get("notes", {}).get("backbone") or config["base"].get("name") or "")
    if not _HUB_NAME.fullmatch(name) or ".." in name or (Path(name).exists() and "/" in name):
        raise LabError(
            f"{folder} names {name!r} as its base: expected a model on the Hub or an embedded one. If you have that "
            "base, give it: from_pretrained(..., model=MODEL_OR_FOLDER) (--model)."
        )
    try:
        return load_saved(folder, name, any_base)
    except OSError as error:  # a base of one's own folder is known by the folder's last name alone
        raise OSError(f"{error} Or give the base itself: from_pretrained(..., model=MODEL_OR_FOLDER).") from error


def fetch_saved(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder itself, or that of a download of "owner/name": the configuration, its weights and the card alone."""
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise FileNotFoundError(f"{name} is not there: expected a folder that adamix_lab.save wrote, or owner/name.")
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, "experts-*.safetensors", CARD]
    try:
        return Path(snapshot_download(str(name), revision=revision, token=token, allow_patterns=wanted))
    except Exception as error:  # a dozen kinds, by what failed and by version
        raise OSError(
            f"{name!r} could not be had from the Hub ({str(error).strip().splitlines()[0]}). Expected a repository "
            "that push_to_hub made, in the cache or within reach. Check the name, the revision and the network; a "
            "private one needs `hf auth login`."
        ) from error


def push_to_hub(
    mixture: MixtureModel,
    name: str,
    notes: dict[str, Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Mixture of adaptations, saved by AdaMix Lab",
) -> str:
    """Saves the mixture (weights, configuration, card) into a repository of the Hub, made if it is not there.

    Args:
        mixture: merged or not.
        name: "owner/name".
        notes: as `save` takes them; `backbone` lets `from_pretrained` load the base by itself.
        private: None is the Hub's default.
        token: None takes the one you are logged in with.
        commit_message: of the commit.

    Returns the commit's address.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(mixture, folder, notes)
        return push_folder(folder, name, private, token, commit_message)


def push_folder(
    folder: str | Path,
    name: str,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Saved by AdaMix Lab",
) -> str:
    """Uploads a folder that `save` or `export` wrote, once it was looked at.

    Raises ValueError for a damaged one, OSError for another folder, and where the Hub refuses or is not reachable.
    """
    from huggingface_hub import HfApi

    check_repository(name)
    check_written(Path(folder))
    if (Path(folder) / CONFIG).is_file():
        read_saved(folder)
    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        ignored = [".*", "run/*"]  # unfinished files, and what resumes a training
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=ignored))
    except Exception as error:
        raise OSError(
            f"{folder} could not be pushed to {name} ({str(error).strip().splitlines()[0]}): expected a repository you "
            "may write to, and a token (`hf auth login`, or token=)."
        ) from error
