"""Set AdaMix Lab up with one command: `python bootstrap.py`.

Makes a virtual environment in `.venv` beside this file and installs the project into it. Needs Python 3.11
or newer and nothing else. Run it as often as you like: when nothing has changed it returns at once, and what
an interrupted run left behind is repaired.

    python bootstrap.py                          set up
    python bootstrap.py --cpu                    the same, with PyTorch's CPU build (Linux without a GPU)
    python bootstrap.py run -m adamix_lab tour   set up if needed, then run this with the environment's Python
"""

# Old Pythons must get as far as the sentence that they are too old: nothing here is newer than 3.7.
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
DEFAULT_EXTRAS = "learn"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STATE = VENV / "adamix-lab-setup.json"  # says whether, and from what, the environment was finished
# Settings that would lead pip out of .venv.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "__PYVENV_LAUNCHER__")
NEEDED = "AdaMix Lab needs 3.11 or newer: install one (python.org), and name it: bootstrap.py --python python3.12"
TRY = """What to try: free disk space (2 GB, 6 with CUDA, as much again for downloads); check the network (HTTPS_PROXY
behind a proxy); make constraints.txt fit what you changed in pyproject.toml; close what uses .venv. Then try again."""
BUNDLE = ROOT / "BUNDLE.txt"  # for rooms without network: `adamix-lab classroom bundle`
if BUNDLE.is_file():
    TRY = BUNDLE.read_text(encoding="utf-8")  # what it was made for


def call(*command: str) -> int:
    return subprocess.call(command, cwd=ROOT, env={k: v for k, v in os.environ.items() if k not in FOREIGN})


def read_state() -> dict:
    """What the last run wrote; nothing if there was none, or it was cut short."""
    try:
        return dict(json.loads(STATE.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def write_state(state: dict) -> None:
    STATE.write_text(json.dumps(state, indent=1), encoding="utf-8")


def version_of(python: str) -> str:
    """The version of a Python, such as 3.12; one that does not start or is too old ends the setup."""
    try:
        answer = subprocess.check_output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"'{python}' did not start ({error}). {NEEDED}")
    if tuple(map(int, answer.split(b"."))) < OLDEST:
        sys.exit(f"This is Python {answer.decode().strip()} ({python}). {NEEDED}")
    return answer.decode().strip()


def clear(recreate: bool) -> None:
    """Removes an old .venv; one that this script did not make, only with --recreate, and nothing that is none."""
    if not (STATE.exists() or (recreate and (VENV / "pyvenv.cfg").exists()) or not any(VENV.iterdir())):
        sys.exit(f"{VENV} was not made by this script. Move it away, or add --recreate if it is an environment.")
    if VENV.is_symlink():  # to a larger disk, say: what it leads to is left alone
        return VENV.unlink()
    old = ROOT / ".venv.tmp"  # renamed first: a half removed environment is never taken for a whole one
    shutil.rmtree(old, ignore_errors=True)
    os.replace(VENV, old)
    shutil.rmtree(old)


def set_up(options: argparse.Namespace) -> None:
    """Brings .venv up to date. The state says done only when all is; extras and --cpu, once chosen, stay."""
    old = read_state()
    extras = old.get("extras", DEFAULT_EXTRAS) if options.extras is None else options.extras
    files = [(ROOT / name).read_bytes().replace(b"\r\n", b"\n") for name in ("pyproject.toml", "constraints.txt")]
    python = options.python or getattr(sys, "_base_executable", None) or sys.executable  # not that of .venv itself
    wanted = {
        "done": True,
        "root": os.path.normcase(ROOT),
        "inputs": hashlib.sha256(b"\0".join([extras.encode(), *files])).hexdigest(),
        "extras": extras,
        "cpu": options.cpu or bool(old.get("cpu")),
        "python": version_of(python) if options.python else old.get("python"),
    }
    same = all(old.get(key) == wanted[key] for key in ("done", "root", "python"))
    usable = same and PYTHON.exists() and not options.recreate
    if usable and old == wanted:
        return
    if not usable:
        wanted["python"] = version_of(python)
        print(f"Making {VENV} with Python {wanted['python']}", flush=True)
        if os.path.lexists(VENV):
            clear(options.recreate)
        VENV.mkdir()
    write_state({**wanted, "done": False})
    # --no-compile: byte code is written at the first import of what is used, not now for all of torch.
    pip = [str(PYTHON), "-m", "pip", "install", "--no-compile"]
    if BUNDLE.is_file():
        steps = [[*pip, "--isolated", "--no-index", "--find-links", "wheels", f"adamix-lab[{extras}]"]]
    else:
        pip += ["-c", "constraints.txt", *(["--extra-index-url", CPU_INDEX] if wanted["cpu"] else [])]
        torch = re.findall(r"(?m)^torch==\S+", files[1].decode())  # first: the one package whose index is a choice
        steps = [[*pip, *torch], [*pip, "-e", f".[{extras}]" if extras else "."]]
    make = [] if usable else [[python, "-m", "venv", str(VENV)]]
    if any(call(*command) for command in [*make, *steps]):
        if usable:  # a pip that fails, unlike one that is killed, puts back what it was replacing
            write_state(old)
        sys.exit(f"Setup stopped: what failed says why above. {TRY}")
    write_state(wanted)


def main() -> None:
    cut = sys.argv.index("run") if "run" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", help=f"parts of the project to install (default: {DEFAULT_EXTRAS})")
    parser.add_argument("--python", help="the Python to build upon (default: the one that runs this)")
    parser.add_argument("--cpu", action="store_true", help=f"take PyTorch from {CPU_INDEX}")
    parser.add_argument("--recreate", action="store_true", help="delete .venv and start afresh")
    try:
        set_up(parser.parse_args(sys.argv[1:cut]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Nothing is lost: the next run repairs .venv.")
    except OSError as error:
        sys.exit(f"Setup stopped: {error}. {TRY}")
    command = [str(PYTHON), *sys.argv[cut + 1 :]]
    if len(command) == 1:
        print(f"{VENV} is ready. Next: python bootstrap.py run -m adamix_lab tour")
    elif os.name == "nt":  # there, execv returns to the shell too early
        sys.exit(subprocess.call(command))
    else:
        os.execv(command[0], command)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # letters that the console lacks
    main()
