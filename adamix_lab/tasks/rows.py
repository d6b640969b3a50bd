"""Rows and their parts, and those of the Hub; `files` reads files, `labels` makes numbers of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from adamix_lab.tasks.tasks import Row


class Part(NamedTuple):
    """Rows of one split, and where they are from, for messages."""

    split: str
    place: str
    rows: list[Row]


def read_hub(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """(rows of each split, "train" first; class names by column) of a data set on the Hub, through `datasets`.

    Data files only, never a loading script. Downloads go to the Hub's cache and are found there without network;
    HF_ENDPOINT names another Hub than the public one.

    Args:
        hub: "owner/name".
        config: of a data set that has several.
        splits: besides "train"; none given: the first of validation and test that is there.
        revision: a branch, tag or commit; None takes main.

    Raises:
        OSError: not on the Hub, not reachable and not in the cache, damaged, or without these splits.
        ImportError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Data from the Hub needs the package datasets: run pip install 'adamix-lab[data]', or give a folder with "
            "train.* and validation.* files."
        ) from error
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return _hub_splits(hub, config, splits, revision)
    except ImportError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, of its own and of the libraries below it
        name = f"{hub}{f' ({config})' if config else ''}{f' at revision {revision!r}' if revision else ''}"
        raise OSError(
            f"Data set {name} could not be loaded ({_cause(error)}). Expected a data set of Parquet, JSON or CSV files "
            "on the Hub (no loading script) that is in the cache or can be fetched. Check the name, the revision and "
            "the network and run it again: whole files are kept. Without network, give a folder with train.* and "
            "validation.* files."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _hub_splits(
    hub: str, config: str | None, splits: Sequence[str], revision: str | None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    import datasets
    from huggingface_hub import constants

    builder = datasets.load_dataset_builder(hub, config, revision=revision)
    commit = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if revision not in (None, builder.hash) and (commit or constants.HF_HUB_OFFLINE):
        # Without network, datasets takes whatever the cache holds, of any revision.
        raise FileNotFoundError(f"the cache holds commit {builder.hash}; give that as the revision, or none")
    builder.download_and_prepare()
    data = builder.as_dataset()
    wanted = ["train", *(splits or [name for name in ("validation", "test") if name in data][:1])]
    lacking = [name for name in wanted if name not in data]
    if lacking or len(wanted) < 2:
        needed = " and ".join(lacking or ["validation or test"])
        raise FileNotFoundError(f"it has the splits {', '.join(data)}, and lacks {needed}")
    features = data["train"].features.items()
    names = {column: tuple(kind.names) for column, kind in features if isinstance(kind, datasets.ClassLabel)}
    return [Part(name, f"{hub}, split {name}", data[name].to_list()) for name in wanted], names


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
