"""Each term of the glossary is explained where the lessons' core first uses it, in the order of the lessons."""

import re
from pathlib import Path

import pytest
from handouts import glossary_terms

jupytext = pytest.importorskip("jupytext", reason="the notebooks extra is not installed")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
TERMS = glossary_terms((ROOT / "docs" / "teaching" / "glossary.md").read_text(encoding="utf-8"))
# Words that mean something else in the lessons' plain sentences, where they do.
PLAIN = ("side by side", "the other side", "cross-entropy")


def names_of(term):
    """A term's names: "SWA, EMA" has two; what stands in brackets or behind a colon is none."""
    return [re.sub(r"\s*\(.*\)", "", part).strip() for part in term.split(":")[0].split(",")]


def prose_of(source):
    """The paragraphs of a lesson's core that explain: without headings, code, abilities, answers, lists of files."""
    told = []
    for cell in jupytext.read(source).cells:
        if cell.source.startswith("## Further"):
            break
        if cell.cell_type == "markdown":
            text = re.sub(
                r"^## (?:Where the library has it|You can now).*?(?=^## |\Z)", "", cell.source, flags=re.S | re.M
            )
            text = re.sub(r"```.*?```|`[^`]*`|<details>.*?</details>|^#.*?$", "", text, flags=re.S | re.M)
            text = re.sub(r"^\d\. .*?(?=\n\n|\Z)", "", text, flags=re.S | re.M)  # abilities, questions
            told += [" ".join(part.split()) for part in re.split(r"\n\n+", text)]
    for plain in PLAIN:
        told = [part.replace(plain, "") for part in told]
    return told


def flags_of(name):
    """Abbreviations as they are written (peft is a library, PEFT is not), other names in any case."""
    return re.I if name.upper() != name else re.NOFLAG


def explains(paragraph, name):
    """Whether a paragraph sets a term in italics or bold, links it, or says behind it what it is."""
    word = rf"\b{re.escape(name)}(?:s|es)?\b"
    forms = (
        rf"\*[^*]*{word}[^*]*\*", rf"\[[^\]]*{word}[^\]]*\]\(",
        rf"{word}(?:, (?:the|a|an|which|that|what|how)\b| \(|: )", rf"{word} (?:is|are|means|averages|measures|says)\b",
        rf"(?:called|call it|call them) (?:the |an? )?{word}",
    )  # fmt: skip
    return any(re.search(form, paragraph, flags_of(name)) for form in forms)


def unexplained(prose):
    """`{term: where it is first used}` of terms that no paragraph up to their first use explains."""
    found = {}
    for term in TERMS:
        words = [(rf"\b{re.escape(name)}(?:s|es)?\b", flags_of(name)) for name in names_of(term)]
        uses = ((where, part) for where, part in prose if any(re.search(word, part, flags) for word, flags in words))
        first = next(uses, None)
        if first and not any(explains(first[1], name) for name in names_of(term)):
            found[term] = f"{first[0]}: {first[1][:160]}"
    return found


def test_each_term_is_explained_at_its_first_use():
    prose = [(source.stem, part) for source in SOURCES for part in prose_of(source)]
    left = unexplained(prose)
    assert not left, "\n".join(f"{term}: {where}" for term, where in left.items())


def test_the_test_tells_terms_from_explained_ones():
    assert (
        names_of("SWA, EMA") == ["SWA", "EMA"]
        and names_of("Mutual information (of answer and route)")[0][:6] == "Mutual"
    )
    assert explains("A *route* names an expert for each site.", "Route")
    assert explains("The head, the last layer, is not counted.", "Head")
    assert explains("One [LoRA](https://arxiv.org/abs/2106.09685) a site.", "LoRA")
    assert not explains("Then a barrier stands between them.", "Barrier")
    assert list(unexplained([("00", "Here a chord rises."), ("01", "A *chord* is a line.")])) == ["Chord"]
