"""Parts of a data set, and those that other libraries hold: data sets on the Hub, frames, rows in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from adamix_lab.core.errors import LabError
from adamix_lab.tasks.tasks import Row, plain


class Part(NamedTuple):
    """Rows of one split, and where they are from.

    Attributes:
        place: for messages.
        lines: of its file; 0 where it is no file of lines.
        notes: whole sentences on what was not read as it stands.
        names: of classes, by column, where the source tells them.
    """

    split: str
    place: str
    rows: list[Row]
    lines: int = 0
    notes: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def once(names: Iterable[Any], place: str, what: str) -> None:
    """Raises ValueError for a name that stands twice: one of the two would be lost. Columns may lack a name."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name != ""]
    if twice:
        raise LabError(f"{place}: {what} {twice[0]!r} stands twice: expected once. Rename or remove one.")


def filled(rows: list[Row], place: str) -> list[Row]:
    """The rows. Raises ValueError where there are none."""
    if not rows:
        raise LabError(f"{place} holds no rows: expected at least one. Give a file with data.")
    return rows


def splits_of(there: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """Train, and what is judged on: none wanted, validation, else test. Raises FileNotFoundError."""
    there = list(there)
    chosen = ["train", *(wanted or [name for name in ("validation", "test") if name in there][:1])]
    lacking = [name for name in chosen if name not in there]
    if lacking or len(chosen) < 2:
        needed = " and ".join(lacking or ["validation or test"])
        raise FileNotFoundError(f"it has the splits {', '.join(map(str, there))}, and lacks {needed}")
    return chosen


# -- in memory ---------------------------------------------------------------------------------------------------


def read_object(source: Any, splits: Sequence[str] = ()) -> list[Part]:
    """The parts of a `datasets.Dataset`, a pandas frame or a list of dicts, or of a dict of such by split.

    Raises ValueError for anything else, for two columns of one name, or for a dict without the splits.
    """
    if not isinstance(source, Mapping):
        return [table_part(source, f"the {type(source).__name__} given", "rows")]
    try:
        return [table_part(source[name], f"split {name}", name) for name in splits_of(source, splits)]
    except FileNotFoundError as error:
        given = type(source).__name__
        raise LabError(f"The {given} given does not fit: {error}. Give such a split, or one table.") from None


def table_part(data: Any, place: str, split: str) -> Part:
    """The rows of a table that is in memory, with plain values."""
    names: dict[str, tuple[str, ...]] = {}
    if hasattr(data, "features") and hasattr(data, "to_list"):  # datasets.Dataset
        kinds = {column: getattr(kind, "feature", kind) for column, kind in (data.features or {}).items()}
        names = {column: tuple(kind.names) for column, kind in kinds.items() if getattr(kind, "names", None)}
        if (getattr(data, "format", None) or {}).get("type") == "custom":
            raise LabError(f"{place} has a transform, which its stored rows do not show. Apply it with .map instead.")
        rows = data.to_list()
    elif hasattr(data, "columns") and hasattr(data, "to_dict"):  # a pandas frame
        once(data.columns, place, "column")
        rows = data.to_dict("records")
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        rows = data
    else:
        expected = "expected a datasets.Dataset, a pandas frame, or a list of dicts, one a row."
        raise LabError(f"{place}: a {type(data).__name__} is no table: {expected}")
    return Part(split, place, filled([plain(row) for row in rows], place), names=names)


# -- the Hub -----------------------------------------------------------------------------------------------------


def read_hub(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> list[Part]:
    """The parts of a data set on the Hub, "train" first, through `datasets`.

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


def _hub_splits(hub: str, config: str | None, splits: Sequence[str], revision: str | None) -> list[Part]:
    import datasets
    from huggingface_hub import constants

    builder = datasets.load_dataset_builder(hub, config, revision=revision)
    commit = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if revision not in (None, builder.hash) and (commit or constants.HF_HUB_OFFLINE):
        # Without network, datasets takes whatever the cache holds, of any revision.
        raise FileNotFoundError(f"the cache holds commit {builder.hash}; give that as the revision, or none")
    builder.download_and_prepare()
    data = builder.as_dataset()
    return [table_part(data[name], f"{hub}, split {name}", name) for name in splits_of(data, splits)]


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
