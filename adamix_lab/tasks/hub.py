"""Rows of data sets on the Hub, through `datasets`: data files only, never a loading script.

Downloads go to the Hub's cache and are found there without network. HF_ENDPOINT names another Hub than the public one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adamix_lab.tasks.labels import Part

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_rows(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """(parts, class names by column): the rows of each split, "train" first.

    Args:
        hub: "owner/name".
        config: of a data set that has several.
        splits: besides "train"; none given: the first of validation and test that is there.
        revision: a branch, tag or commit; None takes main.

    Raises:
        OSError: not on the Hub, not reachable and not in the cache, damaged, or without these splits.
        ImportError: `datasets` is not installed.
    """
    datasets = _datasets()
    with quiet(datasets), _explained(hub, config, revision):
        builder = datasets.load_dataset_builder(hub, config, revision=revision)
        _check_revision(builder.hash, revision)
        builder.download_and_prepare()
        data = builder.as_dataset()
        there = list(data)
        wanted = ["train", *(splits or [name for name in ("validation", "test") if name in there][:1])]
        lacking = [name for name in wanted if name not in there]
        if lacking or len(wanted) < 2:
            needed = " and ".join(lacking or ["validation or test"])
            raise FileNotFoundError(f"it has the splits {', '.join(there)}, and lacks {needed}")
        names = {
            column: tuple(feature.names)
            for column, feature in data[wanted[0]].features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        return [(f"{hub}, split {name}", data[name].to_list()) for name in wanted], names


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Data from the Hub needs the package datasets: run pip install 'adamix-lab[data]', or give a folder with "
            "train.* and validation.* files."
        ) from error
    return datasets


def _check_revision(found: str | None, revision: str | None) -> None:
    # Without network, datasets takes whatever the cache holds, of any revision.
    import huggingface_hub.constants

    if revision is None or found == revision:
        return
    if _COMMIT.fullmatch(revision) or huggingface_hub.constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"the cache holds commit {found}; give that as the revision, or none")


@contextmanager
def _explained(hub: str, config: str | None, revision: str | None) -> Iterator[None]:
    name = hub if config is None else f"{hub} ({config})"
    if revision:
        name = f"{name} at revision {revision!r}"
    try:
        yield
    except Exception as error:  # datasets raises a dozen kinds, of its own and of the libraries below it
        if isinstance(error, ImportError):
            raise
        raise OSError(
            f"Data set {name} could not be loaded ({_cause(error)}). Expected a data set of Parquet, JSON or CSV files "
            "on the Hub (no loading script) that is in the cache or can be fetched. Check the name, the revision and "
            "the network and run it again: whole files are kept. Without network, give a folder with train.* and "
            "validation.* files."
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Inside the block datasets shows no progress bars."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
