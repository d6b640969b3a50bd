"""The commands as a user starts them: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("ADAMIX_LAB_DEBUG", None)
    return subprocess.run(
        [sys.executable, "-m", "adamix_lab", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
