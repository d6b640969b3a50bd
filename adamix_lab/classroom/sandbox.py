"""A submission runs by itself: limits on time, memory, output and files, no network, an empty home.

What is enforced depends on the system; `isolation` says it in words, before anything is run.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import positive

RUNNER = Path(__file__).with_name("runner.py")
GRACE = 330  # seconds beyond the limit, for Python's own start, until everything is ended from outside

# From the strongest to the weakest: own network, processes, mounts; and for people who are not root, own users.
_OWN = ["--net", "--pid", "--fork", "--kill-child", "--mount"]
_USERS = ["--user", "--map-root-user"]
UNSHARE = ([*_OWN, "--mount-proc"], [*_USERS, *_OWN, "--mount-proc"], [*_USERS, *_OWN], [*_USERS, "--net"])

# Hides folders under an empty, read-only one, then becomes the command.
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs -o ro,size=4k none "$1" || exit 90; shift; done; shift; exec "$@"'

# In every kernel: where the system cannot take the network away, Python at least refuses. PyTorch is loaded before the
# first cell, so that a busy machine takes none of a submission's time for it.
GUARD = """
try:
    import torch as _torch
    del _torch
except ImportError:
    pass
import socket as _socket
def _no_network(*args, **kwargs):
    raise OSError("There is no network while submissions are graded.")
for _name in ("connect", "connect_ex", "sendto"):
    setattr(_socket.socket, _name, _no_network)
_socket.create_connection = _socket.getaddrinfo = _socket.gethostbyname = _no_network
del _name
"""


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


@functools.cache
def unshare() -> tuple[str, ...]:
    """The start of a command that runs without network and apart from other processes; () where that cannot be had."""
    program = shutil.which("unshare")
    for options in UNSHARE if program else ():
        command = [str(program), *options, "true"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return tuple(command[:-1])
    return ()


def isolation(limits: Limits) -> list[str]:
    """What this system enforces and what it does not, a sentence each."""
    apart = unshare()
    systems = {
        "linux": f"Enforced by the system: {limits.memory_mb} MB of memory a process, {limits.file_mb} MB a file.",
        "win32": "Not enforced here (Windows): memory and sizes of files. Watch the task manager, or grade on Linux.",
    }
    network = (
        "Enforced by the system (unshare): no network; a submission's processes end with it."
        if apart
        else "Not enforced here: the network. Python's sockets refuse, other programs that a submission starts do not. "
        "Linux with unshare enforces it."
    )
    files = (
        "Hidden from submissions: the course's folder and the exercises' sources."
        if "--mount" in apart
        else "Not enforced here: files. A submission could read what you can read, the gradebook too, if it knew where."
    )
    return [
        f"Each submission: {limits.seconds} s in all, {limits.cell_seconds} s a cell, "
        f"{limits.output_bytes // 1000} kB of output a cell, an empty home.",
        systems.get(sys.platform, "Enforced in part (macOS): sizes of files; memory is not, whatever is asked for."),
        network,
        files,
        "Nowhere enforced: how many processes a submission starts, and how much disk all its files take.",
    ]


def run(notebook: Any, limits: Limits, hidden: Sequence[Path] = ()) -> tuple[Any, list[str], float]:
    """Executes a notebook apart from everything else.

    Args:
        notebook: nbformat's; it is not changed.
        limits: what it may take.
        hidden: folders that it must not see, where the system can hide them.

    Returns:
        The executed notebook, in which a cell that did not run holds an error that says why; remarks in words; seconds.
        Raises NotStarted where not even the first cell was reached.
    """
    import nbformat

    with tempfile.TemporaryDirectory(prefix="adamix-", ignore_cleanup_errors=True) as made:
        home = Path(made)
        work = home / "work"
        startup = home / ".ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        work.mkdir()
        (startup / "00-offline.py").write_text(GUARD, encoding="utf-8")
        source, target = home / "in.ipynb", home / "out.ipynb"
        nbformat.write(notebook, source)
        command = [sys.executable, str(RUNNER), str(source), str(target), json.dumps(asdict(limits))]
        ended = _call([*_prefix(hidden), *command], work, home, limits.seconds + GRACE)
        try:
            done = nbformat.read(target, as_version=4)
        except (OSError, ValueError):
            return _nothing_ran(notebook, ended, limits)
    told = done.metadata.pop("adamix_run")
    if not told["began"]:
        raise NotStarted(" ".join(told["remarks"]))
    return done, told["remarks"], told["seconds"]


def _prefix(hidden: Sequence[Path]) -> list[str]:
    apart = list(unshare())
    folders = [str(folder.resolve()) for folder in hidden if folder.is_dir()]
    return [*apart, "sh", "-c", HIDE, "sh", *folders, "--"] if "--mount" in apart and folders else apart


def _environment(home: Path) -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "PYTHONPATH", "ADAMIX_LAB_DATA", "OMP_NUM_THREADS")
    own = {
        "HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(home), "TEMP": str(home), "TMP": str(home),
        "IPYTHONDIR": str(home / ".ipython"), "JUPYTER_RUNTIME_DIR": str(home / "r"),
        "JUPYTER_CONFIG_DIR": str(home / ".jupyter"), "MPLCONFIGDIR": str(home / ".mpl"), "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return {name: os.environ[name] for name in kept if name in os.environ} | own


def _call(command: list[str], work: Path, home: Path, seconds: float) -> str:
    """Runs it to its end, or ends it with all that it started; what it said last."""
    talk: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=work, env=_environment(home), start_new_session=True, **talk) as child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(child.pid)
            return f"it did not end within {seconds:.0f} s and was ended from outside"
        lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"Python ended with code {child.returncode}"


def _end(pid: int) -> None:
    """Ends a process and its descendants."""
    import psutil  # comes with ipykernel

    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _nothing_ran(notebook: Any, ended: str, limits: Limits) -> tuple[Any, list[str], float]:
    from nbformat.v4 import new_output

    words = f"The notebook could not be run to its end: {ended}."
    answer = copy.deepcopy(notebook)
    for cell in answer.cells:
        if cell.cell_type == "code":
            cell.outputs = [new_output("error", ename="NotRun", evalue=words, traceback=[f"NotRun: {words}"])]
    return answer, [words], float(limits.seconds + GRACE)
