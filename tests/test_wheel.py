"""The wheel is the product: built here, put into an environment of its own, tried from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USER = '''"""Twenty lines of a user, for `mypy --strict`."""

import torch

from adamix_lab import Bottleneck, Consistency, LabError, MixtureModel, Recipe, Task, attach, evaluate, few_shot
from adamix_lab import load_backbone, load_task, merge, parameter_report, predict, preset, save, train


def trained(task: Task, steps: int) -> tuple[MixtureModel, object]:
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels)
    mixture = attach(model, Bottleneck(16), experts=4, share="up", blocks=(-2, -1), objective=Consistency(1.0))
    train(mixture, task, tokenizer, Recipe(steps=steps, batch_size=16, lr=5e-3, dev_fraction=0))
    return mixture, tokenizer


def main() -> None:
    task: Task = few_shot(load_task("aspects"), examples=30)
    mixture, tokenizer = trained(task, preset("laptop-minilm-aspects").recipe.steps or 300)
    print(parameter_report(mixture).share_of_base, mixture.space.experts)
    for result in evaluate(mixture, task, tokenizer, ["merged", "ensemble"]):
        print(result.row())
    merged: MixtureModel = merge(mixture)
    probabilities: torch.Tensor = predict(merged, tokenizer, ["a lovely film"])
    try:
        print(probabilities.argmax(-1).tolist(), save(merged, "runs/mine", {"task": task.name}).name)
    except LabError as error:
        print(error)


main()
'''

IMPORTS = """
import ast, nbformat, pathlib
for path in sorted(pathlib.Path("lessons").glob("*.ipynb")):
    for cell in nbformat.read(path, 4).cells:
        code = ast.parse(cell.source if cell.cell_type == "code" else "")
        imports = [node for node in code.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), path.name, "exec"))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    pytest.importorskip("hatchling", reason="the dev extra is not installed")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def python(built, tmp_path_factory) -> Path:
    """The interpreter of an environment in which the wheel is, beside the packages that these tests run with."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([inside, "-c", place], check=True, capture_output=True, text=True).stdout.strip())
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(site)
    (site / "packages.pth").write_text(
        sysconfig.get_path("purelib")
    )  # their own .pth files, editable ones, are not read
    return inside


def run(python: Path, *words: str | Path, folder: Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ADAMIX_LAB_DATA")}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # nbgrader calls alembic
    return subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_holds_what_is_read_and_no_solution(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        assert {name.partition("/")[0].split("-")[0] for name in names} == {"adamix_lab"}
        assert not [
            n for n in names if n.startswith(("adamix_lab/_data", "adamix_lab/_notebooks")) and n.endswith(".py")
        ]
        wanted = "py.typed classroom/enter.sh _data/aspects/train.jsonl _data/presets.yaml _data/paper/claims.yaml"
        wanted += " _notebooks/00_tour.ipynb _notebooks/exercises/00_tour.ipynb training/card.md training/extras.yaml"
        wanted += " core/architectures.yaml tasks/known.yaml _data/results/measured/report/claims.csv"
        assert {f"adamix_lab/{name}" for name in wanted.split()} <= names
        assert not [name for name in names if b"BEGIN SOLUTION" in wheel.read(name) and "_notebooks" in name]
        assert sum(info.compress_size for info in wheel.infolist()) < 50e6
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        there = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = "tests/test_wheel.py notebooks/exercises/src/00_tour.py CITATION.cff constraints.txt data/experts/make.py"
    assert set(wanted.split()) <= there and not [name for name in there if name.startswith(("runs/", ".venv"))]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_an_empty_folder_without_network(python, tmp_path):
    done = run(python, "-m", "adamix_lab", "doctor", folder=tmp_path)
    assert "embedded task 'aspects'" in done.stdout and "54 shipped sets of experts" in done.stdout, done.stderr
    assert "_data" in done.stdout and str(ROOT / "data") not in done.stdout
    copy = "from pathlib import Path; from adamix_lab.cli.main import copy_lessons; copy_lessons(Path('lessons'))"
    assert run(python, "-c", copy, folder=tmp_path).returncode == 0
    assert len(list((tmp_path / "lessons").glob("*.ipynb"))) == 10
    done = run(python, "-m", "adamix_lab", "tour", "--steps", "2", folder=tmp_path)
    assert done.returncode == 0 and "merged" in done.stdout, done.stderr
    kinds = "--kind line --points 3 --evaluation-rows 8 --out landscape".split()
    done = run(python, "-m", "adamix_lab", "landscape", "adamix", *kinds, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(python, "-c", IMPORTS, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_exercises_come_from_a_folder_that_is_named(python, tmp_path):
    pytest.importorskip("nbgrader", reason="the instructor extra is not installed")
    done = run(python, "-m", "adamix_lab", "classroom", "release", folder=tmp_path)
    assert done.returncode == 2 and "give --exercises PATH" in done.stderr and len(done.stderr.splitlines()) == 1
    place = ROOT / "notebooks" / "exercises"
    done = run(python, "-m", "adamix_lab", "classroom", "release", "00_tour", "--exercises", place, folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "runs/course/release/00_tour/00_tour.ipynb").is_file(), done.stderr


@pytest.mark.slow
def test_a_users_script_is_clean_under_mypy_strict(python, tmp_path):
    pytest.importorskip("mypy", reason="the dev extra is not installed")
    (tmp_path / "mine.py").write_text(USER)
    command = ["-m", "mypy", "--strict", "--python-executable", python, "mine.py"]
    done = run(Path(sys.executable), *command, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "mine.py").write_text("from adamix_lab import Recipe\nRecipe(steps='many')\n")  # types do arrive
    assert "arg-type" in run(Path(sys.executable), *command, folder=tmp_path).stdout


@pytest.mark.matrix
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("way", ["wheel", "editable"])
@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13"])
def test_the_product_as_a_newcomer_gets_it(name, way):
    if not shutil.which(name):
        pytest.skip(f"no {name} on the PATH")
    script = ROOT / "tests" / "environments" / "product.py"
    done = subprocess.run([sys.executable, script, way, shutil.which(name)], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    print(done.stdout)  # `make matrix` keeps it
    assert not json.loads(done.stdout.strip().splitlines()[-1])["failed"]
