"""Files that survive a kill or a full disk: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adamix_lab.core.errors import LabError


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
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}); the file that was there before, if any, is "
            "whole. Free some space or choose another folder, and run the command again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8, written atomically."""
    write_atomically(path, lambda temporary: _write_bytes(temporary, text.encode()))


def require_file(path: Path, expected: str) -> Path:
    """The path of a file that is there. Raises FileNotFoundError else; expected: what should be, and the remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected {expected}")
    return path


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds. Raises ValueError where it is no JSON; expected: what should be there, and the remedy."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError, too
        raise LabError(f"{path} is not JSON ({error}): expected {expected}") from error


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, written atomically. Equal tensors give equal bytes."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}, dict(metadata or {}) or None)
    write_atomically(path, lambda temporary: _write_bytes(temporary, data))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError where it is truncated or no safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise LabError(
            f"{path} is not a whole safetensors file ({error}): expected one written by adamix_lab. It may have been "
            "cut short by a copy or a full disk; copy it again, or train again."
        ) from error


def safe_join(folder: Path, name: Any) -> Path:
    """`folder / name` for a plain file name. Raises ValueError for a name that would leave the folder."""
    if not isinstance(name, str) or not name or Path(name).name != name or name in (".", "..") or "\\" in name:
        raise LabError(f"File name {name!r} leaves its folder {folder}: expected a plain name. Mistrust that folder.")
    return folder / name
