"""The command line on a tiny task: real commands, real files, no network."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import bad_command_lines
import close
import pyarrow
import pytest
import typer
from command_line import command
from pyarrow import parquet
from typer.testing import CliRunner

from adamix_lab.cli import main as cli
from adamix_lab.cli.boundary import as_options
from adamix_lab.core.errors import LabError
from adamix_lab.core.objective import Consistency
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.training.recipe import Recipe, preset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    words = {"good": "lovely great fine", "bad": "dull awful poor"}
    with (folder / "task.csv").open("w") as file:
        file.write("text,label\n")
        for n in range(40):
            label = "good" if n % 2 else "bad"
            file.write(f"the film number {n} was {words[label].split()[n % 3]},{label}\n")
    (folder / "columns.csv").write_text("first,second,label\na,b,x\nc,d,y\n" * 4)
    done = command(*"train --task task.csv --steps 4 --top-blocks 1 --seeds 2 --out out".split(), folder=folder)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "out", folder / "moved")
    config = json.loads((folder / "moved/seed0/adamix.json").read_text())
    del config["digest"]
    config["notes"]["source"] = "./elsewhere.csv"
    (folder / "moved/seed0/adamix.json").write_text(json.dumps(config))
    return folder, done.stdout


def test_train_prints_a_table_of_strategies_over_seeds(trained):
    folder, out = trained
    assert "±" in out and all(name in out for name in ("merged", "random-token", "ensemble"))
    record = json.loads((folder / "out/results.json").read_text())
    assert {row["seed"] for row in record["rows"]} == {0, 1} and record["versions"]["torch"]


def test_what_was_trained_on_short_rows_is_read_on_rows_as_short(tmp_path, monkeypatch):
    """The table of `train` again, by `evaluate`, `posterior` and `landscape`; a row's beginning tells its class."""
    import pandas as pd
    import tiny
    import tiny_task

    monkeypatch.chdir(tmp_path)
    tiny.bert().save_pretrained("base")
    tiny_task.tokenizer().save_pretrained("base")
    rng, rows = random.Random(0), []
    for n in range(80):
        words = rng.choices((tiny_task.BAD, tiny_task.GOOD)[n % 2], k=3) + rng.choices(tiny_task.PLAIN, k=20)
        rows.append({"text": " ".join(words), "label": n % 2})
    Path("rows.json").write_text(json.dumps(rows))
    told = {}
    for words in (
        "train --task rows.json --model base --out out --steps 30 --max-length 6 --lr 0.01 --size 4 --experts 2",
        "evaluate out/seed0",
        "posterior out/seed0 --draws 2 --token-draws 1 --dropout 0 --out posterior",
        "landscape out/seed0 --kind line --points 3 --out landscape",
    ):
        with pytest.warns(TextsCut, match="longer than max_length = 6"):
            done = CliRunner().invoke(cli.app, words.split())
        assert done.exit_code == 0, done.output
        told[words.split()[0]] = done.output
    merged = [
        next(line for line in told[name].splitlines() if line.startswith("merged ")) for name in ("train", "evaluate")
    ]
    assert merged[0] == merged[1]
    record = json.loads(Path("out/results.json").read_text())["rows"][0]
    table = pd.read_csv("posterior/strategies.csv").iloc[0]
    close.assert_close(float(table["accuracy"]), record["accuracy"], close.ROUNDED)
    with pytest.warns(TextsCut, match="longer than max_length = 6"):
        done = CliRunner().invoke(cli.app, ["predict", "out/seed0", rows[0]["text"]])
    assert done.exit_code == 0, done.output


def test_no_file_of_a_training_names_an_absolute_path(trained):
    files = [path for path in (trained[0] / "out").rglob("*") if path.is_file()]
    assert len(files) > 4 and not [path for path in files if str(trained[0]).encode() in path.read_bytes()]
    assert json.loads((trained[0] / "out/seed0/adamix.json").read_text())["notes"]["source"] == "./task.csv"


def test_evaluate_and_predict_read_what_train_wrote(trained):
    folder, _ = trained
    done = command("evaluate", "out/seed0", "--strategy", "merged", folder=folder)  # finds the task's file
    assert done.returncode == 0 and "merged" in done.stdout, done.stderr
    done = command("predict", "out/seed0", "the film was lovely", "", folder=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 and ("good" in done.stdout or "bad" in done.stdout)


@pytest.mark.slow
def test_posterior_writes_tables_and_pictures_of_what_train_wrote(trained):
    sizes = "--evaluation-rows 5 --other-rows 3 --draws 3 --token-draws 1 --dropout 2".split()
    where = ["--task", "task.csv", "--outside", "aspects", "--member", "out/seed1", "--out", "study"]
    done = command("posterior", "out/seed0", *where, *sizes, folder=trained[0])
    assert done.returncode == 0, done.stderr
    assert "exact marginal" in done.stdout and "apart, 1 trained" in done.stdout and "not fitted" in done.stdout
    assert json.loads((trained[0] / "study/record.json").read_text())["training_rows"] == 32
    assert {p.suffix for p in (trained[0] / "study").iterdir()} == {".csv", ".parquet", ".png", ".txt", ".json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "text"], "nowhere/adamix.json is not there: expected a folder written by"),
        (["train", "--task", "aspcts"], "Did you mean 'aspects'"),
        (["train", "--task", "task.csv", "--label", "lable"], "lable"),
        (["train", "--task", "task.csv", "--experts", "0"], "--experts = 0: expected a whole number from 1 to 1,024"),
        (["train", "--task", "task.csv", "--share", "A"], "Side to share for bottleneck 'A'"),
        (["ablate", "few-shot", "--task", "sst"], "Task 'sst' is not known"),
        (["train", "--task", "rte"], "Without network, give a folder"),
        (["train", "--task", "task.csv", "--model", "no-such/model"], "Hub name that is in the cache"),
        (["posterior", "out/seed0", "--task", "task.csv", "--draws", "0"], "--draws = 0: expected a whole number"),
        (["evaluate", "moved/seed0"], "say where the rows lie now: --task path"),
        (["train", "--task", "columns.csv"], "Say which with --text column"),
    ],
)
def test_mistakes_end_in_one_clear_line(trained, arguments, message):
    done = command(*arguments, folder=trained[0])
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_regression_from_training_to_prediction(tmp_path):
    (tmp_path / "stsb").mkdir()
    rows = [{"sentence1": f"a film {n}", "sentence2": "a film", "label": n % 6} for n in range(24)]
    for part in ("train", "validation"):
        (tmp_path / "stsb" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(*"train --task stsb --folder . --steps 3 --top-blocks 1 --out out".split(), folder=tmp_path)
    assert done.returncode == 0 and "pearson" in done.stdout and "spearman" in done.stdout, done.stderr
    done = command("evaluate", "out/seed0", "--strategy", "merged", folder=tmp_path)  # finds the task's folder
    assert done.returncode == 0 and "pearson" in done.stdout, done.stderr
    done = command("predict", "out/seed0", "a film", "another film", folder=tmp_path)
    assert done.returncode == 0 and "%" not in done.stdout and "a film | another film" in done.stdout, done.stderr


def test_doctor_looks_at_everything(tmp_path):
    done = command("doctor", folder=tmp_path)
    for expected in ("Python", "torch", "device", "MiniLM", "aspects", "GB free"):
        assert expected in done.stdout
    assert "Traceback" not in done.stderr


def test_the_lab_is_started_on_copied_lessons_at_the_tour(monkeypatch, tmp_path):
    pytest.importorskip("jupyterlab")
    started = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, env: started.append((command, env["HOME"])) or 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(typer.Exit) as ended:
        cli.lab(tmp_path / "mine")
    assert ended.value.exit_code == 0
    ((arguments, home),) = started
    assert home == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    with pytest.raises(typer.Exit):
        cli.lab(tmp_path / "mine")
    assert started[1][1] == str(tmp_path / "mine")  # else Jupyter ends with a traceback
    assert arguments[1:3] == ["-m", "jupyterlab"] and f"--ServerApp.root_dir={tmp_path / 'mine'}" in arguments
    (address,) = [part for part in arguments if "default_url" in part]
    assert (tmp_path / "mine" / address.rsplit("/", 1)[1]).is_file() and "00_tour" in address


def test_lessons_are_copied_once_and_a_learners_changes_stay(tmp_path):
    assert cli.copy_lessons(tmp_path) == []
    lesson, exercise = tmp_path / "03_merging.ipynb", tmp_path / "exercises" / "03_merging.ipynb"
    fresh = (ROOT / "notebooks" / "03_merging.ipynb").read_text("utf-8")
    assert lesson.read_text("utf-8") == fresh and exercise.is_file() and not list(tmp_path.rglob("*.py"))
    lesson.write_text("mine")
    exercise.unlink()
    (tmp_path / "notes.txt").write_text("mine, too")
    assert cli.copy_lessons(tmp_path) == []
    assert lesson.read_text() == "mine" and exercise.is_file() and (tmp_path / "notes.txt").is_file()


def test_a_lesson_is_given_back_and_what_was_there_is_kept(tmp_path):
    cli.copy_lessons(tmp_path)
    lesson, other = tmp_path / "03_merging.ipynb", tmp_path / "01_routing.ipynb"
    fresh = lesson.read_text("utf-8")
    other.write_text("mine")
    for text in ("first", "second"):
        lesson.write_text(text)
        (told,) = cli.copy_lessons(tmp_path, ["03"])
        assert "03_merging-mine-" in told and lesson.read_text("utf-8") == fresh
    assert [(tmp_path / f"03_merging-mine-{n}.ipynb").read_text() for n in (1, 2)] == ["first", "second"]
    assert other.read_text() == "mine"
    with pytest.raises(LabError, match=r"--reset 9: expected the beginning of a lesson's name"):
        cli.copy_lessons(tmp_path, ["9"])


def test_lessons_of_another_version_are_named_and_stay(tmp_path, monkeypatch):
    cli.copy_lessons(tmp_path)
    (tmp_path / "00_tour.ipynb").write_text("mine")
    monkeypatch.setattr(cli, "__version__", "99.0")
    (told,) = cli.copy_lessons(tmp_path)
    assert "another version than 99.0" in told and "00_tour.ipynb" in told
    assert (tmp_path / "00_tour.ipynb").read_text() == "mine"
    _, told = cli.copy_lessons(tmp_path, ["00"])
    assert "as they are: 01_routing.ipynb" in told


def test_a_missing_extra_is_named_by_the_command_that_needs_it(monkeypatch, tmp_path):
    find = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else find(name))
    done = CliRunner().invoke(cli.app, ["lab", str(tmp_path / "lessons")])
    assert done.exit_code == 2 and not (tmp_path / "lessons").exists()
    assert done.stderr == "adamix-lab: jupyterlab is not installed (the lessons): pip install 'adamix-lab[learn]'.\n"
    parquet.write_table(pyarrow.table({"run": ["a"]}), tmp_path / "results.parquet")
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "pandas", None)  # import raises ModuleNotFoundError
        done = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert done.exit_code == 2 and "pip install 'adamix-lab[" in done.stderr


# -- options -----------------------------------------------------------------------------------------------------


def walk(command, name=""):
    """(name, options) of every command below one, in `--help`'s order."""
    for word, part in getattr(command, "commands", {}).items():
        yield from walk(part, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, [part for part in command.get_params(typer.Context(command)) if part.param_type_name == "option"]


COMMANDS = dict(walk(typer.main.get_command(cli.app)))


def test_an_option_means_the_same_in_every_command():
    meanings = {}
    for options in COMMANDS.values():
        for option in options:
            meanings.setdefault(option.opts[0], set()).add(option.help)
    assert all(all(said) for said in meanings.values())
    differ = {name for name, said in meanings.items() if len(said) > 1}
    assert differ == {"--batch-size"}  # rows an optimiser step; landscape takes none, there it is rows a pass


def recipe_of(monkeypatch, *arguments):
    """(recipe, further settings, seeds) that `adamix-lab train` arrives at."""
    seen = []
    monkeypatch.setattr("adamix_lab.experiments.seeds.train_seeds", lambda *given, **more: seen.append((given, more)))
    done = CliRunner().invoke(cli.app, ["train", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    ((_, _, _, recipe, _), more) = seen[0]
    return recipe, more


@pytest.mark.parametrize("name", ["train", "train-generator"])
def test_training_takes_every_field_of_a_recipe(name):
    offered = {option.opts[0]: option.help for option in COMMANDS[name]}
    for field in fields(Recipe):
        option = "--full-lr" if (name, field.name) == ("train-generator", "head_lr") else f"--{field.name}"
        assert option.replace("_", "-") in offered
    assert offered["--clip"] == "Largest norm of all gradients together; 0 clips nothing."


def test_fields_of_a_recipe_arrive_with_their_types(monkeypatch):
    given = "--lr 0.005 --warmup 0.1 --bucket 1 --epochs 2 --consistency 3 --consistency-kind mse --off-route freeze"
    recipe, more = recipe_of(monkeypatch, *given.split(), "--cache-prefix", "--seed", 3, "--seeds", 2)
    begun = Recipe(epochs=2.0, lr=0.005, warmup=0.1, bucket=1, off_route="freeze", cache_prefix=True)
    assert recipe == replace(begun, consistency=Consistency(3.0, "mse", "shared_prefix"))
    assert more == {
        "experts": 4,
        "share": None,
        "blocks": None,
        "seeds": range(3, 5),
        "method": "adamix",
        "pooling": None,  # the backbone's own
    }


def test_without_a_preset_training_begins_from_settings_of_its_own(monkeypatch):
    recipe, more = recipe_of(monkeypatch, "--top-blocks", 2)
    agree = Consistency(1.0, views="shared_prefix")
    assert recipe == Recipe(steps=300, lr=3e-3, consistency=agree, cache_prefix=True)
    assert more == {
        "experts": 4,
        "share": None,
        "blocks": (-2, -1),
        "seeds": range(1),
        "method": "adamix",
        "pooling": None,  # the backbone's own
    }


def test_averages_smoothing_and_rates_by_side_are_options(monkeypatch):
    given = "--swa 0.5 --label-smoothing 0.1 --side-rates down=0.25,up=1 --opponent slow"
    recipe, more = recipe_of(monkeypatch, *given.split())
    assert (recipe.swa, recipe.ema, recipe.label_smoothing) == (0.5, None, 0.1)
    assert recipe.side_rates == {"down": 0.25, "up": 1.0} and more["method"] == "slow"


def test_beside_a_preset_only_what_is_given_counts(monkeypatch):
    recipe, more = recipe_of(monkeypatch, "--preset", "laptop-minilm-sst2", "--task", "aspects", "--patience", 3)
    chosen = preset("laptop-minilm-sst2")
    assert recipe == chosen.recipe.with_options(patience=3) and more["experts"] == chosen.experts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bukcet", "1"], ["No such option", "--bucket"]),
        (["--lr", "fast"], ["Invalid value for '--lr'", "number"]),
        (["--patience", "2.5"], ["Invalid value for '--patience'", "integer"]),
        (["--head-lr", "-1"], ["--head-lr = -1.0: expected a number of at least 0."]),
        (["--consistency", "nan"], ["--consistency = nan: expected a number of at least 0."]),
        (["--precision", "bf61"], ["precision 'bf61' is not known", "Did you mean 'bf16'"]),
        (["--side-rates", "down"], ["--side-rates = 'down': expected a number for each name, as in down=0.25,up=1."]),
        (["--side-rates", "left=0.5", "--steps", "1"], ["Side of bottleneck in side_rates 'left'", "down, up"]),
        (["--swa", "0"], ["swa = 0.0: expected a share", "window of no steps"]),
        (["--swa", "0.1", "--steps", "3"], ["swa = 0.1 of 3 steps is a window of no steps"]),
        (["--opponent", "full"], ["opponent 'full' is not known", "slow-swa"]),
        (["--steps", "3", "--epochs", "1"], ["--steps = 3 and --epochs = 1.0: expected one of them"]),
    ],
)
def test_mistakes_in_a_recipe_name_value_and_expectation(arguments, said):
    done = CliRunner().invoke(cli.app, ["train", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and all(words in done.stderr for words in said), done.stderr


# -- the boundary ------------------------------------------------------------------------------------------------


def failing(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("adamix_lab.training.doctor.class_line", fail)
    return CliRunner().invoke(cli.app, ["doctor", "--class"])


MISTAKES = LabError("size = 0: expected 1."), OSError("no such file"), ImportError("no peft"), FloatingPointError("nan")


@pytest.mark.parametrize("error", MISTAKES)
def test_a_mistake_ends_in_one_line_and_shows_its_traceback_where_that_is_asked_for(monkeypatch, error):
    monkeypatch.delenv("ADAMIX_LAB_DEBUG", raising=False)
    done = failing(monkeypatch, error)
    assert done.exit_code == 2 and done.stderr == f"adamix-lab: {error}\n"
    monkeypatch.setenv("ADAMIX_LAB_DEBUG", "1")
    assert failing(monkeypatch, error).exception is error


@pytest.mark.parametrize("bug", [ZeroDivisionError("division by zero"), ValueError("of a\nlibrary"), RecursionError()])
def test_a_bug_says_that_it_is_one_and_how_to_see_its_traceback(monkeypatch, bug):
    monkeypatch.delenv("ADAMIX_LAB_DEBUG", raising=False)
    done = failing(monkeypatch, bug)
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1
    assert type(bug).__name__ in done.stderr and "This is a bug: please report it; ADAMIX_LAB_DEBUG=1" in done.stderr
    monkeypatch.setenv("ADAMIX_LAB_DEBUG", "1")
    assert failing(monkeypatch, bug).exception is bug


def test_ctrl_c_promises_to_go_on_only_where_a_command_does(monkeypatch):
    done = failing(monkeypatch, KeyboardInterrupt())
    assert done.exit_code == 130 and done.stderr == "adamix-lab: stopped.\n"


def test_arguments_go_by_the_names_of_their_options():
    command = typer.main.get_command(cli.app).commands["train"]
    options = command.get_params(typer.Context(command))
    said = 'head_lr = -1: expected more. Say which with text="column"; lr is a rate, r.lr = 3.'
    assert as_options(said, options) == (
        "--head-lr = -1: expected more. Say which with --text column; lr is a rate, r.lr = 3."
    )


# -- command lines with a mistake --------------------------------------------------------------------------------


@pytest.fixture
def bad_files(tmp_path, monkeypatch):
    bad_command_lines.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADAMIX_LAB_DEBUG", raising=False)
    return tmp_path


def test_every_mistake_ends_in_one_line_and_exit_code_two(bad_files):
    assert len(bad_command_lines.LINES) >= 147
    for line in bad_command_lines.LINES:
        code, said = bad_command_lines.said(line)
        assert code == 2 and said.startswith("adamix-lab: ") and len(said.splitlines()) == 1, (line, said)
        assert "This is a bug" not in said and len(said) > 30, (line, said)
        assert not (bad_files / "runs").exists(), (line, said)


def test_mistakes_are_refused_before_torch_is_imported(bad_files):
    script = [sys.executable, str(ROOT / "tests" / "bad_command_lines.py"), "--without-torch"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=bad_files, check=True)
    assert done.stdout.strip() == "", done.stdout


def test_a_refusal_costs_little_more_than_the_version(bad_files):
    resource = pytest.importorskip("resource")

    def cost(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command(*arguments, folder=bad_files)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    version = min(cost("--version") for _ in range(2))
    for line in (
        "train --lr -1",
        "train --task aspcts",
        "train --preset nope",
        "evaluate nowhere",
        "landscape --points 0",
        "landscape adamx",
        "ablate twice.yaml",
        "baselines --method lroa",
        "few-shot --task task.csv --method full",
        "evaluate broken",
        "predict --strategy mergd broken text",
        "report cut",
    ):
        assert min(cost(*line.split()) for _ in range(2)) < version + 1, line


WORDS = "0 -1 nan inf 1e400 x loop empty broken deep old far cut task.csv cut.parquet bomb.yaml deep.jsonl ü".split()
WORDS += ["", " ", "\udcff"]
BUSY = ("lab", "tour", "doctor", "classroom bundle")  # take nothing, or do what they do whatever is given


def test_random_folders_and_arguments_never_end_in_a_traceback(bad_files, monkeypatch):
    monkeypatch.setenv("ADAMIX_LAB_MINILM", str(bad_files / "empty"))  # no line gets as far as a model
    monkeypatch.setattr("adamix_lab.experiments.ablation.ablate", lambda *_: (None, 0))
    rng = random.Random(0)
    names = [name for name in COMMANDS if not name.startswith(BUSY)]
    for n in range(8 * len(names)):
        name = names[n % len(names)]
        options = [option for option in COMMANDS[name] if option.opts[0] not in ("--help", "--model", "--cluster")]
        line = [*name.split(), *rng.choices(WORDS, k=rng.randint(1, 2))]
        for option in rng.sample(options, min(len(options), rng.randint(1, 3))):
            line += [option.opts[0]] if option.is_flag else [option.opts[0], rng.choice(WORDS)]
        code, said = bad_command_lines.said(line)
        assert code in (0, 2) and "Traceback" not in said and "This is a bug" not in said, (line, said)


def test_every_mistake_is_raised_as_one():
    raised = {path for path in (ROOT / "adamix_lab").rglob("*.py") if "raise ValueError" in path.read_text("utf-8")}
    assert not raised  # LabError, a ValueError, is what the boundary takes for a mistake in what was given


def test_ctrl_c_says_that_the_command_goes_on(trained):
    started = [sys.executable, "-m", "adamix_lab", *"train --task task.csv --steps 100000 --top-blocks 1".split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in a shell's background inherit that Ctrl-C is ignored; a command that a person types does not.
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([*started, "--out", "stopped"], cwd=trained[0], env=environment, **pipes)
    try:
        process.stdout.readline()  # the task is read, training begins
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "adamix-lab: stopped. The same command goes on where it was."
    assert "Traceback" not in said


def test_the_commands_start_without_torch():
    heavy = "print([name for name in ('torch', 'numpy', 'pandas', 'transformers', 'yaml') if name in sys.modules])"
    code = f"import sys; import adamix_lab.cli.main; {heavy}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
