"""A submission runs by itself: limits on time, memory, output and files, no network, and a system of its own.

On Linux with `unshare` it sees the system's programs, Python with its packages, this package and its data, all of it
read-only, and an empty home that is gone afterwards. Elsewhere little is enforced; `isolation` says what, in words.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, positive
from adamix_lab.tasks.tasks import data_root

RUNNER = Path(__file__).with_name("runner.py")
PACKAGE = Path(__file__).resolve().parents[1]
GRACE = 330  # seconds beyond the limit, for Python's own start, until everything is ended from outside
HOME, HOME_MB = "/submission", 256  # where it is at home, and how much it can write there

# Own network, processes, mounts; with own users, which people who are not root need and which leave root less.
_OWN = ("--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount")
UNSHARE = (("--user", "--map-root-user", *_OWN), _OWN)

ENTER = Path(__file__).with_name("enter.sh")
SYSTEM = (
    *"/usr /bin /sbin /lib /lib32 /lib64 /nix/store /sys/devices/system /dev/null /dev/zero /dev/urandom".split(),
    *"/dev/random /etc/ld.so.cache /etc/alternatives /etc/passwd /etc/group /etc/localtime /etc/fonts".split(),
)


@dataclass(frozen=True)
class Limits:
    """What a submission may take.

    Attributes:
        cell_seconds: for one cell.
        seconds: for the whole notebook, from its first cell.
        memory_mb: of memory that a process writes to (Linux), or of its address space (macOS).
        output_bytes: printed or shown by one cell.
        file_mb: size of a file that it writes.
    """

    cell_seconds: int = 30
    seconds: int = 120
    memory_mb: int = 2048
    output_bytes: int = 200_000
    file_mb: int = 50

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            positive(name, value)


class NotStarted(RuntimeError):
    """Python did not start: the machine's trouble, not the submission's."""


class Ended(RuntimeError):
    """What runs a submission ended before it could say how it went."""


@functools.cache
def unshare() -> tuple[str, ...]:
    """The options with which a system of its own can be had here, tried out; () where it cannot."""
    for options in UNSHARE if shutil.which("unshare") else ():
        with tempfile.TemporaryDirectory(prefix="adamix-") as root:
            done = subprocess.run([*_entered(options, root), sys.executable, "-c", ""], capture_output=True)
        if done.returncode == 0:
            return options
    return ()


def isolation(limits: Limits, trust: bool = False) -> list[str]:
    """What this system enforces and what it does not, a sentence each.

    Raises ValueError where it enforces next to nothing, unless the people are trusted.
    """
    each = (
        f"Each submission: {limits.seconds} s in all, {limits.cell_seconds} s a cell, "
        f"{limits.output_bytes // 1000} kB of output a cell, an empty home."
    )
    if unshare():
        return [
            each,
            f"Enforced by the system (unshare): no network, no privileges, {limits.memory_mb} MB of memory a process, "
            f"{HOME_MB} MB of files; the course, the exercises, other people's files are not there, what is there is "
            "read-only; processes end with the submission.",
            "Nowhere enforced: how many processes a submission starts. Tests share Python with the answers: known ways "
            "to switch them off are caught, a new one may not be.",
        ]
    parts = {"linux": "files, network", "win32": "files, network, memory, sizes of files"}
    words = (
        f"Not enforced here, where no unshare can be used: {parts.get(sys.platform, 'files, network, memory')}; a "
        "submission could read and change what you can, the gradebook and other people's files too."
    )
    if not trust:
        raise LabError(f"{words} Grade on Linux or in a virtual machine, or go on with --trust.")
    return [each, words]


def run(notebook: Any, limits: Limits, files: Mapping[str, str] | None = None) -> tuple[Any, list[str], float]:
    """Executes a notebook apart from everything else.

    Args:
        notebook: nbformat's; it is not changed.
        limits: what it may take.
        files: text files beside it, by name.

    Returns:
        The executed notebook, in which a cell that did not run holds an error that says why; remarks in words; seconds.
        Raises NotStarted where not even the first cell was reached, Ended where there is no answer.
    """
    import nbformat

    handed = {"notebook": nbformat.writes(notebook), "files": dict(files or {}), "limits": asdict(limits)}
    seconds = limits.seconds + GRACE
    with tempfile.TemporaryDirectory(prefix="adamix-", ignore_cleanup_errors=True) as made:
        options = unshare()
        command = [*(_entered(options, made) if options else ()), sys.executable, str(RUNNER)]
        place: dict[str, Any] = {"cwd": made, "env": _environment(HOME if options else made), "start_new_session": True}
        text: dict[str, Any] = {"input": json.dumps(handed), "encoding": "utf-8", "errors": "replace"}
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, **place, **text)
        except subprocess.TimeoutExpired:
            raise Ended(f"The notebook did not end within {seconds} s and was ended from outside.") from None
    said = (done.stderr.strip().splitlines() or [f"Python ended with code {done.returncode}"])[-1]
    if not done.stdout:
        raise NotStarted(said)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise Ended(f"The notebook could not be run to its end: {said}.") from None
    if not told["began"]:
        raise NotStarted(" ".join(told["remarks"]))
    return nbformat.reads(told["notebook"], as_version=4), told["remarks"], told["seconds"]


def _entered(options: Sequence[str], root: str) -> list[str]:
    """The start of a command that runs in a system of its own, made at an empty folder."""
    python = Path(sys.executable).resolve().parents[1]
    wanted = {*map(Path, (*SYSTEM, sys.prefix, sys.base_prefix)), python, PACKAGE, data_root().absolute()}
    seen = [str(path) for path in sorted(wanted) if path.exists() and not wanted & set(path.parents)]
    return ["unshare", *options, "sh", str(ENTER), options[0], root, HOME, f"{HOME_MB}m", *seen, "--"]


def _environment(home: str) -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "PYTHONPATH", "ADAMIX_LAB_DATA", "OMP_NUM_THREADS")
    path = os.environ.get("PYTHONPATH", "")
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout: the package that grades
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), path]))
    own = {
        "HOME": home, "USERPROFILE": home, "TMPDIR": home, "TEMP": home, "TMP": home, "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "JUPYTER_RUNTIME_DIR": f"{home}/r",
        "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    return {name: os.environ[name] for name in kept if name in os.environ} | own
