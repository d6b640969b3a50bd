"""bootstrap.py: what it decides, repairs and says. pip is faked; one real virtual environment is made."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
ODD_NAME = "Übung zum Mischen, 混合 (1)"
PINS = "# pins\ntorch==9.9.9\n"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bootstrap"]


@pytest.fixture
def project(tmp_path):
    """A tiny project in a folder with spaces and letters beyond ASCII."""
    root = tmp_path / ODD_NAME
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\nname = 'tiny'\n", encoding="utf-8")
    (root / "constraints.txt").write_text(PINS, encoding="utf-8")
    return root


@pytest.fixture
def fakes(bootstrap, monkeypatch):
    """No venv and no pip: what they were asked for is recorded; the Python is this one, by a small script."""
    calls = []

    def make_venv(plan, venv):
        calls.append("venv")
        venv.mkdir()
        bootstrap.write_state(venv, done=False, **plan.choices)
        (venv / "pyvenv.cfg").touch()
        python = bootstrap.python_in(venv)
        python.parent.mkdir()
        python.symlink_to(sys.executable)

    monkeypatch.setattr(bootstrap, "make_venv", make_venv)
    monkeypatch.setattr(bootstrap, "pip_install", lambda root, *wanted: calls.append(" ".join(wanted)))
    return calls


INSTALLS = ["torch==9.9.9", "-e .[all,dev]"]
needs_links = pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")


@needs_links
def test_a_first_run_makes_and_installs_and_a_second_does_nothing(bootstrap, project, fakes, capsys):
    assert bootstrap.main([], project) == 0
    assert fakes == ["venv", *INSTALLS]
    assert "Ready after" in capsys.readouterr().out
    assert bootstrap.main([], project) == 0
    assert fakes == ["venv", *INSTALLS]
    assert "is ready" in capsys.readouterr().out


@needs_links
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again_without_rebuilding(bootstrap, project, fakes, name):
    bootstrap.main([], project)
    with (project / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    bootstrap.main([], project)
    assert fakes == ["venv", *INSTALLS, *INSTALLS]


@needs_links
def test_line_endings_alone_change_nothing(bootstrap, project, fakes):
    bootstrap.main([], project)
    (project / "constraints.txt").write_bytes(PINS.replace("\n", "\r\n").encode())
    bootstrap.main([], project)
    assert len(fakes) == 3


@needs_links
def test_what_was_chosen_once_stays(bootstrap, project, fakes):
    bootstrap.main(["--extras", "data", "--cpu"], project)
    bootstrap.main([], project)
    assert len(fakes) == 3
    bootstrap.main(["--recreate"], project)
    index = f"--extra-index-url {bootstrap.CPU_INDEX}"
    assert fakes[3:] == ["venv", f"torch==9.9.9 {index}", f"-e .[data] {index}"]
    bootstrap.main(["--extras", ""], project)  # the core alone
    assert fakes[-1] == f"-e . {index}"


# --- repair ---


@needs_links
@pytest.mark.parametrize("left", ["nothing yet", "unfinished", "broken state", "no python", "moved"])
def test_what_a_killed_or_moved_run_left_is_rebuilt(bootstrap, project, fakes, left, capsys):
    venv = project / ".venv"
    bootstrap.main([], project)
    state = json.loads((venv / bootstrap.STATE).read_text(encoding="utf-8"))
    if left == "nothing yet":
        shutil.rmtree(venv)
        venv.mkdir()
    elif left == "unfinished":
        bootstrap.write_state(venv, done=False)
    elif left == "broken state":
        (venv / bootstrap.STATE).write_text('{"done": tr', encoding="utf-8")
    elif left == "no python":
        bootstrap.python_in(venv).unlink()
    else:
        bootstrap.write_state(venv, **{**state, "root": "elsewhere"})
    assert bootstrap.main([], project) == 0
    assert fakes[3:] == ["venv", *INSTALLS]
    assert "old .venv removed" in capsys.readouterr().out


@needs_links
def test_a_kill_while_installing_is_rebuilt_with_the_same_choices(bootstrap, project, fakes, monkeypatch):
    with monkeypatch.context() as during, pytest.raises(SystemExit):  # not handled there, as SIGKILL is not
        during.setattr(bootstrap, "pip_install", mock.Mock(side_effect=SystemExit))
        bootstrap.main(["--extras", "data"], project)
    bootstrap.main([], project)
    assert fakes == ["venv", "venv", "torch==9.9.9", "-e .[data]"]


@needs_links
def test_a_failed_download_does_not_cost_the_environment(bootstrap, project, fakes, monkeypatch):
    with monkeypatch.context() as during:
        during.setattr(bootstrap, "pip_install", mock.Mock(side_effect=bootstrap.Untouched("no network")))
        assert bootstrap.main([], project) == 1
    assert bootstrap.main([], project) == 0
    assert fakes == ["venv", *INSTALLS]


@needs_links
def test_an_environment_made_by_hand_is_kept(bootstrap, project, fakes, capsys):
    venv = project / ".venv"
    python = bootstrap.python_in(venv)
    python.parent.mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    python.symlink_to(sys.executable)
    (venv / "kept").touch()
    bootstrap.main([], project)
    assert (venv / "kept").exists()
    assert fakes == INSTALLS
    assert "made by other hands" in capsys.readouterr().out


@pytest.mark.parametrize("as_file", [True, False])
def test_what_is_no_environment_is_never_deleted(bootstrap, project, fakes, as_file, capsys):
    precious = project / ".venv" if as_file else project / ".venv" / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work", encoding="utf-8")
    assert bootstrap.main(["--recreate"], project) == 1
    assert precious.read_text(encoding="utf-8") == "years of work"
    assert "is in the way" in capsys.readouterr().out


@needs_links
def test_a_kill_while_removing_is_known_as_unfinished(bootstrap, project, fakes, monkeypatch):
    bootstrap.main(["--extras", "data"], project)
    with monkeypatch.context() as during, pytest.raises(SystemExit):
        during.setattr(bootstrap.shutil, "rmtree", mock.Mock(side_effect=SystemExit))
        bootstrap.main(["--recreate"], project)
    (project / ".venv" / "pyvenv.cfg").unlink(missing_ok=True)
    assert bootstrap.main([], project) == 0
    assert fakes[3:] == ["venv", "torch==9.9.9", "-e .[data]"]


# --- what it says ---


def fake_python(folder: Path, body: str) -> str:
    script = folder / "python-fake"
    script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    script.chmod(0o755)
    return str(script)


@needs_links
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 3.10", "Python 3.10.*needs 3.11 or newer.*--python"),
        ("echo 3.12; echo 'No module named ensurepip' >&2; exit 1", "ensurepip.*apt install python3.12-venv"),
        ("echo hello", "does not answer like a Python: hello"),
    ],
)
def test_an_unfit_python_is_named_with_the_remedy(bootstrap, tmp_path, body, words):
    with pytest.raises(bootstrap.Problem, match=f"(?s){words}"):
        bootstrap.check_python(fake_python(tmp_path, body))


def test_a_missing_python_is_named(bootstrap):
    with pytest.raises(bootstrap.Problem, match="'no-such-python' did not start"):
        bootstrap.check_python("no-such-python")


@pytest.mark.parametrize(
    ("pip_says", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "Retrying ... NewConnectionError\nERROR: No matching distribution found for torch",
            "Check the network",
        ),
        ("ssl.SSLError: CERTIFICATE_VERIFY_FAILED Max retries exceeded", "global.cert"),
        ("ERROR: No matching distribution found for torch==9.9.9", "Try Python 3.11"),
        ("ERROR: ResolutionImpossible", "constraints.txt disagree"),
        ("PermissionError: [Errno 13]", "close what uses .venv"),
        ("something new", "They may say why"),
    ],
)
def test_each_failure_has_its_remedy(bootstrap, pip_says, advice):
    text = bootstrap.explain("pip", pip_says.splitlines())
    assert pip_says.splitlines()[-1] in text
    assert advice in text
    assert "run the same command again" in text


@needs_links
@pytest.mark.parametrize(("words", "kind"), [("Collecting", "Untouched"), ("Installing collected", "Problem")])
def test_a_failing_pip_is_quiet_until_it_fails_and_then_quoted(bootstrap, project, capsys, words, kind):
    (project / ".venv" / "bin").mkdir(parents=True)
    script = fake_python(project, f"echo {words} x; echo 'ERROR: Connection refused'; exit 1")
    shutil.move(script, bootstrap.python_in(project / ".venv"))
    with pytest.raises(bootstrap.Problem, match=r"(?s)Connection refused.*Check the network") as caught:
        bootstrap.pip_install(project, "x")
    assert type(caught.value).__name__ == kind
    assert capsys.readouterr().out == ""


def test_a_full_disk_and_an_interruption_end_in_plain_words(bootstrap, project, fakes, monkeypatch, capsys):
    ends = [
        (OSError(28, "No space left on device"), 1, "disk is full"),
        (KeyboardInterrupt(), 130, "repairs"),
    ]
    for error, code, words in ends:
        monkeypatch.setattr(bootstrap, "make_venv", mock.Mock(side_effect=error))
        assert bootstrap.main([], project) == code
        assert words in capsys.readouterr().out


def test_a_constraints_file_without_torch_is_refused(bootstrap, project):
    (project / "constraints.txt").write_text("numpy==1.0\n", encoding="utf-8")
    with pytest.raises(bootstrap.Problem, match="no line torch==VERSION"):
        bootstrap.pinned_torch(project)


def test_words_after_run_or_two_dashes_go_to_python(bootstrap):
    for separator in ("run", "--"):
        options, words = bootstrap.parse(["--cpu", separator, "-m", "adamix_lab", "tour", "--", "x"])
        assert options.cpu
        assert words == ["-m", "adamix_lab", "tour", "--", "x"]


# --- the real thing, as far as it goes without an index ---


def test_a_dry_run_says_what_it_would_do_and_does_nothing(project):
    shutil.copy(ROOT / "bootstrap.py", project)
    command = [sys.executable, str(project / "bootstrap.py"), "--dry-run", "run", "-c", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr
    assert "make a new .venv, install torch==9.9.9" in answer.stdout
    assert not (project / ".venv").exists()


def test_a_real_environment_in_a_folder_with_an_odd_name(bootstrap, project, monkeypatch):
    monkeypatch.setattr(bootstrap, "pip_install", lambda root, *wanted: None)
    assert bootstrap.main([], project) == 0
    shutil.copy(ROOT / "bootstrap.py", project)
    code = "import sys, pip; print(ascii(sys.prefix)); sys.exit(7)"
    command = [sys.executable, str(project / "bootstrap.py"), "run", "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 7, answer.stdout + answer.stderr
    assert answer.stdout.strip() == ascii(str((project / ".venv").resolve()))


def test_old_pythons_can_read_the_file_to_be_told_that_they_are_old():
    ast.parse((ROOT / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 8))
