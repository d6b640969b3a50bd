"""Files that survive a kill or a full disk, and are what they say: written under a temporary name, read with checks."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adamix_lab.core.errors import LabError, check_experts

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = "adamix.json"  # what was attached, in the folder of a save
MANIFEST = "adamix_export.json"  # what `export` wrote, and the files' digests
FORMAT = 1

# Of a tensor's values a digest has the bytes alone; of these, whose bytes other floats could be, their name as well.
_SAME_BYTES = ("bfloat16", "float8")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary)` beside `path` and renames. The old file stays whole if anything fails.

    Raises OSError, with the path and the remedy, where the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}); the file that was there before, if any, is "
            "whole. Free some space or choose another folder, and run the command again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A new name is on the disk once its folder is: before that, nothing that it stands for may go.
    with suppress(OSError):  # a system that opens no folders (Windows), or syncs none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8, written atomically."""
    write_atomically(path, lambda temporary: _write_bytes(temporary, text.encode()))


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, computed once a process for as long as the file does not change."""
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path, expected: str) -> Path:
    """The path of a file that is there. Raises FileNotFoundError else; expected: what should be, and the remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected {expected}")
    return path


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Inside the block no other process, nor another block, writes into the folder, which is made.

    wait: seconds in which the other may finish. Raises LabError where it does not. The lock ends with its process,
    however that ends. Systems that do not lock folders (Windows, some network disks) go on without.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle, last = os.open(folder, os.O_RDONLY), time.monotonic() + wait
    try:
        while True:
            try:
                flock(handle, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < last:
                    time.sleep(0.05)
                    continue
                raise LabError(
                    f"Another run writes into {folder}: expected one at a time. Wait for it or stop it, or give "
                    "another folder."
                ) from None
            except OSError:  # a disk that locks no folders
                pass
            break
        yield
    finally:
        os.close(handle)
        with suppress(OSError):
            for each in made:  # where nothing was written after all
                each.rmdir()


def alone(argument: str) -> Callable[[F], F]:
    """Decorates a function that writes into the folder of an argument: while it runs, no other writes there."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with locked(Path(signature.bind(*args, **kwargs).arguments[argument])):
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file, UTF-8, holds. Raises ValueError where it is none; expected: what should be, and the remedy."""
    try:
        return parse_json(path.read_text(encoding="utf-8"), str(path), expected)
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is no UTF-8 text ({error}): expected {expected}") from error


def parse_json(text: str, place: str, expected: str) -> Any:
    """What a JSON text holds. Raises ValueError where it is no JSON, or nested deeper than Python goes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"{place} is not JSON ({error}): expected {expected}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, written atomically. Equal tensors give equal bytes."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}, dict(metadata or {}) or None)
    write_atomically(path, lambda temporary: _write_bytes(temporary, data))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError where it is truncated or no safetensors file."""
    return _read_safetensors(path)[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of weights. Raises ValueError as `read_tensors` and `check_weights` do."""
    tensors = read_tensors(path)
    check_weights(tensors, str(path))
    return tensors


def check_weights(tensors: Mapping[str, Tensor], place: str) -> None:
    """Refuses what cannot be a weight, by name: whole numbers, nan and inf. Raises LabError."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise LabError(f"{place} has {name} as {tensor.dtype}: expected floating-point weights. Save them again.")
        if not tensor.isfinite().all():
            raise LabError(
                f"{place} has values in {name} that are not finite: expected finite weights. Train with a lower rate, "
                "or save in a wider dtype."
            )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names and values, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update((name + kind * kind.startswith(_SAME_BYTES)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_record(path: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and plain values in one safetensors file, with a checksum over both. name: what kind of file it is."""
    write_tensors(path, tensors, {name: json.dumps({**facts, "sha256": _checksum(tensors, facts)})})


def read_record(path: Path, name: str, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, facts) of `write_record`. expected: what should be there, and the remedy.

    Raises ValueError where the file is truncated, of another kind, or changed since; records of earlier versions have
    no checksum (`sha256` among the facts is then missing).
    """
    tensors, metadata = _read_safetensors(path)
    facts = parse_json(metadata.get(name, "{}"), str(path), expected)
    if not isinstance(facts, dict) or not facts:
        raise LabError(f"{path} holds no {name}: expected {expected}")
    told = {key: value for key, value in facts.items() if key != "sha256"}
    if "sha256" in facts and facts["sha256"] != _checksum(tensors, told):
        raise LabError(f"{path} was changed since it was written (its checksum differs): expected {expected}")
    return tensors, facts


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    kinds = {name: (*tensor.shape, str(tensor.dtype)) for name, tensor in sorted(tensors.items())}
    return hashlib.sha256(json.dumps([digest_of(tensors), kinds, facts]).encode()).hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise LabError(
            f"{path} is not a whole safetensors file ({error}): expected one written by adamix_lab. It may have been "
            "cut short by a copy or a full disk; copy it again, or train again."
        ) from error


def told(name: str) -> str:
    """A name as a file may keep it: an absolute path as one that begins with a dot, from the working folder.

    Of what has nothing but the root in common with that folder the last name alone: where it lay is private.
    """
    if not os.path.isabs(name):
        return name
    here = os.getcwd()
    apart = Path(name).anchor != Path(here).anchor or os.path.commonpath([name, here]) == Path(here).anchor
    path = os.path.basename(name) if apart else os.path.relpath(name)
    return path if path.startswith(".") else os.path.join(".", path)


def safe_join(folder: Path, name: Any) -> Path:
    """`folder / name` for a plain file name. Raises ValueError for a name that would leave the folder."""
    if not isinstance(name, str) or not name or Path(name).name != name or name in (".", "..") or "\\" in name:
        raise LabError(f"File name {name!r} leaves its folder {folder}: expected a plain name. Mistrust that folder.")
    return folder / name


# -- the configuration of a saved mixture, which needs no torch to be read -----------------------------------------


def config_digest(config: Mapping[str, Any]) -> str:
    """The sha256 of what a configuration says, but for its own `digest`."""
    told = json.loads(json.dumps({name: value for name, value in config.items() if name != "digest"}))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a saved folder. Raises ValueError where it is not one, or was made by a newer version."""
    path = require_file(Path(folder) / CONFIG, "a folder written by adamix_lab.save.")
    config = read_json(path, "what adamix_lab.save wrote. Save again.")
    changed = isinstance(config, dict) and config.get("digest", "") not in ("", config_digest(config))
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        given = config.get("format") if isinstance(config, dict) else config
        raise LabError(f"{path} has format {given!r}: expected {FORMAT}. Use the adamix_lab that wrote it.")
    notes = config.get("notes")
    named = notes.get("classes") if isinstance(notes, dict) else None  # earlier versions named them there
    named = named if isinstance(named, list) and config.get("num_labels") == len(named) else []
    config = {"answers": None, "classes": named, **config}
    config = {"seed": 0, "draws": 0, "objective": {}, "notes": {}, **config}
    lists = dict.fromkeys(("share", "sites", "head", "classes"), list)
    for key, kind in {"adaptation": dict, "base": dict, "objective": dict, "notes": dict, **lists}.items():
        names = config.get(key)
        if not isinstance(names, kind) or not all(isinstance(name, str) for name in names):
            raise LabError(f"{path} has {key} = {names!r}: expected a {kind.__name__} of names. Save again.")
    check_experts(config.get("experts"), f"{path} asks for experts")
    for key, least in {"seed": -(2**63), "draws": 0}.items():
        if not isinstance(config[key], int) or not least <= config[key] < 2**63:
            raise LabError(f"{path} has {key} = {config[key]!r}: expected a whole number. Save again.")
    if changed:  # earlier versions' have no digest
        raise LabError(
            f"{path} was changed since it was saved (its digest differs): expected the file that was saved. Copy the "
            "folder again; if the change was meant, remove the digest's line."
        )
    return config


def check_written(folder: Path) -> None:
    """Refuses a folder that neither `save` nor `export` wrote, and one whose configuration is damaged."""
    if not any((folder / file).is_file() for file in (CONFIG, MANIFEST)):
        raise FileNotFoundError(f"{folder} holds no {CONFIG} or {MANIFEST}: expected what save or export wrote.")
    if (folder / CONFIG).is_file():
        read_config(folder)
