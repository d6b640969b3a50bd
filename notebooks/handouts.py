"""One printable page a lesson, made of the executed notebook, the instructors' sheets and the glossary.

Abilities, terms, the prediction to write down, the number to reach, the three questions without their answers, and
below a line to fold at, so that nobody predicts what they see, the main picture in grey. A page holds no script and
fits A4 and Letter: the picture takes the height that the text leaves.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TERMS = 4
ASKED = " (Run the cell to enter a prediction.)"
NO_NUMBER = "Copy it from the line above the lesson's widget:"

SITE = Path(__file__).resolve().parent / "site"
PAGE, STYLE = ((SITE / name).read_text(encoding="utf-8") for name in ("handout.html", "handout.css"))


@dataclass(frozen=True)
class Handout:
    """What stands on a page; texts are Markdown without links, the picture a PNG in base64 with its alt text."""

    title: str
    abilities: tuple[str, ...]
    terms: tuple[tuple[str, str], ...]
    prediction: str
    number: str
    questions: tuple[str, ...]
    picture: str
    alt: str

    def words(self) -> int:
        """Words to be read, the title included."""
        terms = " ".join(f"{term} {told}" for term, told in self.terms)
        text = " ".join([self.title, *self.abilities, terms, self.prediction, self.number, *self.questions])
        return len(re.findall(r"\w+", text))


def handout_of(cells: Sequence[Any], sheet: str, terms: Sequence[tuple[str, str]]) -> Handout:
    """The page of an executed lesson. Raises ValueError, with what is missing, for a notebook that is no lesson."""
    first = cells[0].source
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    abilities = _numbered(first.split("you will be able to")[-1].split("\n*")[0])
    asked = re.search(r"\*\*Three questions\.\*\*(.+?)<details>", texts, re.S)
    questions = _numbered(asked[1]) if asked else ()
    predictions = [n for n, cell in enumerate(cells) if ASKED.strip() in _plain(cell)]
    pictures = [_picture(cell) for cell in cells[predictions[0] + 1 :]] if predictions else []
    shown = next((found for found in pictures if found), None)
    title = re.search(r"^# (.+)$", first, re.M)
    if not title or len(abilities) != 3 or len(questions) != 3 or not shown:
        raise ValueError(
            f"{first[:40]!r} is no executed lesson: expected a title, three abilities, a prediction with a picture "
            "after it, and three questions. Build it with notebooks/build.py."
        )
    number = re.search(r"^- \*\*Number to reach\*\*: (.+?)(?=\n- |\n\n|\Z)", sheet, re.M | re.S)
    prediction = _plain(cells[predictions[0]]).split(ASKED)[0].strip()
    reach = _capital(" ".join(number[1].split())) if number else NO_NUMBER
    return Handout(title[1].strip(), abilities, tuple(terms), prediction, reach, questions, *shown)


def _numbered(text: str) -> tuple[str, ...]:
    parts = re.split(r"(?:^|\s)[123]\. ", " ".join(text.split()))[1:]
    return tuple(part.strip().rstrip(";").strip() for part in parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(cell: Any) -> str:
    outputs = cell.get("outputs", [])
    return "\n".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs)


def _picture(cell: Any) -> tuple[str, str] | None:
    for output in cell.get("outputs", []):
        if "image/png" in output.get("data", {}):
            return output["data"]["image/png"], output["metadata"]["image/png"]["alt"]
    return None


# -- terms and sheets --------------------------------------------------------------------------------------


def glossary_terms(page: str) -> dict[str, str]:
    """`{term: what it means}` of the glossary's page."""
    found = re.findall(r"^\*\*(.+?)\.\*\* (.+?)(?=\n\n|\Z)", page, re.M | re.S)
    return {term: " ".join(told.split()) for term, told in found}


def terms_by_lesson(texts: Mapping[str, str], glossary: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """For each lesson the terms that it uses most, beside the other lessons (tf-idf), in the glossary's order."""
    counts = {name: {term: _uses(term, text) for term in glossary} for name, text in texts.items()}
    lessons = {term: sum(1 for name in texts if counts[name][term]) for term in glossary}

    def weight(name: str, term: str) -> float:
        return counts[name][term] * math.log((1 + len(texts)) / max(1, lessons[term]))

    chosen: dict[str, list[tuple[str, str]]] = {}
    for name in texts:
        used = [term for term in glossary if counts[name][term]]
        best = sorted(used, key=lambda term: -weight(name, term))[:TERMS]
        chosen[name] = [(term, glossary[term]) for term in used if term in best]
    return chosen


def _uses(term: str, text: str) -> int:
    names = [re.sub(r"\s*\(.*\)", "", part).strip() for part in term.split(",")]
    return sum(len(re.findall(rf"\b{re.escape(name)}s?\b", text, re.I)) for name in names)


def sheet_of(page: str, number: str) -> str:
    """The section of a lesson ("00", "01", ...) on the instructors' sheets; empty where there is none."""
    found = re.search(rf"^## {number} .+?(?=^## |\Z)", page, re.M | re.S)
    return found[0] if found else ""


# -- writing -----------------------------------------------------------------------------------------------


def page_of(name: str, handout: Handout) -> str:
    """The page as HTML."""
    return PAGE.format(
        title=html.escape(handout.title),
        style=STYLE,
        name=name,
        abilities="".join(f"<li>{_inline(text)}</li>" for text in handout.abilities),
        terms="".join(f"<dt>{_inline(term)}</dt><dd>{_inline(told)}</dd>" for term, told in handout.terms),
        prediction=_inline(handout.prediction),
        number=_inline(handout.number),
        questions="".join(f'<li>{_inline(text)}<div class="line"></div></li>' for text in handout.questions),
        alt=html.escape(handout.alt),
        picture=in_grey(handout.picture),
    )


def _inline(text: str) -> str:
    shown = html.escape(text, quote=False)
    for mark, tag in ((r"`(.+?)`", "code"), (r"\*\*(.+?)\*\*", "b"), (r"\*(.+?)\*", "i")):
        shown = re.sub(mark, rf"<{tag}>\1</{tag}>", shown)
    return shown


def in_grey(picture: str) -> str:
    """A PNG in base64 without its colours, as a printer gives it."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("L").save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
