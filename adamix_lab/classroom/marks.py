"""What comes out of grading: a table by check, a file that the platform imports, a histogram with alt text."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adamix_lab.analysis.plots import new_figure, save_figure
from adamix_lab.classroom.submissions import Submission
from adamix_lab.core.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Marked:
    """One person's result.

    Attributes:
        submission: that counts.
        points: by check.
        maximum: of each check.
        remarks: what happened, in words.
        seconds: that grading took; 0 where nothing had changed since the last time.
    """

    submission: Submission
    points: dict[str, float]
    maximum: dict[str, float]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def total(self) -> float:
        """Points in all."""
        return sum(self.points.values())

    @property
    def best(self) -> float:
        """Points to be had."""
        return sum(self.maximum.values())


def write_marks(marked: Sequence[Marked], assignment: str, folder: Path) -> list[Path]:
    """Writes the files and returns them: the table, one import file a platform that people came from, the picture."""
    written = [folder / f"{assignment}.csv"]
    write_text(written[0], table(marked))
    for platform, make in (("moodle", moodle), ("canvas", canvas)):
        of_it = [m for m in marked if m.submission.platform == platform]
        if of_it:
            written.append(folder / f"{assignment}-{platform}.csv")
            write_text(written[-1], make(of_it, assignment))
    figure, ax = new_figure(7, 3.6)
    alt = histogram([m.total for m in marked], marked[0].best, ax)
    written.append(save_figure(figure, folder / f"{assignment}.png", alt))
    return written


def table(marked: Sequence[Marked]) -> str:
    """CSV: a row a person, a column a check, remarks last."""
    checks = list(marked[0].maximum)
    head = ["person", "name", "points", "of", "late", *checks, "remarks"]
    rows = []
    for m in marked:
        late = "late" if m.submission.late else ""
        about = [m.submission.person, m.submission.name, f"{m.total:g}", f"{m.best:g}", late]
        rows.append([*about, *(f"{m.points[check]:g}" for check in checks), " ".join(m.remarks)])
    return _csv([head, *rows])


def moodle(marked: Sequence[Marked], assignment: str) -> str:
    """CSV as Moodle's offline grading worksheet has it: people by their number, grade, feedback comments."""
    head = ["Identifier", "Full name", "Grade", "Maximum Grade", "Feedback comments"]
    people = [(m, m.submission) for m in marked]
    rows = [[f"Participant {s.number}", s.name, f"{m.total:g}", f"{m.best:g}", " ".join(m.remarks)] for m, s in people]
    return _csv([head, *rows])


def canvas(marked: Sequence[Marked], assignment: str) -> str:
    """CSV as Canvas's gradebook imports it: people by their ID, a column named after the assignment."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment]
    best = ["    Points Possible", "", "", "", "", f"{marked[0].best:g}"]
    rows = [[m.submission.name, m.submission.number, "", "", "", f"{m.total:g}"] for m in marked]
    return _csv([head, best, *rows])


FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their wide forms


def _csv(rows: Iterable[Sequence[str]]) -> str:
    """Text that a spreadsheet could take for a formula gets an apostrophe; platforms know people by their numbers."""
    text = io.StringIO()
    writer = csv.writer(text)  # a line ends in CR LF: either of them in a name is quoted
    for row in rows:
        risky = [cell.lstrip().startswith(FORMULA) or cell[:1] in ("\t", "\r", "\n") for cell in row]
        writer.writerow(["'" + cell if risk else cell for cell, risk in zip(row, risky, strict=True)])
    return text.getvalue()


def histogram(totals: Sequence[float], best: float, ax: Axes) -> str:
    """How many people have how many points. Returns the alt text."""
    from matplotlib.ticker import MaxNLocator

    counts = Counter(min(int(total), int(best)) for total in totals)
    places = range(int(best) + 1)
    bars = ax.bar(places, [counts[n] for n in places], color="#0072B2", edgecolor="black", linewidth=0.6)
    ax.bar_label(bars, labels=[str(counts[n]) if counts[n] else "" for n in places], fontsize=8)
    middle = statistics.median(totals)
    ax.axvline(middle, color="#D55E00", linestyle="--", label=f"median {middle:g}")
    ax.set_xlabel(f"points (of {best:g})")
    ax.set_ylabel("people")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left")
    listed = ", ".join(f"{counts[n]} with {n}" for n in places if counts[n])
    return f"Histogram of {len(totals)} people's points, of {best:g} to be had: {listed}. The median is {middle:g}."
