"""Pictures: one colour and marker a method everywhere, and an alt text beside each figure.

Functions draw on Axes and return; nothing here shows or closes a figure but `save_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that keep a contrast of 3:1 on white; each goes with a marker of its own.
STYLES: dict[str, tuple[str, str]] = {
    "merged": ("#0072B2", "o"),
    "fixed": ("#009E73", "s"),
    "random": ("#D55E00", "^"),
    "ensemble": ("#AA4499", "D"),
    "single": ("#444444", "v"),
    "probe": ("#777777", "X"),
    "apart": ("#B22222", "P"),
    "exact": ("#000000", "*"),
    "dropout": ("#8B6508", "h"),
}


@dataclass(frozen=True)
class Bar:
    """One line of a comparison: a label, an accuracy with its interval, and the method whose style it takes."""

    label: str
    accuracy: float
    low: float
    high: float
    style: str


def compare(bars: Sequence[Bar], ax: Axes) -> str:
    """Accuracies with 95 % intervals, one a row, best read from the left. Returns the alt text."""
    for n, bar in enumerate(reversed(bars)):
        colour, marker = STYLES[bar.style]
        ax.plot([100 * bar.low, 100 * bar.high], [n, n], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round")
        ax.plot(100 * bar.accuracy, n, color=colour, marker=marker, markersize=9)
        ax.annotate(
            f"{100 * bar.accuracy:.1f}",
            (100 * bar.accuracy, n),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    ax.set_ylim(-0.6, len(bars) - 0.2)
    ax.set_xlabel("accuracy on the evaluation rows (%), with 95 % intervals")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    listed = "; ".join(
        f"{bar.label} {100 * bar.accuracy:.1f} % ({100 * bar.low:.1f} to {100 * bar.high:.1f})" for bar in bars
    )
    return f"Accuracy with 95 % intervals, a line a model. {listed}."


def new_figure(width: float = 8.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure that belongs to no window and needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save_figure(figure: Figure, path: Path, alt: str) -> Path:
    """Writes the picture (PNG) and, beside it, its alt text (.txt)."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    write_text(path.with_suffix(".txt"), alt + "\n")
    return path


class Picture:
    """A figure with an alt text that JupyterLab and exported pages read out: HTML `<img alt>`, PNG and plain text."""

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure = figure
        self.alt = alt

    def html(self) -> str:
        """The picture as `<img alt=...>` with its data inside."""
        return self._tag(self._encoded())

    def _tag(self, data: str) -> str:
        import html

        return f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}"/>'

    def _encoded(self) -> str:
        import base64
        import io

        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        # `savefig` would draw twice, once to lay out; a learner waits for this
        self.figure.set_dpi(100)
        canvas, buffer = FigureCanvasAgg(self.figure), io.BytesIO()
        canvas.draw()
        Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).save(buffer, format="png")
        return base64.b64encode(buffer.getvalue()).decode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._encoded(), {"image/png": {"alt": self.alt}}
        return {"text/html": self._tag(data), "image/png": data, "text/plain": self.alt}, metadata
