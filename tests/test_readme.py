"""What the README and the architecture page tell people to type, typed."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "ADAMIX_LAB_DATA": str(ROOT / "data"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_python_block_runs_as_it_stands(tmp_path):
    code, stock = blocks("python")
    assert "import adamix_lab" not in stock
    out = run([sys.executable, "-c", code], tmp_path)
    assert "'strategy': 'ensemble'" in out and (tmp_path / "runs/readme/adamix.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_run_as_they_stand_with_fewer_steps(tmp_path):
    """`adamix-lab` lines, in the README's order; only the number of steps and seeds is lowered, for time.

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
        line = re.sub(r"ablate \S+", r"\g<0> --steps 10", line)
        out = run([sys.executable, "-m", "adamix_lab", *shlex.split(line)[1:]], tmp_path)
        assert out.strip()


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    for alt in re.findall(r"!\[([^\]]*)\]", README):
        assert len(alt) >= 40
