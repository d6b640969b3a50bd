"""One folder for rooms without network: wheels of all that a learner needs, this package among them, a starter.

STICK/wheels       for this system and this Python version; no solutions of exercises
STICK/start.py     `python start.py lab` (tour, doctor, ...) sets up by bootstrap.py, from the wheels alone, and runs
STICK/BUNDLE.txt   what it was made for, and whose weights are in it
"""

from __future__ import annotations

import platform
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import write_text
from adamix_lab.tasks.backbones import MINILM_LICENCE

ROOT = Path(__file__).resolve().parents[2]

START = '''"""Sets AdaMix Lab up from this folder, without network, and runs it: `python start.py [lab | ...]`."""

import os
import runpy
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parent)
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("PYTHONPATH", "PYTHONHOME"):  # nothing of this laptop's own
    os.environ.pop(name, None)
sys.argv[1:] = ["run", "-m", "adamix_lab", *sys.argv[1:]]
runpy.run_path("bootstrap.py", run_name="__main__")
'''


def bundle(folder: Path, cpu: bool = False, tell: Callable[[str], None] = print) -> tuple[int, int]:
    """Makes the bundle, or brings up to date the one that a folder holds: (wheels, bytes in all).

    Args:
        folder: where to; it is made.
        cpu: take PyTorch's CPU build from PyTorch's own index (Linux; elsewhere it is what pip takes anyway).
        tell: for progress.

    Raises FileNotFoundError outside of a checkout, FileExistsError where other files lie, ValueError where pip failed.
    """
    folder = folder.resolve()  # pip runs in the checkout
    if not (ROOT / "constraints.txt").is_file():
        raise FileNotFoundError(
            f"{ROOT} is no checkout of the repository: expected constraints.txt in it, which says what to gather. "
            "Clone the repository, or unpack the sdist, and run the command there."
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "BUNDLE.txt").is_file():
        raise FileExistsError(f"{folder} holds other files: expected an empty folder, or a bundle to renew.")
    folder.mkdir(parents=True, exist_ok=True)
    made_for = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
    about = f"AdaMix Lab, made for {made_for}. Another system or Python version needs a bundle of its own.\n"
    write_text(folder / "BUNDLE.txt", f"{about}{MINILM_LICENCE}\n")
    write_text(folder / "start.py", START)
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt"):  # which set up, here from the wheels
        shutil.copyfile(ROOT / name, folder / name)
    wheels = folder / "wheels"
    index = ["--extra-index-url", runpy.run_path(str(ROOT / "bootstrap.py"))["CPU_INDEX"]] if cpu else []
    tell("wheels")
    _pip("wheel", "--wheel-dir", str(wheels), "--only-binary", ":all:", "-c", "constraints.txt", *index, ".[learn]")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return len(list(wheels.glob("*.whl"))), size


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-4:])
        raise LabError(
            f"pip {words[0]} failed:\n{said}\nA bundle is made with the network: check it, and the free space (3 GB)."
        )
