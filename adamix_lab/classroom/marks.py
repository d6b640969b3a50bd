"""What comes out of grading: a table by check, a file that the platform imports, a page a person."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.classroom.course import api, done
from adamix_lab.classroom.grading import Marked, read_graded
from adamix_lab.core.files import require_file, write_text


def write_marks(marked: Sequence[Marked], assignment: str, folder: Path) -> list[Path]:
    """Writes the files and returns them: the table, and an import file for each platform that people came from."""
    written = [folder / f"{assignment}.csv"]
    write_text(written[0], table(marked))
    for platform, make in (("moodle", moodle), ("canvas", canvas)):
        of_it = [m for m in marked if m.platform == platform]
        if of_it:
            written.append(folder / f"{assignment}-{platform}.csv")
            write_text(written[-1], make(of_it, assignment))
    return written


def table(marked: Sequence[Marked]) -> str:
    """CSV: a row a person, a column a check, remarks last."""
    checks = list(marked[0].maximum)
    head = ["person", "name", "points", "of", "late", *checks, "remarks"]
    rows = []
    for m in marked:
        about = [m.person, m.name, f"{m.total:g}", f"{m.best:g}", "late" if m.late else ""]
        rows.append([*about, *(f"{m.points[check]:g}" for check in checks), " ".join(m.remarks)])
    return _csv([head, *rows])


def moodle(marked: Sequence[Marked], assignment: str) -> str:
    """CSV as Moodle's offline grading worksheet has it: people by their number, grade, feedback comments."""
    head = ["Identifier", "Full name", "Grade", "Maximum Grade", "Feedback comments"]
    rows = [[f"Participant {m.number}", m.name, f"{m.total:g}", f"{m.best:g}", " ".join(m.remarks)] for m in marked]
    return _csv([head, *rows])


def canvas(marked: Sequence[Marked], assignment: str) -> str:
    """CSV as Canvas's gradebook imports it: people by their ID, a column named after the assignment."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment]
    best = ["    Points Possible", "", "", "", "", f"{marked[0].best:g}"]
    rows = [[m.name, m.number, "", "", "", f"{m.total:g}"] for m in marked]
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


# -- a page a person: nbgrader's feedback, and above it, in words, what happened when the notebook ran ----------------


HARMLESS = (
    "br caption dd del details div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr img p pre s small span sub summary sup "
    "table tbody td tfoot th thead tr u"
)
POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; font-src data:; \
style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'">"""


def feedback(assignment: str, course: Path, out: Path | None = None) -> list[Path]:
    """Writes `NAME/ASSIGNMENT.html` below `out` (default: COURSE/feedback/pages) for everyone graded; the files.

    On Moodle, NAME is the folder's name in its download, so that the zipped folder can be given back there.
    Raises FileNotFoundError where nothing has been graded.
    """
    course = course.resolve()
    graded = course / "marks" / f"{assignment}.json"
    require_file(graded, f"marks of {assignment}. Run `adamix-lab classroom grade` first.")
    from traitlets.config import Config

    people, settings = read_graded(graded), Config()
    settings.HTMLExporter.sanitize_html = True
    # nbgrader's own template cleans no Markdown, but sends it through the second of these
    settings.HTMLExporter.filters = {"clean_html": clean_html, "strip_files_prefix": clean_html}
    maker, pages = api(course, settings), []
    for person, entry in people.items():
        done(maker.generate_feedback(assignment, person, force=True), f"Feedback for {entry['name']}")
        text = (course / "feedback" / person / assignment / f"{assignment}.html").read_text("utf-8")
        folder = entry["file"].split("/")[0] if entry["platform"] == "moodle" and "/" in entry["file"] else person
        page = (out or course / "feedback" / "pages") / folder / f"{assignment}.html"
        write_text(page, with_remarks(without_scripts(text), entry["remarks"]))
        pages.append(page)
    return pages


def clean_html(text: Any) -> str:
    """What a submission wrote or showed, without what runs, frames, forms and addresses that a page would load."""
    import bleach  # comes with nbconvert

    text = text.decode() if isinstance(text, bytes) else str(text)
    tags = {*bleach.ALLOWED_TAGS, *HARMLESS.split()}

    def kept(tag: str, name: str, value: str) -> bool:
        data = value.strip().lower().startswith("data:")
        return name in ("class", "id", "alt") or (name == "src" and data) or (name == "href" and not data)

    return str(bleach.clean(text, tags, kept, {"http", "https", "mailto", "data"}, strip=True))


def without_scripts(page: str) -> str:
    """The page without nbconvert's scripts and style sheets from elsewhere, and with a policy that forbids any."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.S | re.I)
    page = re.sub(r"<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>", "", page, flags=re.I)
    return page.replace("<head>", f"<head>{POLICY}", 1)


def with_remarks(page: str, remarks: Sequence[str]) -> str:
    """The page with a list of remarks at the top of its body."""
    if not remarks:
        return page
    items = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
    box = (
        '<section style="border:2px solid #D55E00;padding:0 1em;margin:1em;background:#fff;color:#222">'
        f"<h2>What happened when your notebook was graded</h2><ul>{items}</ul></section>"
    )
    at = page.index(">", page.index("<body")) + 1
    return page[:at] + box + page[at:]
