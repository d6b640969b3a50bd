"""bootstrap.py: what it decides, repairs and says. venv and pip are faked; one real virtual environment is made."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bootstrap.py"
ODD_NAME = "Übung zum Mischen, 混合 (1)"
PINS = "# pins\ntorch==9.9.9\n"
BUILD = ["venv", "torch==9.9.9", "-e .[learn]"]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")


@pytest.fixture
def project(tmp_path):
    """A tiny project in a folder with spaces and letters beyond ASCII."""
    root = tmp_path / ODD_NAME
    root.mkdir()
    shutil.copy(SCRIPT, root)
    (root / "pyproject.toml").write_text("[project]\nname = 'tiny'\n", encoding="utf-8")
    (root / "constraints.txt").write_text(PINS, encoding="utf-8")
    return root


@pytest.fixture
def bootstrap(project, monkeypatch):
    """Its script with `call` faked: `calls` has what was asked for, `fail` the call that fails, or how it ends."""
    spec = importlib.util.spec_from_file_location("bootstrap", project / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.calls, module.fail = [], {}

    def call(*command):
        venv = command[2] == "venv"
        asked = "venv" if venv else " ".join(command[command.index("constraints.txt") + 1 :])
        module.calls.append(asked)
        if venv:
            module.PYTHON.parent.mkdir()
            module.PYTHON.symlink_to(sys.executable)
        end = module.fail.get(asked, 0)
        if isinstance(end, BaseException):
            raise end
        return end

    def run(*words):
        module.calls.clear()
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", *words])
        module.main()
        return list(module.calls)

    monkeypatch.setattr(module, "call", call)
    module.run = run
    return module


def test_a_first_run_makes_and_installs_and_a_second_does_nothing(bootstrap, capsys):
    assert bootstrap.run() == BUILD
    assert bootstrap.run() == []
    assert capsys.readouterr().out.count("is ready") == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again_without_rebuilding(bootstrap, project, name):
    bootstrap.run()
    with (project / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert bootstrap.run() == BUILD[1:]


def test_line_endings_alone_change_nothing(bootstrap, project):
    bootstrap.run()
    (project / "constraints.txt").write_bytes(PINS.replace("\n", "\r\n").encode())
    assert bootstrap.run() == []


def test_what_was_chosen_once_stays(bootstrap):
    bootstrap.run("--extras", "data", "--cpu")
    assert bootstrap.run() == []
    index = f"--extra-index-url {bootstrap.CPU_INDEX}"
    assert bootstrap.run("--recreate") == ["venv", f"{index} torch==9.9.9", f"{index} -e .[data]"]
    assert bootstrap.run("--extras", "")[-1] == f"{index} -e ."  # the core alone


@pytest.mark.parametrize("left", ["empty", "unfinished", "cut short", "no python", "moved", "older python"])
def test_what_a_killed_or_moved_run_left_is_rebuilt(bootstrap, left):
    bootstrap.run()
    state = bootstrap.read_state()
    if left == "empty":
        shutil.rmtree(bootstrap.VENV)
        bootstrap.VENV.mkdir()
    elif left == "cut short":
        bootstrap.STATE.write_text('{"done": tr', encoding="utf-8")
    elif left == "no python":
        bootstrap.PYTHON.unlink()
    else:
        change = {"unfinished": {"done": False}, "moved": {"root": "elsewhere"}, "older python": {"python": "3.10"}}
        bootstrap.write_state({**state, **change[left]})
    assert bootstrap.run("--python", sys.executable) == BUILD
    assert bootstrap.read_state() == state and not bootstrap.VENV.with_name(".venv.tmp").exists()


@pytest.mark.parametrize("at", ["venv", "torch==9.9.9", "-e .[data]"])
def test_a_kill_is_rebuilt_with_the_same_choices(bootstrap, at):
    bootstrap.fail[at] = MemoryError()  # not handled there, as SIGKILL is not
    with pytest.raises(MemoryError):
        bootstrap.run("--extras", "data")
    bootstrap.fail.clear()
    assert bootstrap.run() == ["venv", "torch==9.9.9", "-e .[data]"]


def test_a_failed_download_does_not_cost_a_finished_environment(bootstrap, project):
    bootstrap.run()
    (project / "constraints.txt").write_text("torch==9.9.10\n", encoding="utf-8")
    bootstrap.fail["torch==9.9.10"] = 1
    with pytest.raises(SystemExit, match=r"says why above.*disk space.*HTTPS_PROXY"):
        bootstrap.run()
    bootstrap.fail.clear()
    assert bootstrap.run() == ["torch==9.9.10", "-e .[learn]"]


@pytest.mark.parametrize(("end", "words"), [(KeyboardInterrupt(), "repairs"), (OSError(28, "No space left"), "space")])
def test_an_interruption_and_a_full_disk_end_in_plain_words(bootstrap, end, words):
    bootstrap.fail["venv"] = end
    with pytest.raises(SystemExit, match=words):
        bootstrap.run()


def test_what_this_script_did_not_make_goes_only_when_asked(bootstrap):
    bootstrap.VENV.mkdir()
    precious = bootstrap.VENV / "thesis.txt"
    precious.write_text("years of work", encoding="utf-8")
    for words in ([], ["--recreate"]):
        with pytest.raises(SystemExit, match="was not made by this script"):
            bootstrap.run(*words)
    (bootstrap.VENV / "pyvenv.cfg").touch()
    with pytest.raises(SystemExit, match="was not made by this script"):
        bootstrap.run()
    assert precious.exists()
    assert bootstrap.run("--recreate") == BUILD and not precious.exists()


def test_an_old_or_missing_python_is_named_with_the_remedy(bootstrap, tmp_path):
    old = tmp_path / "python-fake"
    old.write_text("#!/bin/sh\necho 3.10\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(SystemExit, match=r"This is Python 3\.10 .*needs 3\.11 or newer.*--python"):
        bootstrap.run("--python", str(old))
    with pytest.raises(SystemExit, match=r"'no-such-python' did not start.*needs 3\.11"):
        bootstrap.run("--python", "no-such-python")
    assert not bootstrap.VENV.exists()


def test_a_real_environment_in_a_folder_with_an_odd_name(bootstrap, project):
    bootstrap.run("--cpu")
    state = bootstrap.read_state()
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(bootstrap.VENV)], check=True)
    bootstrap.write_state(state)
    code = "import sys; print(ascii(sys.prefix), sys.argv[1:]); sys.exit(7)"
    command = [sys.executable, str(project / "bootstrap.py"), "--cpu", "run", "-c", code, "run", "--", "x"]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 7, answer.stdout + answer.stderr
    assert answer.stdout.strip() == f"{str(bootstrap.VENV.resolve())!a} ['run', '--', 'x']"


def test_old_pythons_can_read_the_file_to_be_told_that_they_are_old():
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))
