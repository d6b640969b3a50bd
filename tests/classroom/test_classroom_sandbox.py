"""What runs apart: limits hold, faults become errors with words, a cell that did not run never looks right."""

import subprocess
import sys

import pytest

from adamix_lab.classroom.sandbox import Limits, NotStarted, isolation, run, unshare

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")

LIMITS = Limits(cell_seconds=15, seconds=120, memory_mb=1024)


def execute(*sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook, remarks, _ = run(nbformat.v4.new_notebook(cells=cells), LIMITS)
    said = [
        " ".join(o.get("text", "") if o.output_type == "stream" else o.get("ename", "") for o in cell.outputs)
        for cell in notebook.cells
    ]
    return said, " ".join(remarks)


@pytest.mark.slow
def test_an_empty_home_no_network_and_no_gradebook(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "of the grader")
    secret = tmp_path / "gradebook"
    secret.mkdir()
    (secret / "gradebook.db").write_text("marks")
    said, _ = execute(
        "import os; print(sorted(os.listdir(os.path.expanduser('~'))))",
        f"import os; print(os.listdir({str(secret)!r}))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import socket; print(socket.socket)",
        "print(os.environ.get('SECRET_TOKEN'))",
    )
    assert "work" in said[0] and "gradebook" not in said[0]
    assert "URLError" in said[2]
    assert "None" in said[4]
    if unshare():
        assert said[1] == "FileNotFoundError"
    assert (secret / "gradebook.db").read_text() == "marks"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_a_loop_a_hog_and_a_flood_are_stopped_and_told():
    said, told = execute("while True: pass", "hog = bytearray(4 << 30)", "while True: print('x' * 1000)", "print('on')")
    assert "TooLong" in said[0] and "MemoryError" in said[1] and "TooMuchOutput" in said[2] and "on" in said[3]
    assert "is there a loop without an end?" in told and "1024 MB" in told and "printed more than 200 kB" in told


@pytest.mark.slow
def test_after_the_end_of_python_nothing_looks_right():
    said, told = execute("print('first')", "import os; os._exit(0)", "print('never')")
    assert said[0].strip() == "first" and "PythonEnded" in said[1] and said[2] == "NotRun"
    assert "Python ended while it ran cell 2" in told


def test_what_is_not_enforced_is_said(monkeypatch):
    import adamix_lab.classroom.sandbox as sandbox

    monkeypatch.setattr(sandbox, "unshare", lambda: ())
    with pytest.raises(ValueError, match=r"Not enforced here.*network.*gradebook.*--trust"):
        isolation(LIMITS)
    assert "Not enforced here" in isolation(LIMITS, trust=True)[1]
    monkeypatch.setattr(sandbox, "unshare", lambda: ("--user",))
    assert "Nowhere enforced" in " ".join(isolation(LIMITS))


@pytest.mark.slow
def test_without_unshare_it_runs_all_the_same_for_people_who_are_trusted(monkeypatch):
    import adamix_lab.classroom.sandbox as sandbox

    monkeypatch.setattr(sandbox, "unshare", lambda: ())
    said, _ = execute(
        "import os; print(sorted(os.listdir(os.path.expanduser('~'))))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import sys; print(open('/proc/1/status').read()[:4] if sys.platform == 'linux' else 'Name')",
    )
    assert "work" in said[0] and "URLError" in said[1] and "Name" in said[2]  # what is said not to be enforced is not


@pytest.mark.skipif(not unshare(), reason="no unshare that may be used")
def test_a_python_that_lies_in_home_is_not_hidden_by_the_submissions_own(tmp_path, monkeypatch):
    import adamix_lab.classroom.sandbox as sandbox

    places = [f"/{name}/x" for name in ("home", "root", "opt", "srv", "mnt", "tmp", "var", "usr")]
    assert not [place for place in places if place.startswith(f"{sandbox.HOME}/")]
    (tmp_path / "with a space").mkdir()
    (tmp_path / "with a space" / "file").write_text("in it")
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(sandbox, "SYSTEM", (*sandbox.SYSTEM, str(tmp_path / "with a space")))
    inside = f"pwd; cat '{tmp_path}/with a space/file'; echo x >> '{tmp_path}/with a space/file'"
    command = [*sandbox._entered(unshare(), str(tmp_path / "root")), "sh", "-c", inside]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"{sandbox.HOME}\nin it" and "Read-only" in done.stderr


def test_what_ends_without_an_answer_is_told(monkeypatch, tmp_path):
    import adamix_lab.classroom.sandbox as sandbox

    monkeypatch.setattr(sandbox, "unshare", lambda: ())
    monkeypatch.setattr(sandbox, "RUNNER", tmp_path / "runner.py")
    for text, kind, words in (
        ("import sys; sys.exit('no room')", NotStarted, "no room"),  # the machine's trouble: nobody pays for it
        ("print(); import sys; sys.exit(7)", sandbox.Ended, "with code 7"),
    ):
        (tmp_path / "runner.py").write_text(text)
        with pytest.raises(kind, match=words):
            execute("1")


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="seconds = 0"):
        Limits(seconds=0)
