"""What the README and the pages it leads to tell people to type, typed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("learn", "teach", "research", "use"))]


def blocks(language: str) -> list[str]:
    """All pages' blocks of code, in the pages' order."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "ADAMIX_LAB_DATA": str(ROOT / "data"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_python_blocks_run_as_they_stand(tmp_path):
    learns, wraps, trains, stock = blocks("python")
    assert "import adamix_lab" not in stock
    found = dict(line.split()[:2] for line in run([sys.executable, "-c", learns], tmp_path).splitlines()[1:])
    assert list(found) == ["merged", "fixed", "random", "ensemble"]
    assert all(float(accuracy) >= 85 for accuracy in found.values())  # of two classes, half and half
    run([sys.executable, "-c", wraps], tmp_path)
    assert (tmp_path / "runs/mine/adamix.json").is_file()
    assert "trainable params: " in run([sys.executable, "-c", trains], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_run_as_they_stand_with_fewer_steps(tmp_path):
    """`adamix-lab` lines, in the pages' order; only the number of steps and seeds is lowered, for time.

    The folders that a reader brings: DATA is made of a few sentences, SUBMISSIONS of one person's answers.
    """
    import shlex

    import classroom_helpers
    import tiny_generation

    (tmp_path / "DATA").mkdir()
    for part in ("train", "test"):
        lines = [json.dumps(row) for row in tiny_generation.pairs()]
        (tmp_path / "DATA" / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shutil.copytree(ROOT / "data" / "grids", tmp_path / "data" / "grids")
    no_grading = importlib.util.find_spec("nbgrader") is None  # the instructor extra
    if not no_grading:
        classroom_helpers.hand_in("01_routing", tmp_path / "SUBMISSIONS" / "ada")
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("adamix-lab")]
    assert len(lines) >= 4
    for line in lines:
        if no_grading and line.startswith("adamix-lab classroom"):
            continue
        line = line.split("  #")[0]
        line = re.sub(r"--steps \d+", "--steps 10", re.sub(r"--seeds \d+", "--seeds 1", line))
        line = re.sub(r"ablate \S+", r"\g<0> --steps 10", re.sub(r"ablate baselines", r"\g<0> --no-search", line))
        out = run([sys.executable, "-m", "adamix_lab", *shlex.split(line)[1:]], tmp_path)
        assert out.strip()


def test_pictures_and_links_are_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
        for alt in re.findall(r"!\[([^\]]*)\]", text):
            assert len(alt) >= 40


def test_the_architecture_page_is_short_and_names_what_there_is():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    for name in re.findall(r"`((?:adamix_lab|core|tests|data)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / name).exists() or (ROOT / "adamix_lab" / name).exists(), name
