"""How long a learner waits for a widget: its computing, its drawing, and from the key to the new picture.

    python tests/benchmarks/latency.py                     every lesson, ten states a slider (or of the buttons)
    python tests/benchmarks/latency.py 03_merging          one
    python tests/benchmarks/latency.py --quick             02_consistency, three states a slider
    python tests/benchmarks/latency.py --screenshots DIR   a picture of each widget besides, as JupyterLab shows it

Computing and drawing are measured by the widget itself (`Explorer.seconds`); the whole way in the page, from the
`keydown` on a slider to the decoded new image, in a real JupyterLab by headless Chromium. Aims: computing at most 50
ms, the picture at most 250 ms in the median for live models, 1 s for full passes. Wall times: another load on the
machine is in them, and is printed.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from common import LESSONS, ROOT, load_average, report

sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import lab_server  # noqa: E402
import learner  # noqa: E402
import nbformat  # noqa: E402

QUICK = "02_consistency"
ARM = """(place) => {
  const before = place.querySelector('img')?.alt;
  let start, end = null;
  addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  const watch = new MutationObserver(() => {
    const image = place.querySelector('img');
    if (end !== null || !image || image.alt === before) return;
    end = image.decode().then(() => performance.now() - start);
    watch.disconnect();
  });
  watch.observe(place, { childList: true, subtree: true, attributes: true });
  window.adamixWaited = () => end;
}"""
SECONDS = (
    "__import__('json').dumps({e.title: e.seconds for e in __import__('gc').get_objects() "
    "if type(e).__name__ == 'Explorer'})"
)


def waits(page: Any, widget: Any, title: str, states: int) -> list[dict[str, float]]:
    """Milliseconds of each change: {"compute", "draw", "picture"}. A key at a slider's end, or one that leads to the
    same picture, gives none. A widget without sliders is moved by its buttons.
    """
    place, found = widget.locator(".adamix-picture"), []

    def press(handle: Any, key: str) -> None:
        handle.focus()
        place.evaluate(ARM)
        handle.press(key)
        lab_server.settle(page)  # what was asked is answered: a new picture, if there is one, is there
        picture = page.evaluate("() => window.adamixWaited()")
        if picture is not None:
            seconds = json.loads(ast.literal_eval(lab_server.ask_kernel(page, SECONDS)))[title]
            found.append({**{part: 1000 * value for part, value in seconds.items()}, "picture": picture})

    handles = learner.sliders(widget)
    for handle in handles:
        learner.show_me(widget)
        lab_server.settle(page)
        for key in islice(cycle(["ArrowRight"] * 3 + ["ArrowLeft"] * 3), states):
            now, lowest, highest = learner.at(handle)
            if now != (highest if key == "ArrowRight" else lowest):
                press(handle, key)
    if not handles:
        for button in islice(cycle(learner.buttons(widget)), states):
            press(button, "Enter")
    return found


def up_to_widgets(lab: Any, name: str) -> str:
    """Name of a copy of the lesson that ends with its last widget: what comes after it costs time and shows none."""
    notebook = nbformat.read(lab.folder / f"{name}.ipynb", as_version=4)
    shown = [n for n, cell in enumerate(notebook.cells) if "run the cell to use it" in str(cell.get("outputs", ""))]
    notebook.cells = [cell for cell in notebook.cells[: max(shown) + 1] if cell.cell_type == "code"]
    nbformat.write(notebook, lab.folder / f"{name}-widgets.ipynb")
    return f"{name}-widgets.ipynb"


def measure(lab: Any, browser: Any, name: str, states: int, screenshots: Path | None) -> list[dict[str, Any]]:
    """A row for each widget of a lesson."""
    rows = []
    with lab_server.page_of(browser) as (page, _):
        lab_server.open_notebook(page, lab, up_to_widgets(lab, name))
        lab_server.run_all(page)
        for n, widget in enumerate(learner.explorers(page), 1):
            learner.show_me(widget)
            lab_server.settle(page)
            if screenshots:
                widget.screenshot(path=screenshots / f"{name}-{n}.png")
            title = widget.locator("b").first.inner_text()
            measured = waits(page, widget, title, states)
            row: dict[str, Any] = {"lesson": name, "widget": title, "states": len(measured)}
            for part in ("compute", "draw", "picture"):
                values = [wait[part] for wait in measured]  # none where no key led to a new picture
                median, worst = (statistics.median(values), max(values)) if values else (None, None)
                row |= {f"{part} ms": median and round(median, 1), f"{part} ms, worst": worst and round(worst, 1)}
            medians = ", ".join(f"{part} {row[f'{part} ms']}" for part in ("compute", "draw", "picture"))
            print(f"{name} / {title}: {row['states']} states, medians in ms: {medians}", flush=True)
            rows.append(row)
        lab_server.shut_kernel(page)
    return rows


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    quick: bool = False,
    states: int = 10,
    screenshots: Path | None = None,
    out: Path | None = None,
) -> None:
    """Milliseconds of each widget of the named lessons as one JSON object."""
    if reason := lab_server.missing():
        return report({"skipped": reason})
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
    names, states = ([QUICK], 3) if quick else (names or [path.stem for path in LESSONS], states)
    load, rows = load_average(), []
    with tempfile.TemporaryDirectory() as work, lab_server.serve(Path(work)) as lab, lab_server.chromium() as browser:
        for name in names:
            rows += measure(lab, browser, name, states, screenshots)
    report({"widgets": rows, "cores": os.cpu_count(), "load before": load, "states a slider": states}, out)


if __name__ == "__main__":
    typer.run(main)
