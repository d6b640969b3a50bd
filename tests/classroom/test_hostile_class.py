"""A hostile class: what each kind of cheating and each honest mistake comes to, by the command that grades."""

import csv
import io
import json

import pytest

pytest.importorskip("nbgrader", reason="the instructor extra is not installed")

import hostile_class
import psutil
from hostile_class import NAME
from typer.testing import CliRunner

from adamix_lab.classroom.course import release, sources_folder
from adamix_lab.classroom.sandbox import unshare
from adamix_lab.cli.main import app

ROOT = sources_folder().parents[2]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The folder, and what was expected of each person, after all of them were graded in one command."""
    if not unshare():
        pytest.skip("no unshare that may be used")
    work = tmp_path_factory.mktemp("hostile")
    course, handed = work / "course", work / "handed"
    released, _ = release(NAME, course)
    everyone = hostile_class.hostile(released, ROOT, course, handed / "patched" / f"{NAME}.ipynb")
    everyone |= hostile_class.odd(released)
    for name, (text, _, _) in everyone.items():
        (handed / name).mkdir(parents=True)
        (handed / name / f"{NAME}.ipynb").write_text(text, encoding="utf-8")
    (handed / "a file beside" / "my_adamix.py").write_text(hostile_class.reference(NAME)["number"], encoding="utf-8")
    package = ROOT / "adamix_lab" / "__init__.py"  # to which one of them tries to add a letter
    before = package.read_bytes()
    done = CliRunner().invoke(app, ["classroom", "grade", NAME, str(handed), "--course", str(course)])
    assert done.exit_code == 0, done.output
    assert package.read_bytes() == before
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "86399"]]
    return course, everyone


KINDS = [
    *(
        "reach",
        "asserts stripped",
        "errors swallowed",
        "patched",
        "always equal",
        "nothing refused",
        "replaced on the way",
        "left",
    ),
    *("borrowed, marked", "borrowed, enclosed", "borrowed, a partial", "borrowed, unseen", "borrowed, blind"),
    *("borrowed, swapped", "borrowed, shadowed"),
    *("copied cells", "an answer in two cells", "edited test", "a file beside", "untidy"),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_a_submission_gets_what_it_earns_and_is_told(graded, name):
    course, everyone = graded
    assert set(KINDS) == set(everyone)
    _, points, sign = everyone[name]
    rows = csv.DictReader(io.StringIO((course / "marks" / f"{NAME}.csv").read_text("utf-8")))
    row = next(row for row in rows if row["name"] == name)
    assert float(row["points"]) == points and sign in row["remarks"], row
    if name == "reach":
        (executed,) = course.glob(f"autograded/reach/*/{NAME}.ipynb")
        cells = json.loads(executed.read_text("utf-8"))["cells"]
        said = [line for cell in cells for o in cell.get("outputs", ()) for line in o.get("text", ())]
        assert "REACHED {}" in "".join(said), said
