"""How long a learner waits for a widget: its computing, its drawing, and from the key to the new picture.

    python tests/benchmarks/latency.py                     every lesson, ten states a slider (or of the buttons)
    python tests/benchmarks/latency.py 03_merging          one
    python tests/benchmarks/latency.py --quick             09_generation, three states a slider
    python tests/benchmarks/latency.py --screenshots DIR   a picture of each widget besides, as JupyterLab shows it

Computing and drawing are measured by the widget itself (`Explorer.seconds`); the whole way in the page, from the
`keydown` on a slider to the decoded new image, in a real JupyterLab by headless Chromium. "idle" is a widget that
computes and draws nothing, first and last: the machine's own round trip, which is in all other lines. Aims beside it:
in the median 100 ms for stored states, 250 ms where a model runs, 1 s for full passes. Wall times: another load on
the machine is in them, and is printed.
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

QUICK = "09_generation"
ARM = """(place) => {
  const before = place.querySelector('img')?.alt;
  let start;
  addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  window.adamixPicture = new Promise(resolve => {
    const watch = new MutationObserver(() => {
      const image = place.querySelector('img');
      if (!image || image.alt === before) return;
      watch.disconnect();
      resolve(image.decode().then(() => performance.now() - start));
    });
    watch.observe(place, { childList: true, subtree: true, attributes: true });
    setTimeout(resolve, 3000, null);
  });
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
        picture = page.evaluate("() => window.adamixPicture")  # nothing is asked meanwhile: it would be in the time
        seconds = json.loads(ast.literal_eval(lab_server.ask_kernel(page, SECONDS)))[title]  # behind what is under way
        if picture is not None:
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


def measure(lab: Any, browser: Any, name: str, states: int, screenshots: Path | None) -> list[dict[str, Any]]:
    """A row for each widget of a lesson."""
    rows = []
    with lab_server.page_of(browser) as (page, _):
        lab_server.open_notebook(page, lab, f"{name}.ipynb")
        lab_server.run_all(page)
        learner.predict(page)  # some widgets are results, which wait for it
        lab_server.settle(page)
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
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        idle = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(learner.IDLE)], metadata=kernel)
        nbformat.write(idle, lab.folder / "idle.ipynb")
        for name in ("idle", *names, "idle"):
            rows += measure(lab, browser, name, states, screenshots)
    report({"widgets": rows, "cores": os.cpu_count(), "load before": load, "states a slider": states}, out)


if __name__ == "__main__":
    typer.run(main)
