"""What results look like: short text anywhere, tables and pictures in a notebook, a curve while training runs.

Pictures are drawn by matplotlib on the axes that are given, or on new ones of pyplot: its style and rcParams hold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adamix_lab.core.errors import LabError
from adamix_lab.tasks.metrics import html_table, text_table, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from adamix_lab.training.evaluation import Evaluation
    from adamix_lab.training.run import History

PAUSE = 2.0  # seconds between two drawings of a live curve; drawing takes a twentieth of the time at most
CURVES = {"task": "task loss", "consistency": "consistency", "agreement": "agreement"}  # columns of a log, in words


class Evaluations(list["Evaluation"]):
    """What `evaluate` answers, one `Evaluation` a strategy: a list that shows itself as a table.

    Intervals are Wilson's 95 % intervals of an accuracy over the rows judged on; other metrics have none here.
    """

    def to_frame(self) -> DataFrame:
        """A pandas frame, one row a strategy; `low` and `high` bound the accuracy of classes."""
        from pandas import DataFrame

        return DataFrame(map(with_interval, self)).set_index("strategy")

    def __repr__(self) -> str:
        return text_table([in_words(with_interval(result)) for result in self]) if self else "[]"

    def _repr_html_(self) -> str:
        return html_table([in_words(with_interval(result)) for result in self])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracies with their intervals, one line a strategy. Raises ValueError where there are no classes."""
        if not self or any(result.kind != "classes" for result in self):
            raise LabError("Only accuracies of classes are drawn here: expected a task of classes. Use to_frame().")
        ax, rows = _axes(ax), list(map(with_interval, self))
        for place, row in enumerate(rows):
            ax.plot([100 * row["low"], 100 * row["high"]], [place, place], color=f"C{place}")
            ax.plot(100 * row["accuracy"], place, "o", color=f"C{place}")
        ax.set_yticks(range(len(rows)), [row["strategy"] for row in rows])
        ax.invert_yaxis()
        ax.set_xlabel(f"accuracy on {len(self[0].labels):,} rows (%), with 95 % intervals")
        return ax


def with_interval(result: Evaluation) -> dict[str, Any]:
    """An evaluation's figures; of classes with the interval of the accuracy, `low` and `high`."""
    if result.kind != "classes":
        return result.row()
    low, high = wilson(result.accuracy, len(result.labels))
    return result.row() | {"low": low, "high": high}


def in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's cells as text: 0.912 with its bounds as "91.2 % (89.3 to 92.8)", other floats in four digits."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
    if all(isinstance(row.get(name), int | float) for name in ("accuracy", "low", "high")):
        shown["accuracy"] = f"{100 * row['accuracy']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        del shown["low"], shown["high"]
    return shown


# -- a training run ------------------------------------------------------------------------------------------


def history_frame(history: History) -> DataFrame:
    """The log as a pandas frame, by step: what was logged of a step, and `dev ...` of the looks between."""
    from pandas import DataFrame, json_normalize

    return json_normalize(history.rows, sep=" ").groupby("step").first() if history.rows else DataFrame()


def describe_history(history: History) -> dict[str, str]:
    """What a run came to, in words by name."""
    logged = [row for row in history.rows if "loss" in row]
    found = {"steps": f"{history.steps:,}", "seconds": f"{history.seconds:.1f}"}
    for name, words in CURVES.items():
        if logged and name in logged[0]:
            found[words] = f"{logged[0][name]:.4g} to {logged[-1][name]:.4g}"
    if history.best is not None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in history.best["dev"].items())
        found["kept"] = f"step {history.best['step']:,}: dev {scores}"
    if history.stopped_early:
        found["stopped"] = "early"
    return found


def history_text(history: History) -> str:
    """What a run came to, as a table in text."""
    return text_table([describe_history(history)])


def history_html(history: History) -> str:
    """The same for a notebook."""
    return html_table([describe_history(history)])


def plot_history(history: History, ax: Axes | None = None) -> Axes:
    """The curves of task loss and consistency, and the dev slice's loss where there is one, over the steps."""
    ax = _axes(ax)
    logged = [row for row in history.rows if "loss" in row]
    for name in ("task", "consistency"):
        ax.plot([row["step"] for row in logged], [row[name] for row in logged], label=CURVES[name])
    if history.looks:
        ax.plot([row["step"] for row in history.looks], [row["dev"]["loss"] for row in history.looks], label="dev loss")
    ax.set_xlabel("step")
    ax.set_ylabel("nats")
    ax.legend()
    return ax


def watch(first: int, total: int, history: History, shown: bool) -> Iterator[int]:
    """The steps that are left, under a bar; in a notebook the curves so far, redrawn every other second at most."""
    from tqdm.auto import tqdm

    steps = tqdm(range(first, total), initial=first, total=total, disable=None if shown else True)
    if not shown or not _draws_in_a_notebook():
        yield from steps
        return
    from IPython.display import display

    handle, due = None, time.monotonic() + PAUSE
    for step in steps:
        yield step
        began = time.monotonic()
        if began >= due and len(history.losses) > 1:
            picture = _picture(history)
            if handle is None:
                handle = display(picture, display_id=True)
            else:
                handle.update(picture)
            due = time.monotonic() + max(PAUSE, 20 * (time.monotonic() - began))
    if handle is not None:
        handle.update(_picture(history))


def _draws_in_a_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None and find_spec("matplotlib") is not None


def _picture(history: History) -> Any:
    # a figure of no window: pyplot's would be shown once more at the end of the cell
    import io

    from IPython.display import Image
    from matplotlib.figure import Figure

    figure, buffer = Figure(figsize=(6, 2.5), layout="constrained"), io.BytesIO()
    plot_history(history, figure.subplots())
    figure.savefig(buffer, format="png", dpi=90)
    last = describe_history(history)
    alt = "Losses over the steps so far: " + ", ".join(f"{name} {value}" for name, value in last.items())
    return Image(data=buffer.getvalue(), alt=alt)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]
