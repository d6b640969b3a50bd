"""Damages folders that the library wrote, one change a time, and counts what becomes of each.

    python tests/mutated_folders.py             # all, by kind of folder and of change
    python tests/mutated_folders.py --every 20  # each twentieth

A folder that was changed is refused by a clear error, or gives the same answer as before. What must not be: another
answer, one that is not finite, or anything raised that is no mistake's error. Of rows and grids, texts without a
checksum, other ones are counted apart: a changed letter is a text, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import tiny
import tiny_grid
import tiny_task
import torch

from adamix_lab.cli.boundary import MISTAKES
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.ablation import ablate
from adamix_lab.experiments.batched import train_batched
from adamix_lab.experiments.grids import grid_of, read_grid
from adamix_lab.experiments.results import COLUMNS, gather, read_results
from adamix_lab.interop.export import export
from adamix_lab.interop.peft import import_peft
from adamix_lab.models.saving import load, save
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.train import prepare_data, train

Change = Callable[[Path, Path], None]  # (the file, such a file of another folder): changes the file
REFUSED, EQUAL, OTHER_ROWS = "refused", "equal answers", "other rows"


class Kind(NamedTuple):
    """A kind of folder: `make(folder, seed)` writes one, `use(folder)` gives its answer as plain values."""

    make: Callable[[Path, int], None]
    use: Callable[[Path], Any]


# -- folders -----------------------------------------------------------------------------------------------------


def save_mixture(dtype: torch.dtype | None, adaptation: Any, folder: Path, seed: int) -> None:
    mixture = tiny.mixed(tiny.bert(), adaptation, experts=3, seed=seed)
    save(mixture, folder, {"task": "tiny", "classes": ["a", "b", "c"], "columns": 1}, dtype)


def answers(model: Any) -> Any:
    return model.eval()(**tiny.batch()).logits.tolist()


def train_some(folder: Path, seed: int) -> None:
    resume(folder, seed)


def resume(folder: Path, seed: int = 0) -> Any:
    mixture = tiny_task.mixture()
    recipe = tiny_task.recipe(steps=4, checkpoint_every=2, log_every=1, seed=seed)
    train(mixture, tiny_task.task(24), tiny_task.tokenizer(), recipe, folder, progress=False)
    return {name: tensor.tolist() for name, tensor in tiny_task.weights(mixture).items()}


def stack(folder: Path, seed: int = 0) -> Any:
    recipes = [tiny_task.recipe(steps=4, checkpoint_every=2, seed=seed + n) for n in range(2)]
    starts = [tiny_task.weights(tiny_task.mixture(seed=recipe.seed)) for recipe in recipes]
    mixture = tiny_task.mixture()
    made = prepare_data(mixture, tiny_task.task(24), tiny_task.tokenizer(), recipes[0])
    done = train_batched(made[0], starts, [made[1]] * 2, recipes, progress=False, folder=folder)
    return [{name: tensor.tolist() for name, tensor in run.weights.items()} for run in done]


def perform(folder: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        base = tiny_grid.make(Path(place))
        grid = grid_of({"base": {**base, "steps": 2, "seed": seed}, "rows": [{}, {"method": "single"}]})
        ablate(grid, folder, say=lambda line: None)


def results(folder: Path) -> Any:
    found = read_results(folder)
    if found.notes:  # what every report begins with
        raise LabError(" ".join(found.notes))
    for path in sorted(folder.glob("*/settings.json")):
        if not all((path.parent / name).is_file() for name in COLUMNS):  # what ablate says of it
            raise LabError(f"Run {path.parent.name} is not finished: expected its tables.")
    gathered = gather(folder)
    parts = (found.table, gathered, found.predictions, found.curves)
    return [
        None if part is None else json.loads(part.drop(columns="date", errors="ignore").to_json()) for part in parts
    ]


def write_rows(suffix: str, folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    task = tiny_task.task(18, seed)
    for part, rows in {"train": task.train, "validation": task.evaluation[:6]}.items():
        path = folder / f"{part}.{suffix}"
        if suffix == "parquet":
            import pandas as pd

            pd.DataFrame(rows).to_parquet(path, index=False, write_page_checksum=True)
        elif suffix == "csv":
            path.write_text("sentence,label\n" + "".join(f"{row['sentence']},{row['label']}\n" for row in rows))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder: Path) -> Any:
    task = load_task(str(folder))
    return [list(map(dict, task.train)), list(map(dict, task.evaluation)), list(task.classes)]


def write_export(folder: Path, seed: int) -> None:
    export(tiny.mixed(tiny.bert(), LoRA(2), experts=2, seed=seed), folder, "peft")


def write_grid(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    lines = [
        "base: {task: aspects, steps: 3}",
        f"axes: {{seed: [{seed}, 7], variant: &v {{A: {{}}, B: {{experts: 2}}}}}}",
    ]
    (folder / "grid.yaml").write_text("\n".join(lines) + "\n")


def grid_runs(folder: Path) -> Any:
    return [str(run) + run.key for run in read_grid(folder / "grid.yaml").runs]


KINDS = {
    "saved bottlenecks": Kind(partial(save_mixture, None, Bottleneck(4)), lambda f: answers(load(tiny.bert(), f))),
    "saved LoRA, float16": Kind(partial(save_mixture, torch.half, LoRA(2)), lambda f: answers(load(tiny.bert(), f))),
    "checkpoints": Kind(train_some, resume),
    "checkpoints of a stack": Kind(lambda folder, seed: stack(folder, seed) and None, stack),
    "results": Kind(perform, results),
    "rows as CSV": Kind(partial(write_rows, "csv"), rows_of),
    "rows as JSON": Kind(partial(write_rows, "jsonl"), rows_of),
    "rows as Parquet": Kind(partial(write_rows, "parquet"), rows_of),
    "exports": Kind(write_export, lambda folder: answers(import_peft(tiny.bert(), folder))),
    "grids": Kind(write_grid, grid_runs),
}
TEXTS = ("rows as CSV", "rows as JSON", "rows as Parquet", "grids")  # whose every letter may be meant


# -- changes -----------------------------------------------------------------------------------------------------


def flip(seed: int, path: Path, other: Path) -> None:
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(1 + seed % 3 if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(share: float, path: Path, other: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def remove(path: Path, other: Path) -> None:
    path.unlink()


def rename(path: Path, other: Path) -> None:
    path.rename(path.with_name(f"was-{path.name}"))


def swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def loop(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def folder_instead(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


FILE_CHANGES: dict[str, list[Change]] = {
    "bytes flipped": [partial(flip, seed) for seed in range(8)],
    "cut short": [partial(truncate, share) for share in (0.0, 0.1, 0.5, 0.98)],
    "removed, renamed, swapped": [remove, rename, swap],
    "a loop, a folder": [loop, folder_instead],
}

DEEP = "[" * 10_000 + "]" * 10_000
VALUES: dict[str, tuple[str, ...]] = {
    "a field retyped": ("null", '"x"', "3", "[]", "{}"),
    "a field not finite, or huge": ("NaN", "-Infinity", "1e400", "1" + "0" * 400, "-1"),
    "a field nested": (DEEP,),
    "a field of a path": ('"/etc/passwd"', '"../../other"'),
}


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where fields stand, two levels deep."""
    if isinstance(value, dict) and len(before) < 2:
        for key in value:
            yield (*before, key)
            yield from places(value[key], (*before, key))


def with_field(text: str, place: tuple[Any, ...], value: str | None) -> str:
    """JSON with one field set to a JSON text, or left out."""
    root = json.loads(text)
    holder = root
    for key in place[:-1]:
        holder = holder[key]
    if value is None:
        del holder[place[-1]]
        return json.dumps(root)
    holder[place[-1]] = "\0"
    return json.dumps(root).replace(json.dumps("\0"), value)


def change_field(place: tuple[Any, ...], value: str | None, path: Path, other: Path) -> None:
    path.write_text(with_field(path.read_text(), place, value))


def json_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change]]:
    every = list(places(json.loads(path.read_text())))
    chosen = [place for place in every if len(place) == 1] + rng.sample(
        deep := [place for place in every if len(place) == 2], min(12, len(deep))
    )
    for n, place in enumerate(chosen):
        yield "a field removed", partial(change_field, place, None)
        for name, values in VALUES.items():
            yield name, partial(change_field, place, values[n % len(values)])


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def change_tensors(what: str, path: Path, other: Path) -> None:
    header, body = header_of(path.read_bytes())
    names = [name for name in header if name != "__metadata__"]
    name = names[len(what) % len(names)]
    entry, data = header[name], bytearray(body)
    if what == "retyped":
        entry["dtype"] = {"F32": "I32", "F16": "BF16", "U8": "I8", "I64": "F64"}.get(entry["dtype"], "U8")
    elif what == "reshaped":
        entry["shape"] = [int(torch.tensor(entry["shape"]).prod())]
    elif what == "renamed":
        header[name + "x"] = header.pop(name)
    elif what == "without metadata":
        header.pop("__metadata__", None)
    else:
        special = {"F32": (b"\0\0\xc0\x7f", b"\0\0\x80\x7f"), "F16": (b"\0\x7e", b"\0\x7c")}.get(entry["dtype"])
        if special:
            start = entry["data_offsets"][0]
            value = special[what == "inf"]
            data[start : start + len(value)] = value
    path.write_bytes(with_header(header, bytes(data)))


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
YAMLS = (
    BOMB + "\nbase: {steps: *a11}\n",
    "&a [*a]\n",
    "base: &b {steps: *b}\n",
    "[" * 10_000,
    "axes: {seed: [.nan]}\n",
)


def set_text(text: str, path: Path, other: Path) -> None:
    path.write_text(text)


def changes(folder: Path) -> Iterator[tuple[str, Path, Change]]:
    """(what it is, the file within the folder, the change): every change of a folder."""
    rng = random.Random(0)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        inside = path.relative_to(folder)
        for name, made in FILE_CHANGES.items():
            yield from ((name, inside, change) for change in made)
        if path.suffix == ".json":
            yield from ((name, inside, change) for name, change in json_changes(path, rng))
        if path.suffix == ".safetensors":
            kinds = ("retyped", "reshaped", "renamed", "without metadata", "nan", "inf")
            yield from (("tensors", inside, partial(change_tensors, what)) for what in kinds)
        if path.suffix == ".yaml":
            yield from (("YAML without end", inside, partial(set_text, text)) for text in YAMLS)
        if path.suffix == ".jsonl":
            yield "a field nested", inside, partial(set_text, '{"sentence": ' + DEEP + "}\n")


# -- counting ----------------------------------------------------------------------------------------------------


def finite(value: Any) -> bool:
    """Whether no number in plain values is nan or inf."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or abs(value) < float("inf")


def outcome(kind: str, folder: Path, expected: Any) -> str:
    """What becomes of a changed folder; anything but REFUSED, EQUAL and OTHER_ROWS is a defect, in words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = KINDS[kind].use(folder)
    except MISTAKES as error:
        return REFUSED if len(str(error)) > 20 else f"an error that says too little: {error}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {str(error)[:200]}"
    if found == expected:
        return EQUAL
    if kind in TEXTS or found == renamed(expected, found):
        return OTHER_ROWS
    return "another answer" if finite(found) else "an answer that is not finite"


def renamed(expected: Any, found: Any) -> Any:
    """What is expected of results, under the names of variants that were found: a run may be given another name."""
    if not isinstance(expected, list) or not all(isinstance(part, dict) for part in (*expected, *found)):
        return None
    return [
        part | {"variant": had["variant"]} if "variant" in had else part
        for part, had in zip(expected, found, strict=True)
    ]


def partner(other: Path, inside: Path) -> Path:
    """The file of another folder that stands in the same place, or else is of the same sort."""
    same = other / inside
    return same if same.is_file() else sorted(other.rglob(f"*{inside.suffix}"))[-1]


def mutate(root: Path, every: int = 1) -> tuple[Counter[tuple[str, str, str]], list[str]]:
    """(counts by kind of folder, of change, and outcome; a line for each defect). every: of changes, each n-th."""
    counts: Counter[tuple[str, str, str]] = Counter()
    defects = []
    number = 0
    for kind, made in KINDS.items():
        whole, other = root / kind / "whole", root / kind / "other"
        made.make(whole, 0), made.make(other, 1)
        used = shutil.copytree(whole, root / kind / "used")
        expected = made.use(used)
        for name, inside, change in changes(whole):
            number += 1
            if number % every:
                continue
            place = root / kind / f"change{number}"
            shutil.copytree(whole, place)
            change(place / inside, partner(other, inside))
            found = outcome(kind, place, expected)
            counts[kind, name, found if found in (REFUSED, EQUAL, OTHER_ROWS) else "DEFECT"] += 1
            if found not in (REFUSED, EQUAL, OTHER_ROWS):
                defects.append(f"{kind}, {name}, {inside}, {getattr(change, 'args', '')!s:.80}: {found}")
            shutil.rmtree(place, ignore_errors=True)
    return counts, defects


def table(counts: Counter[tuple[str, str, str]]) -> str:
    """The counts as text."""
    columns = [REFUSED, EQUAL, OTHER_ROWS, "DEFECT"]
    lines = [f"{'folder':24} {'change':28} " + " ".join(f"{column:>13}" for column in columns)]
    for kind, name in dict.fromkeys((kind, name) for kind, name, _ in counts):
        lines.append(f"{kind:24} {name:28} " + " ".join(f"{counts[kind, name, each]:13}" for each in columns))
    sums = [sum(n for (_, _, found), n in counts.items() if found == each) for each in columns]
    return "\n".join([*lines, f"{'all':24} {sum(sums):<28} " + " ".join(f"{n:13}" for n in sums)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="each so many-th change alone")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        counts, defects = mutate(Path(root), parser.parse_args().every)
    print(table(counts), *defects, sep="\n")
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
