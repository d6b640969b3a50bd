"""METEOR 1.5 through its own Java program, where it is there; else the score is absent, never replaced.

(nltk's METEOR is another measure: 0.84 where METEOR 1.5 says 0.48 on the E2E scorer's example.)
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

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


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]], timeout: float = 600) -> float | None:
    """METEOR 1.5 (Denkowski and Lavie, 2014), English, normalised, 0 to 1; None where it cannot run.

    Raises ValueError where the program answers something else than scores.
    """
    command, _ = find_meteor()
    if not command:
        return None
    asked = [
        " ||| ".join(("SCORE", *map(_one_line, texts), _one_line(hypothesis)))
        for hypothesis, texts in zip(hypotheses, references, strict=True)
    ]
    statistics = _ask(command, asked, timeout)
    answers = _ask(command, [" ||| ".join(("EVAL", *statistics))], timeout)
    if len(statistics) != len(asked) or len(answers) != len(asked) + 1:
        raise ValueError(
            f"METEOR answered {len(statistics)} and {len(answers)} lines: expected {len(asked)} and {len(asked) + 1}. "
            "It needs 2 GB of memory; try `java -version`, or uninstall pycocoevalcap to go on without METEOR."
        )
    return float(answers[-1])


def _ask(command: list[str], lines: Sequence[str], timeout: float) -> list[str]:
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
    return done.stdout.splitlines()


def _one_line(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())
