"""Set AdaMix Lab up with one command: `python bootstrap.py`.

Makes a virtual environment in `.venv` beside this file and installs the project into it. Needs Python 3.11
or newer and nothing else. Run it as often as you like: when nothing has changed it returns at once, and what
an interrupted run left behind is repaired.

    python bootstrap.py                          set up
    python bootstrap.py --cpu                    the same, with PyTorch's CPU build (Linux without a GPU)
    python bootstrap.py run -m adamix_lab tour   set up if needed, then run this with the environment's Python
"""

from __future__ import annotations  # old Pythons must get as far as the message that they are too old

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 11)
DEFAULT_EXTRAS = "all,dev"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STATE = "adamix-lab-setup.json"  # lies in .venv: says whether, and from what, the environment was finished
AGAIN = "Then run the same command again."

# Signs in what pip or the system says, and what to do. The first that fits wins.
REMEDIES = {
    r"No space left|Errno 28|not enough space": "The disk is full. The environment takes 2 GB (6 with CUDA), "
    "its download as much again: free space, or let TMPDIR and PIP_CACHE_DIR point to a larger disk.",
    r"CERTIFICATE_VERIFY_FAILED|SSLError": "The package index's certificate was not accepted. Behind a "
    "company proxy, name its certificate: python -m pip config set global.cert FILE.",
    r"Max retries|NewConnection|ame resolution|service not known|getaddrinfo|timed out|ProxyError|"
    r"Connection (refused|reset|aborted)": "The package index could not be reached. Check the network; "
    "behind a proxy, set HTTPS_PROXY; for your own index: python -m pip config set global.index-url URL.",
    r"ResolutionImpossible|conflicting dependencies": "pyproject.toml and constraints.txt disagree. If you "
    "changed one of them, change the other (constraints.txt says how it is renewed).",
    r"No matching distribution": "The index has no build of this package for your Python and system. Try "
    "Python 3.11, 3.12 or 3.13: python bootstrap.py --recreate --python python3.12.",
    r"Permission denied|Errno 13|Access is denied|WinError (5|32)": "A file could not be written. Check who "
    "owns the folder, and close what uses .venv (JupyterLab, an editor, a terminal).",
}


class Problem(Exception):
    """Something that the user can put right; the text says what and how."""


class Untouched(Problem):
    """The same, before anything in .venv was changed."""


@dataclass(frozen=True)
class Plan:
    """What is to be done to .venv."""

    python: str  # to build upon
    version: str
    fresh: bool  # make a new one ...
    reason: str  # ... and first remove the old one, for this reason ("": there is none)
    extras: str
    choices: dict  # what the state file keeps even of an unfinished run


def timed(label: str, action: Callable[[], None]) -> None:
    start = time.monotonic()
    action()
    say(f"  {label} ({time.monotonic() - start:.0f} s)")


def say(text: str) -> None:
    print(text, flush=True)


def python_in(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def tidy_environment() -> dict[str, str]:
    """The environment for pip, without settings that would lead it out of .venv."""
    foreign = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "__PYVENV_LAUNCHER__")
    kept = {key: value for key, value in os.environ.items() if key not in foreign}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONIOENCODING": "utf-8"}


def capture(*command: str) -> subprocess.CompletedProcess[str]:
    talk = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run(command, env=tidy_environment(), **talk)  # type: ignore[call-overload,no-any-return]


def read_state(venv: Path) -> dict:
    """What the last run wrote: {} if none was here, done=False if it did not finish (or cannot be read)."""
    try:
        return dict(json.loads((venv / STATE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError):
        return {"done": False}


def write_state(venv: Path, **state: object) -> None:
    temporary = venv / (STATE + ".tmp")
    temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
    os.replace(temporary, venv / STATE)


def finished(root: Path, extras: str) -> dict:
    """The state of an environment that is up to date with the project's files."""
    digest = hashlib.sha256(extras.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update(b"\0" + (root / name).read_bytes().replace(b"\r\n", b"\n"))
    return {"done": True, "root": os.path.normcase(root), "inputs": digest.hexdigest()}


def pinned_torch(root: Path) -> str:
    found = re.search(r"^torch==\S+", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise Problem("constraints.txt has no line torch==VERSION. Restore it: git checkout constraints.txt")
    return found.group()


def check_python(python: str) -> str:
    """The version of `python`, or a Problem if it is too old or cannot make environments."""
    probe = "import sys; print('%d.%d' % sys.version_info[:2]); import venv, ensurepip"
    try:
        answer = capture(python, "-c", probe)
    except OSError as error:
        raise Problem(f"'{python}' did not start: {error.strerror}. Give --python a Python 3.11+") from error
    version, complaint = answer.stdout.strip(), answer.stderr.strip()
    if not re.fullmatch(r"\d+\.\d+", version):
        raise Problem(f"'{python}' does not answer like a Python: {complaint or version}")
    if tuple(map(int, version.split("."))) < OLDEST:
        raise Problem(
            f"This is Python {version} ({python}); AdaMix Lab needs 3.11 or newer. Install one (from "
            f"python.org or your system's packages) and name it: python bootstrap.py --python python3.12."
        )
    if answer.returncode:
        raise Problem(
            f"Python {version} ({python}) cannot make virtual environments: {complaint.splitlines()[-1]}. "
            f"On Debian and Ubuntu: sudo apt install python{version}-venv. {AGAIN}"
        )
    return version


def why_rebuild(root: Path, state: dict, asked: str) -> str:
    """The reason why the .venv that is there cannot be built upon, or ""."""
    here = os.path.normcase(root)
    if state.get("done") is False:
        return "an earlier run was interrupted"
    if state.get("root", here) != here:
        return "the project's folder was moved"
    probe = f"import sys, pip; sys.version_info < {OLDEST} or print('%d.%d' % sys.version_info[:2])"
    with contextlib.suppress(OSError):
        version = capture(str(python_in(root / ".venv")), "-c", probe).stdout.strip()
        if version:
            return "" if asked in ("", version) else f"it has Python {version}, you ask for {asked}"
    return "its Python is too old, or does not run, or lacks pip"


def remove(venv: Path) -> None:
    """Delete .venv, but nothing that is no virtual environment."""
    if venv.is_symlink():
        return venv.unlink()
    names = {path.name for path in venv.iterdir()} if venv.is_dir() else {"a file"}
    if names and not names & {STATE, STATE + ".tmp", "pyvenv.cfg"}:
        raise Problem(f"{venv} is in the way and is no virtual environment. Move it elsewhere. {AGAIN}")
    write_state(venv, **{**read_state(venv), "done": False})  # goes last: even a kill is noticed
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STATE:
            path.unlink()
    shutil.rmtree(venv)


def make_venv(plan: Plan, venv: Path) -> None:
    venv.mkdir()
    write_state(venv, done=False, **plan.choices)  # from now on a kill leaves a .venv known to be unfinished
    made = capture(plan.python, "-m", "venv", str(venv))
    if made.returncode:
        raise Problem(explain("python -m venv", (made.stdout + made.stderr).splitlines()))


def explain(what: str, lines: list[str]) -> str:
    """The end of what a failed command said, and the remedy where we know one."""
    advice = (advice for signs, advice in REMEDIES.items() if re.search(signs, "\n".join(lines)))
    tail = "\n".join("    " + line for line in lines[-15:])
    return f"{what} failed. Its last words:\n\n{tail}\n\n{next(advice, 'They may say why.')} {AGAIN}"


def pip_install(root: Path, *wanted: str) -> None:
    """Run pip in .venv; silent unless it fails, but for one line that shows life on a terminal."""
    # --no-compile: byte code is written at the first import of what is used, not now for all of torch.
    start, python = time.monotonic(), str(python_in(root / ".venv"))
    command = [python, "-m", "pip", "install", "--no-compile", "-c", "constraints.txt", *wanted]
    talk = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    lines: list[str] = []
    with subprocess.Popen(command, cwd=root, env=tidy_environment(), **talk) as pip:  # type: ignore[call-overload]
        for line in pip.stdout:
            lines.append(line.rstrip())
            if sys.stdout.isatty():
                print(f"\r    {time.monotonic() - start:.0f} s  {lines[-1][:60]:60}\r", end="", flush=True)
    if pip.returncode:
        began = any(line.startswith("Installing collected") for line in lines)
        raise (Problem if began else Untouched)(explain("pip", lines))


def decide(root: Path, options: argparse.Namespace) -> Plan | None:
    """What has to be done; None if nothing."""
    venv, state = root / ".venv", read_state(root / ".venv")
    extras = state.get("extras", DEFAULT_EXTRAS) if options.extras is None else options.extras
    # If this Python is that of .venv, which may have to go, build upon the one below it.
    base = getattr(sys, "_base_executable", None) if sys.prefix != sys.base_prefix else None
    python = options.python or base or sys.executable
    asked = check_python(python) if options.python else ""
    current = finished(root, extras).items() <= state.items() and python_in(venv).exists()
    if current and not options.recreate and asked in ("", state.get("python")):
        return None
    present = os.path.lexists(venv)
    reason = "a new one is asked for" if options.recreate else why_rebuild(root, state, asked)
    fresh = bool(reason) or not present
    choices = {"extras": extras, "cpu": options.cpu or bool(state.get("cpu"))}
    return Plan(python, asked or check_python(python), fresh, reason if present else "", extras, choices)


def carry_out(plan: Plan, root: Path) -> None:
    start, venv = time.monotonic(), root / ".venv"
    say(f"Setting up {venv} (Python {plan.version}, extras: {plan.extras or 'none'})")
    if plan.reason:
        timed(f"old .venv removed: {plan.reason}", lambda: remove(venv))
    if plan.fresh:
        timed("virtual environment made", lambda: make_venv(plan, venv))
    elif not read_state(venv):
        say("  Found a .venv made by other hands: it stays and is brought to the project's versions.")
    write_state(venv, done=False, **plan.choices)
    index = ["--extra-index-url", CPU_INDEX] if plan.choices["cpu"] else []
    project = f".[{plan.extras}]" if plan.extras else "."
    if sys.platform == "linux" and not (index or shutil.which("nvidia-smi")):
        say("  No NVIDIA driver seen. Should PyTorch's download be gigabytes: stop it, add --cpu.")
    try:  # PyTorch first and alone: it is the one package whose index is a choice
        timed("PyTorch installed", lambda: pip_install(root, pinned_torch(root), *index))
        timed("the rest installed", lambda: pip_install(root, "-e", project, *index))
    except Untouched:  # what is there is whole: the next run need not rebuild it
        write_state(venv, **plan.choices)
        raise
    version = check_python(str(python_in(venv)))
    write_state(venv, **finished(root, plan.extras), **plan.choices, python=version)
    say(f"Ready after {time.monotonic() - start:.0f} s. Next: python bootstrap.py run -m adamix_lab tour")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    cut = next((i for i, word in enumerate(argv) if word in ("--", "run")), len(argv))
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--extras", help=f"parts of the project to install (default: {DEFAULT_EXTRAS})")
    parser.add_argument("--python", help="the Python to build upon (default: the one that runs this)")
    parser.add_argument("--cpu", action="store_true", help=f"take PyTorch from {CPU_INDEX}")
    parser.add_argument("--recreate", action="store_true", help="delete .venv and start afresh")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    return parser.parse_args(argv[:cut]), argv[cut + 1 :]


def main(argv: list[str] | None = None, root: Path | None = None) -> int:
    options, words = parse(sys.argv[1:] if argv is None else argv)
    root = root or Path(__file__).resolve().parent
    try:
        plan = decide(root, options)
        if plan is None:
            say(f"The environment in {root / '.venv'} is ready.") if not words else None
        elif options.dry_run:
            first = "make a new .venv, " if plan.fresh else ""
            say(f"Dry run. It would {first}install {pinned_torch(root)} and the project ({plan.extras}).")
        else:
            carry_out(plan, root)
    except KeyboardInterrupt:
        say("\nInterrupted. Nothing is lost: the next run repairs .venv.")
        return 130
    except (Problem, OSError) as error:
        say(f"\nSetup stopped. {error if isinstance(error, Problem) else explain('It', [str(error)])}")
        return 1
    if words and not options.dry_run:
        command = [str(python_in(root / ".venv")), *words]
        if os.name == "nt":  # there, execv returns to the shell too early
            return subprocess.call(command)
        os.execv(command[0], command)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # letters that the console lacks
    sys.exit(main())
