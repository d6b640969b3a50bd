"""A page a person: nbgrader's feedback, and above it, in words, what happened when the notebook ran."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adamix_lab.classroom.course import api, done
from adamix_lab.classroom.grading import read_graded
from adamix_lab.core.files import write_text

HARMLESS = (
    "br caption dd del details div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr img p pre s small span sub summary sup "
    "table tbody td tfoot th thead tr u"
)
POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; font-src data:; \
style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'">"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1>
</body></html>
"""


def feedback(assignment: str, course: Path, out: Path | None = None) -> list[Path]:
    """Writes `NAME/ASSIGNMENT.html` below `out` (default: COURSE/feedback/pages) for everyone graded; the files.

    On Moodle, NAME is the folder's name in its download, so that the zipped folder can be given back there.
    Raises FileNotFoundError where nothing has been graded.
    """
    course = course.resolve()
    graded = course / "marks" / f"{assignment}.json"
    if not graded.is_file():
        raise FileNotFoundError(
            f"{graded} is not there: expected marks of {assignment}. Run `adamix-lab classroom grade` first."
        )
    from traitlets.config import Config

    people, settings = read_graded(graded), Config()
    settings.HTMLExporter.sanitize_html = True
    # nbgrader's own template cleans no Markdown, but sends it through the second of these
    settings.HTMLExporter.filters = {"clean_html": clean_html, "strip_files_prefix": clean_html}
    with_notebook = [p for p in people if (course / "autograded" / p / assignment).is_dir()]
    maker = api(course, settings) if with_notebook else None
    pages = []
    for person, entry in people.items():
        text = PAGE.format(title=html.escape(f"{assignment}: {entry['name']}"))
        if maker is not None and person in with_notebook:
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
