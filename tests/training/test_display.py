"""What results, tasks and mixtures look like: text, HTML, frames, pictures, a live curve; and a run that is stopped."""

import sys
from types import SimpleNamespace

import matplotlib
import pytest
import tiny
import tiny_task
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import adamix_lab
from adamix_lab.core.errors import LabError
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.metrics import html_table, wilson
from adamix_lab.tasks.tasks import Task, licence_of
from adamix_lab.training import display
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report, structure
from adamix_lab.training.run import History
from adamix_lab.training.train import train

matplotlib.use("agg")
TEXT, ROWS = ("sentence",), [{"sentence": f"<b>{n}</b> & more", "label": n % 2} for n in range(40)]


@pytest.fixture
def results():
    mixture = tiny.shake(tiny_task.mixture(blocks=(-1,)))
    return evaluate(mixture, tiny_task.task(), tiny_task.tokenizer(), ["merged", "random", "ensemble"])


@pytest.fixture
def history():
    recipe = Recipe(steps=6, batch_size=4, log_every=2, dev_fraction=0.25, evaluate_every=3)
    return train(tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer(), recipe, progress=False)


def test_evaluations_are_a_list_with_a_frame_and_a_table(results):
    assert isinstance(results, list) and [result.strategy for result in results] == ["merged", "random", "ensemble"]
    frame = results.to_frame()
    assert list(frame.index) == ["merged", "random", "ensemble"]
    assert frame.loc["merged", "accuracy"] == results[0].accuracy
    assert tuple(frame.loc["random", ["low", "high"]]) == wilson(results[1].accuracy, len(results[1].labels))
    first, *lines = repr(results).splitlines()
    assert first.split() == ["strategy", "accuracy", "loss", "passes"] and len(lines) == 3
    assert f"{100 * results[0].accuracy:.1f} % (" in lines[0] and "tensor" not in repr(results)
    html = results._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 4 and "ensemble" in html
    assert repr(type(results)()) == "[]"


def test_accuracies_are_drawn_on_the_axes_that_are_given(results):
    axes = Figure().subplots()
    assert results.plot(ax=axes) is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["merged", "random", "ensemble"]
    marked = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert marked == [100 * result.accuracy for result in results]
    with matplotlib.rc_context({"axes.facecolor": "#123456"}):
        assert to_hex(results.plot().get_facecolor()) == "#123456"
    pyplot.close("all")


def test_numbers_have_no_accuracy_to_draw(results):
    number = type(results)([results[0].__class__("merged", float("nan"), 0.5, 1, torch.ones(3, 1), torch.ones(3),
                                                 {"pearson": 0.25}, "numbers")])  # fmt: skip
    assert "pearson" in repr(number) and "accuracy" not in repr(number)
    with pytest.raises(LabError, match="task of classes"):
        number.plot()


def test_a_history_shows_what_the_run_came_to(history):
    frame = history.to_frame()
    assert list(frame.index) == [1, 2, 3, 4, 6]
    assert frame["task"].dropna().tolist() == [row["task"] for row in history.rows if "loss" in row]
    assert frame["agreement"].dropna().between(0, 1).all() and "agreement" in repr(history)
    assert frame.loc[3, "dev loss"] == history.looks[0]["dev"]["loss"]
    assert repr(history).splitlines()[0].split()[:2] == ["steps", "seconds"] and "kept" in repr(history)
    assert ">6</td>" in history._repr_html_()
    axes = history.plot(Figure().subplots())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["task loss", "consistency", "dev loss"]
    assert "steps" in repr(History()) and History().to_frame().empty


def test_a_task_shows_ten_rows_whatever_its_size():
    task = Task("mine", ROWS, ROWS[:4], TEXT, classes=("no", "<yes>"))
    assert repr(task) == ("Task 'mine': 40 rows to train on, 4 to be judged on; sentence to label, classes (no, <yes>)")
    html = task._repr_html_()
    assert html.count("<tr>") == 11 and "<b>" not in html and "&lt;b&gt;0&lt;/b&gt; &amp; more" in html
    assert "&lt;yes&gt;" in html and "Licence" not in html
    assert len(repr(load_task("aspects"))) < 200
    many = Task("many", ROWS, ROWS, TEXT, classes=tuple(f"class {n}" for n in range(300)))
    assert len(repr(many)) < 300
    assert "Task 'none'" in Task("none", [], [], TEXT)._repr_html_()


def test_embedded_tasks_say_their_licence():
    assert licence_of("aspects") == "Apache-2.0" and licence_of("reviews") == "Creative Commons Attribution 4.0"
    assert licence_of("../data/aspects") == licence_of("") == licence_of("nowhere") == ""
    assert "Licence: Creative Commons Attribution 4.0." in load_task("subjectivity")._repr_html_()


def test_a_cell_that_a_row_lacks_is_blank():
    assert "'></td>" in html_table([{"a": "1"}, {"b": "2"}])


def test_a_mixture_and_its_counts_are_shown_as_trees_and_sentences():
    mixture = tiny_task.mixture()
    assert adamix_lab.MixtureModel is type(mixture) and repr(mixture) == structure(mixture)
    assert mixture._repr_html_().startswith("<pre>MixtureModel")
    assert repr(parameter_report(mixture)) == str(parameter_report(mixture))


def test_in_a_notebook_the_curves_grow_under_the_bar(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=shown.append)
    monkeypatch.setattr(display, "PAUSE", 0.0)
    monkeypatch.setattr(display, "_draws_in_a_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda picture, display_id: shown.append(picture) or handle)
    recipe = Recipe(steps=8, batch_size=4, log_every=1, dev_fraction=0.0)
    train(tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer(), recipe)
    assert shown and shown[0].data.startswith(b"\x89PNG") and "steps 8" in shown[-1].alt
    count = len(shown)
    train(tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer(), recipe, progress=False)
    assert len(shown) == count


def test_outside_a_notebook_nothing_is_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not display._draws_in_a_notebook()
    assert list(display.watch(0, 3, History(), True)) == [0, 1, 2]


def test_a_run_that_is_stopped_keeps_its_weights_and_says_so(tmp_path):
    mixture, task, tokenizer = tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer()
    start = {name: p.clone() for name, p in mixture.head_parameters()}

    def stop(step):
        if step == 3:
            raise KeyboardInterrupt

    recipe = Recipe(steps=6, batch_size=4, dev_fraction=0.0)
    with pytest.raises(KeyboardInterrupt, match=r"keeps the weights that it has now.*trains on from these"):
        train(mixture, task, tokenizer, recipe, progress=False, on_step=stop)
    assert not mixture.training and any(not torch.equal(start[name], p) for name, p in mixture.head_parameters())
    with pytest.raises(KeyboardInterrupt, match="goes on from the last checkpoint"):
        train(tiny_task.mixture(), task, tokenizer, recipe, tmp_path, progress=False, on_step=stop)
