"""A submission runs by itself: limits on time, memory, output and files, no network, and a system of its own.

On Linux with `unshare` it sees the system's programs, Python with its packages, this package and its data, all of it
read-only, and an empty home that is gone afterwards. Elsewhere little is enforced; `isolation` says what, in words.
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, positive
from adamix_lab.tasks.tasks import data_root

RUNNER = Path(__file__).with_name("runner.py")
PACKAGE = Path(__file__).resolve().parents[1]
GRACE = 330  # seconds beyond the limit, for Python's own start, until everything is ended from outside
HOME_MB = 256  # all files that a submission writes

# Own network, processes, mounts; with own users, which people who are not root need and which leave root less.
_OWN = ("--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount")
UNSHARE = (("--user", "--map-root-user", *_OWN), _OWN)

# A system of what is named, read-only, around an empty home; then every privilege is given up for good.
ENTER = f"""set -e
PATH=$PATH:/usr/sbin:/sbin
root=$1; shift
mount -t tmpfs -o mode=755,size=1m none "$root"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${{1%/*}}"; : > "$root$1"; fi
  mount --rbind "$1" "$root$1"; shift
done; shift
mkdir -p "$root/proc" "$root/home" "$root/dev/shm" "$root/.old"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
while read -r _ _ _ _ place flags _; do
  case $place in *\\*) place=$(printf %b "$place");; esac
  case $place in "$root"/*) mount -o "remount,bind,ro${{flags#r?}}" none "$place";; esac
done < /proc/self/mountinfo
mount -t tmpfs -o nosuid,nodev,mode=755,size={HOME_MB}m none "$root/home"
mount -t tmpfs -o nosuid,nodev,size=64m none "$root/dev/shm"
cd "$root"; pivot_root . .old; cd /
umount -l /.old; rmdir /.old
mount -o remount,bind,ro none /
cd /home
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs -- "$@"
"""
NO_USERS = "echo 0 > /proc/sys/user/max_user_namespaces\n"  # of its own: none below these
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
        Raises NotStarted where not even the first cell was reached.
    """
    import nbformat

    handed = {"notebook": nbformat.writes(notebook), "files": dict(files or {})}
    with tempfile.TemporaryDirectory(prefix="adamix-", ignore_cleanup_errors=True) as made:
        options = unshare()
        command = [*(_entered(options, made) if options else ()), sys.executable, str(RUNNER)]
        text = json.dumps({**handed, "limits": asdict(limits)})
        said, ended = _call(command, text, made, "/home" if options else made, limits.seconds + GRACE)
    try:
        told = json.loads(said)
    except ValueError:
        return _nothing_ran(notebook, ended, limits)
    if not told["began"]:
        raise NotStarted(" ".join(told["remarks"]))
    return nbformat.reads(told["notebook"], as_version=4), told["remarks"], told["seconds"]


def _entered(options: Sequence[str], root: str) -> list[str]:
    """The start of a command that runs in a system of its own, made at an empty folder."""
    python = Path(sys.executable).resolve().parents[1]
    wanted = {*map(Path, (*SYSTEM, sys.prefix, sys.base_prefix)), python, PACKAGE, data_root().absolute()}
    seen = [str(path) for path in sorted(wanted) if path.exists() and not wanted & set(path.parents)]
    script = (NO_USERS if "--user" in options else "") + ENTER
    return ["unshare", *options, "sh", "-c", script, "sh", root, *seen, "--"]


def _environment(home: str) -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "PYTHONPATH", "ADAMIX_LAB_DATA", "OMP_NUM_THREADS")
    path = os.environ.get("PYTHONPATH", "")
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout: the package that grades
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), path]))
    own = {
        "HOME": home, "USERPROFILE": home, "TMPDIR": home, "TEMP": home, "TMP": home, "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1", "IPYTHONDIR": f"{home}/.ipython", "JUPYTER_RUNTIME_DIR": f"{home}/r",
        "JUPYTER_CONFIG_DIR": f"{home}/.jupyter", "MPLCONFIGDIR": f"{home}/.mpl", "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return {name: os.environ[name] for name in kept if name in os.environ} | own


def _call(command: list[str], text: str, folder: str, home: str, seconds: float) -> tuple[str, str]:
    """Runs it to its end, or ends it with all that it started: (its answer, how it ended)."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = _environment(home)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        **pipes,
    ) as child:
        try:
            answer, said = child.communicate(text, timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(child.pid)
            return "", f"it did not end within {seconds:.0f} s and was ended from outside"
    lines = said.strip().splitlines()
    return answer, lines[-1] if lines else f"Python ended with code {child.returncode}"


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
