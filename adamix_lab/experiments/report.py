"""The report of a results folder: verdicts on the paper's claims, its tables beside ours, a figure, costs.

`data/paper/report.md` is its text; here is what is filled in. The HTML file is that text with the picture inside.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.plots import STYLES, Picture, panels, save_figure
from adamix_lab.analysis.statistics import ALIKE, SHOWN, Estimate, verdict_of
from adamix_lab.core.files import write_text
from adamix_lab.experiments.claims import Table, Verdict, listed, read_paper, read_rules, read_tables, verdicts_of
from adamix_lab.experiments.contrasts import AGAINST, REFERENCE, Scores, Side, mean_by_seed, mean_estimate, minus
from adamix_lab.experiments.results import (
    Results,
    frame,
    in_points,
    in_words,
    measures,
    missing_seeds,
    read_results,
    score_cells,
    settings_of,
    several_runs,
    variant_called,
)
from adamix_lab.experiments.settings import BUDGETS

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NOT_RUN = "not run"
COLUMNS = "table comparison column task budget paper difference seeds low high p on".split()
COSTS = [
    "variant", "trained", "stored", "at inference", "steps", "training seconds", "training operations",
    "evaluation seconds",
]  # fmt: skip


def report(folder: Path, out: Path | None = None, say: Callable[[str], None] = print) -> list[Verdict]:
    """Writes report.md (with a picture), report.html (one file) and its tables as .csv; prints the verdicts.

    Args:
        folder: holds results.parquet; predictions.parquet and curves.parquet are used where they are.
        out: for the report; None takes `folder / "report"`.
        say: takes lines.

    Returns the verdicts at equal steps. Raises ValueError for results that are not whole or lack columns.
    """
    results = read_results(folder)
    scores, out = Scores(results), out or folder / "report"
    verdicts, tables = verdicts_of(scores), read_tables()
    claims = verdict_table(verdicts, verdicts_of(scores, "compute"))
    found, against = differences(tables, scores), comparisons(scores)
    picture = figure_5(scores)
    text = read_paper("report.md").format(
        runs=grid(what_was_run(results)),
        provenance=bullets(provenance(results)),
        verdicts=grid(claims),
        rules=bullets(read_rules()),
        tables="\n\n".join(table_section(table, scores, found) for table in tables),
        figure=f"![{picture.alt}](figure5.png)" if picture else "Here: not run.",
        opponents=grid(opponents(against, scores)),
        scores=grid(absolute(scores)),
        measures=grid(measures(results.table)),
        costs=grid(costs(results)),
    )
    if picture:
        save_figure(picture.figure, out / "figure5.png", picture.alt)
    write_text(out / "report.md", text)
    write_text(out / "report.html", to_html(text, picture))
    for name, table in (("claims", claims), ("differences", found.drop(columns="on")), ("comparisons", against)):
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    for verdict in verdicts:
        say(f"{verdict.claim.number:>2}. {verdict.claim.says}: {verdict.verdict}")
    say(f"written: {out / 'report.md'}, {out / 'report.html'}")
    return verdicts


def grid(table: DataFrame) -> str:
    """A table in Markdown; what stands in a cell is text, never markup."""
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |" for row in rows
    )


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def to_html(text: str, picture: Picture | None) -> str:
    """The report as one HTML page: the paragraph before a table is its caption, the picture is inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("js-default").render(text)  # "js-default": with tables, and HTML in the text is only text
    body = re.sub(r"<p>([^\n]*)</p>\n<table>", r"<table>\n<caption>\1</caption>", body)
    body = re.sub(r"<tr>\n<td>(.*?)</td>", r'<tr>\n<th scope="row">\1</th>', body).replace("<th>", '<th scope="col">')
    if picture:
        body = re.sub(r'<img src="figure5\.png"[^>]*>', lambda _: picture.html(), body)
    return str(read_paper("report.html")).replace("{report}", body)


# -- what was run -----------------------------------------------------------------------------------------


def what_was_run(results: Results) -> DataFrame:
    """Variants by task: seeds and steps; the variants that the claims need and nobody ran are listed as not run."""
    import pandas as pd

    runs = in_words(results.table.drop_duplicates("run"))
    cells = {
        key: f"{own['seed'].nunique()} seeds x {listed(sorted(set(own['steps'])))} steps"
        for key, own in runs.groupby(["variant", "budget", "task"], sort=False)
    }
    wanted = read_paper("claims.yaml")["wanted"]
    absent = {(name, "", ""): NOT_RUN for name in wanted if variant_called(results, name) is None}
    return side_by_side(pd.Series({**cells, **absent}), ["variant", "budget"], results.table["task"].unique())


def side_by_side(cells: Series[Any], names: Sequence[str], columns: Sequence[str]) -> DataFrame:
    """Cells whose last index is a column as a table with these columns; what is not there was not run."""
    long = cells.rename_axis([*names, "column"]).rename("cell").reset_index()
    wide = long.pivot_table(index=list(names), columns="column", values="cell", aggfunc="first", sort=False)
    return wide.reindex(columns=list(columns)).astype(object).fillna(NOT_RUN).reset_index()


def provenance(results: Results) -> list[str]:
    """What a reader must know: devices, versions, dates, settings, and what is missing."""
    table = results.table
    days = sorted(str(value)[:10] for value in table["date"])
    dates = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    versions = [_versions(text) for text in dict.fromkeys(table["versions"])]
    lines = [f"Devices: {_several(table['device'])}. Finished: {dates}.", f"Versions: {' | '.join(versions)}."]
    for name in ("backbone", "batch_size", "max_length", "rows", "top_blocks"):
        if values := settings_of(results, name):
            lines.append(f"{name.replace('_', ' ')}: {_several(values)}.")
    own = table[table["variant"] == variant_called(results, REFERENCE)]
    shape = sorted({(int(m), int(r)) for m, r in zip(own["experts"], own["size"], strict=True)})
    if shape and shape != [(4, 16)]:
        lines.append(f"{REFERENCE} has (experts, size) {shape}, not (4, 16), which claims 7 and 8 are worded for.")
    return [*lines, *results.notes, *missing_seeds(results), *several_runs(results)]


def _versions(text: str) -> str:
    found = json.loads(text)
    shown = {name: found[name] for name in ("adamix-lab", "torch", "transformers", "python") if name in found} or found
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _several(values: Iterable[Any]) -> str:
    return ", ".join("all" if value is None else str(value) for value in dict.fromkeys(values))


# -- the claims -------------------------------------------------------------------------------------------


def verdict_table(verdicts: Sequence[Verdict], by_compute: Sequence[Verdict]) -> DataFrame:
    """A row a claim."""
    rows = [
        (str(v.claim.number), v.claim.says, v.claim.source, v.verdict, _at_compute(c), f"{v.why} {v.claim.remark}")
        for v, c in zip(verdicts, by_compute, strict=True)
    ]
    return frame(rows, ["number", "claim", "where", "at equal steps", "at equal compute", "why (at equal steps)"])


def _at_compute(verdict: Verdict) -> str:
    """The verdict where other variants have runs of that budget; claims about one model's strategies have none."""
    variants = {side.variant for f in verdict.findings for _, side in f.part.contrast.terms}
    if len(variants) == 1 or all(f.part.rule == "equal" or f.part.most_steps for f in verdict.findings):
        return "–"
    return verdict.verdict if any(f.estimate is not None or f.on for f in verdict.findings) else NOT_RUN


# -- the tables -------------------------------------------------------------------------------------------


def differences(tables: Sequence[Table], scores: Scores) -> DataFrame:
    """Every comparison of the tables by budget and column, in points, a row each: what is printed, and what is here.

    Column `on` has the seeds; `verdict` is corrected over all rows of a table and budget.
    """
    rows = []
    for table in tables:
        for line in table.lines:
            trained = len({side.variant for _, side in line.contrast.terms}) > 1  # else "compute" has the same runs
            for budget in [name for name in BUDGETS if trained or name != "compute"]:
                for column, (task, metric) in columns_of(table, scores).items():
                    on = scores.on_task(replace(line.contrast, metric=metric), task, budget)
                    if on.by_seed:
                        printed, found = line.printed.get(column, math.nan), on.estimate
                        numbers = (found.mean, found.number, found.low, found.high, found.p)
                        rows.append((table.name, line.says, column, task, budget, printed, *numbers, on))
    differences = frame(rows, COLUMNS)
    comparisons = differences.groupby(["table", "budget"])["on"].transform("size")
    pairs = zip(differences["on"], comparisons, strict=True)
    return differences.assign(verdict=[verdict_of(on.estimate, "points", number).verdict for on, number in pairs])


def columns_of(table: Table, scores: Scores) -> dict[str, tuple[str, str | None]]:
    """The printed columns, then further tasks that were run here."""
    there = {task for task, _ in table.columns.values()}
    further = [task for task in scores.tasks(table.few_shot) if task not in there and "e2e" not in there]
    return {**table.columns, **{task: (task, None) for task in further}}


def table_section(table: Table, scores: Scores, found: DataFrame) -> str:
    """A table of the paper beside ours, a group of rows a comparison."""
    import pandas as pd

    columns, rows = list(columns_of(table, scores)), []
    for line in table.lines:
        own = found[(found["table"] == table.name) & (found["comparison"] == line.says)]
        printed = pd.Series({column: line.printed.get(column, math.nan) for column in columns})
        means = printed[own["column"].unique()].mean(), printed[list(table.columns)].mean()
        rows.append([line.says, "paper", *map(_signed, (*printed, *means))])
        for budget in BUDGETS:
            part = own[own["budget"] == budget]
            if budget != "steps" and part.empty:
                continue
            cells = {c: estimate_cell(on.estimate, v) for c, on, v in part[["column", "on", "verdict"]].values}
            there = list(part["on"])
            cells["mean"] = estimate_cell(mean_estimate(there)) if mean_by_seed(there) else NOT_RUN
            shown = [cells.get(column, NOT_RUN) for column in (*columns, "mean")]
            rows.append([line.says, f"here, {BUDGETS[budget]}", *shown, "–"])
    heads = ["difference", "whose", *columns, "mean of tasks run here", "mean of the paper's tasks"]
    parts = [f"### {table.name}. {table.title}", f"{table.name}, as differences in points"]
    return "\n\n".join([*parts, grid(frame(rows, heads)), *filter(None, [table.remark])])


def estimate_cell(estimate: Estimate, verdict: str = "", unit: str = "points") -> str:
    """`+0.3 (-0.2 to +0.8), n = 5`, with a star where a difference is shown, and "≈" where the two are alike."""
    digits = 1 if unit == "points" else 3
    mean, low, high = (f"{value:+.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    if estimate.number == 1:
        return f"{mean}, n = 1"
    mark = {SHOWN: "*", ALIKE: "≈"}.get(verdict, "")
    return f"{mean}{mark} ({low} to {high}), n = {estimate.number}"


def comparisons(scores: Scores) -> DataFrame:
    """AdaMix minus each other variant, a row a task, view, measure and variant; more is better, as points or nats.

    Bounds and verdicts are corrected for all variants of a task, view and measure (`family`: how many).
    """
    found = list(scores.against_each())
    families, rows = Counter(where[:3] for where in found), []
    for task, view, measure, other, on in found:
        judged = verdict_of(on.estimate, measure if measure == "points" else "nats", families[task, view, measure])
        numbers = (len(on.by_seed), judged.comparisons, on.estimate.mean, judged.low, judged.high)
        rows.append((task, view, measure, other, *numbers, judged.verdict))
    return frame(rows, "task view measure against seeds family difference low high verdict".split())


def opponents(found: DataFrame, scores: Scores) -> DataFrame:
    """The `comparisons` with their measures side by side."""
    table = scores.results.table
    names = dict(zip(table["variant"], in_words(table)["variant"], strict=True))
    against = f"{names.get(scores.variant(REFERENCE) or '', REFERENCE)} minus"
    cells = [
        estimate_cell(Estimate(row.difference, row.low, row.high, math.nan, row.seeds), row.verdict, row.measure)
        for row in found.itertuples()
    ]
    index = [found["task"], found["view"].map(BUDGETS), found["against"].map(names), found["measure"]]
    lines = found.assign(cell=cells).set_index(index)["cell"]
    return side_by_side(lines, ["task", "what is equal", against], list(AGAINST))


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"


# -- scores and costs -------------------------------------------------------------------------------------


def absolute(scores: Scores) -> DataFrame:
    """Each variant's own scores, at every strategy it was judged by."""
    table = in_words(scores.results.table[scores.results.table["primary"]])
    names = ["variant", "strategy", "budget"]
    cells = score_cells(table, [*names, "task"], lambda values: f"{in_points(values)}, n = {len(values)}")
    heads = {task: f"{task} ({metric})" for task, metric in scores.primary.items()}
    return side_by_side(cells, names, scores.results.table["task"].unique()).rename(
        columns={"strategy": "answers by", **heads}
    )


def costs(results: Results) -> DataFrame:
    """Parameters, and time and operations of training relative to AdaMix on the same tasks."""
    budget = next(name for name in BUDGETS if name in set(results.table["compute"]))
    runs = results.table[(results.table["compute"] == budget) & (results.table["examples"] == 0)]
    runs = in_words(runs.drop_duplicates("run"))
    names = ["steps", "seconds", "operations", "evaluation_seconds"]
    medians = runs.groupby(["variant", "task"], sort=False)[names].median()
    own = results.table.loc[results.table["variant"] == variant_called(results, REFERENCE), "run"]
    reference = runs[runs["run"].isin(own)].groupby("task")[names].median()
    ratios = medians / reference.reindex(medians.index.get_level_values("task")).to_numpy()
    means = ratios.replace(math.inf, math.nan).groupby("variant", sort=False).mean()
    counts = runs.groupby("variant", sort=False)[["trained", "stored", "inference"]].agg(
        lambda values: listed(sorted({*map(int, values)}))
    )
    found = counts.join(means.map(lambda ratio: "–" if math.isnan(ratio) else f"{ratio:.2f}")).reset_index()
    return found.set_axis(COSTS, axis="columns")


# -- the paper's Figure 5 from results, None where runs do not reach ---------------------------------------------------


def figure_5(scores: Scores) -> Picture | None:
    """What random routing, one expert and the ensemble give beyond the merge (points), a dot a seed, by task."""
    import pandas as pd
    import seaborn

    found = {
        (task, strategy): [*scores.on_task(minus(Side("AdaMix", strategy), Side("AdaMix")), task).by_seed.values()]
        for task in scores.tasks()
        for strategy in ("random", "fixed", "ensemble", "exact")
    }
    dots = pd.Series(found).explode().dropna().astype(float)
    if dots.empty:
        return None
    data = dots.rename_axis(["task", "strategy"]).reset_index(name="points")
    figure, (ax,) = panels(1, max(6.0, 1.6 * data["task"].nunique() + 3), 4.4)
    colours = {strategy: STYLES[strategy][0] for strategy in data["strategy"].unique()}
    seaborn.stripplot(data, x="task", y="points", hue="strategy", palette=colours, dodge=True, jitter=False, ax=ax)
    ax.axhline(0, color=STYLES["merged"][0], label="merged")
    ax.set(xlabel="", ylabel="points beyond the merge")
    ax.legend(frameon=False, fontsize=9)
    told = data.groupby(["task", "strategy"], sort=False)["points"].agg(["mean", "min", "max"]).iterrows()
    each = "; ".join(f"{', '.join(where)} {mean:+.2f} ({low:+.2f} to {high:+.2f})" for where, (mean, low, high) in told)
    return Picture(figure, f"Points beyond the merge, a dot a seed, mean and range: {each}.")
