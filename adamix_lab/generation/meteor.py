"""METEOR 1.5 through its own Java program, where it is there; else the score is absent, never replaced.

(nltk's METEOR is another measure: 0.84 where METEOR 1.5 says 0.48 on the E2E scorer's example.)
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JAR = Path("meteor", "meteor-1.5.jar")


def find_meteor() -> tuple[list[str], str]:
    """(command, "") where METEOR can run, ([], what is missing) where it cannot."""
    java = shutil.which("java")
    if java is None:
        return [], "Java is not installed"
    spec = importlib.util.find_spec("pycocoevalcap")
    for place in (spec and spec.submodule_search_locations) or ():
        if (jar := Path(place) / JAR).is_file():
            return [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"], ""
    return [], "METEOR 1.5 is not installed (pip install pycocoevalcap brings it, 104 MB)"


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """METEOR 1.5 (Denkowski and Lavie, 2014), English, normalised, 0 to 1; None where it cannot run.

    Raises ValueError where the program answers something else than scores.
    """
    command, _ = find_meteor()
    if not command:
        return None
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, encoding="utf-8", **quiet) as program:  # type: ignore[call-overload]
        # One line at a time: the program answers each, and neither side waits for a full pipe.
        statistics = [
            _ask(program, " ||| ".join(("SCORE", *map(_one_line, texts), _one_line(hypothesis))))
            for hypothesis, texts in zip(hypotheses, references, strict=True)
        ]
        answers = [_ask(program, " ||| ".join(("EVAL", *statistics)))]
        answers += [program.stdout.readline().strip() for _ in statistics]  # a score a text, then that of all
        with contextlib.suppress(BrokenPipeError):  # a program that has died: its answers say so
            program.stdin.close()
    try:
        return float(answers[-1])
    except ValueError:
        raise ValueError(
            f"METEOR answered {answers[-1]!r}: expected a number. It needs 2 GB of memory; try `java -version`, or "
            "uninstall pycocoevalcap to go on without METEOR."
        ) from None


def _ask(program: Any, line: str) -> str:
    try:
        program.stdin.write(line + "\n")
        program.stdin.flush()
    except BrokenPipeError:
        return ""
    return program.stdout.readline().strip()


def _one_line(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())
