import html.parser
import re

import numpy as np
import pandas as pd
import pytest
import results_by_construction as made

from adamix_lab.analysis.statistics import t_interval, verdict_of
from adamix_lab.experiments.claims import read_tables, verdicts_of
from adamix_lab.experiments.contrasts import Scores, Side, minus
from adamix_lab.experiments.report import comparisons, differences, opponents, report
from adamix_lab.experiments.results import Results, missing_seeds, read_results, several_runs
from adamix_lab.tasks.tasks import data_root

EFFECTS = {"AdaMix": 2.0, "single": 0.0, "no consistency": 1.0, "no sharing": 2.0}


# -- reading -----------------------------------------------------------------------------------------------


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="adamix-lab ablate"):
        read_results(tmp_path)
    folder = made.write(tmp_path / "results", made.results(EFFECTS, seeds=2))
    whole = (folder / "results.parquet").read_bytes()
    (folder / "results.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        read_results(folder)
    made.results(EFFECTS, seeds=2).rename(columns={"variant": "variants"}).to_parquet(folder / "results.parquet")
    with pytest.raises(ValueError, match=r"lacks variant: .*'variants'"):
        read_results(folder)
    made.results(EFFECTS, seeds=2).iloc[:0].to_parquet(folder / "results.parquet")
    with pytest.raises(ValueError, match="no results"):
        read_results(folder)
    (folder / "results.parquet").write_bytes(whole)
    (folder / "curves.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"curves\.parquet is not a whole"):
        read_results(folder)


def test_values_that_are_not_finite_and_missing_seeds_are_said(tmp_path):
    table = made.results(EFFECTS, seeds=3)
    table = table[~((table["variant"] == "single") & (table["task"] == "rte") & (table["seed"] > 0))]
    table.loc[table.index[0], "value"] = np.nan
    results = read_results(made.write(tmp_path, table, with_rest=False))
    notes = " ".join(results.notes)
    assert "1 values are not finite" in notes and "predictions.parquet is not there" in notes
    assert "single on rte lacks seeds 1, 2." in missing_seeds(results)


def test_several_runs_of_one_seed_are_said():
    table = made.results({"AdaMix": 0.0, "single": 0.0}, seeds=2, tasks=("rte",))
    assert several_runs(Results(table)) == []
    other = table[table["variant"] == "single"].assign(run=lambda frame: frame["run"] + "-lr")
    (line,) = several_runs(Results(pd.concat([table, other], ignore_index=True)))
    assert line.startswith("single on rte has several runs")


# -- contrasts and tables ------------------------------------------------------------------------------------


def test_a_contrast_pairs_seeds_and_knows_rows():
    table = made.results({"AdaMix": 3.0, "single": 0.0}, seeds=4, spread=0.01)
    table = table[~((table["variant"] == "single") & (table["seed"] == 2))]
    scores = Scores(Results(table, made.predictions(table, rows=2000)))
    on = scores.on_task(minus("AdaMix", "single"), "rte")
    assert sorted(on.by_seed) == [0, 1, 3] and on.estimate.mean == pytest.approx(3.0, abs=0.05)
    assert on.rows_variance is not None  # the rows are known
    assert on.estimate.low < 3.0 < on.estimate.high
    assert scores.absent(minus("AdaMix", "full"), "rte") == ["full"]


def test_names_are_found_whatever_their_capitals_and_sizes():
    scores = Scores(Results(made.results({"AdaMix": 0.0, "lora r=8": 1.0}, seeds=2)))
    assert scores.on_task(minus("adamix", "LoRA"), "rte").by_seed
    assert Scores(Results(made.results({"AdaMix r=4": 0.0}, seeds=2))).variant("AdaMix") is None  # another question


def test_every_table_of_the_paper_has_its_printed_differences():
    tables = {table.name: table for table in read_tables()}
    assert list(tables) == [f"Table {n}" for n in (1, 2, 3, 6, 7, 8, 9, 10, 11)]
    for table in tables.values():
        for line in table.lines:
            assert any(column in line.printed for column in table.columns), (table.name, line.says)
            assert len(line.contrast.terms) == 2 and line.contrast.few_shot == (table.name == "Table 6")
    eight = tables["Table 8"].lines
    assert eight[0].printed["rte"] == 4.4 and eight[1].printed["rte"] == 5.1
    assert tables["Table 2"].columns["qqp_f1"] == ("qqp", "f1")
    assert tables["Table 7"].lines[0].contrast == minus("AdaMix", Side("AdaMix", "random"))
    assert tables["Table 9"].lines[1].printed == {
        "experts": 4,
        "mnli": 0,
        "qnli": -0.1,
        "sst2": -0.2,
        "mrpc": -0.5,
        "rte": -1.8,
    }


def test_the_correction_runs_over_a_whole_table_and_budget():
    table = made.results({**EFFECTS, "full": -1.0}, compute=("full",))
    found = differences(read_tables(), Scores(Results(table)))
    for budget, lines in (("steps", 3), ("compute", 1)):
        rows = found[(found["table"] == "Table 8") & (found["budget"] == budget)]
        assert len(rows) == 3 * lines
        expected = [verdict_of(on.estimate, "points", len(rows)).verdict for on in rows["on"]]
        assert rows["verdict"].tolist() == expected


def test_adamix_is_compared_with_each_other_over_the_seeds_of_both():
    table = made.results({**EFFECTS, "full": -1.0}, seeds=4, compute=("full",))
    table = table[~((table["variant"] == "single") & (table["seed"] == 2))]
    found = comparisons(Scores(Results(table)))
    for (task, view, measure), family in found.groupby(["task", "view", "measure"]):
        others = {"full"} | ({"single", "no consistency", "no sharing"} if view == "steps" else set())
        assert set(family["against"]) == others and set(family["family"]) == {len(others)}, (task, view, measure)
    assert set(found["measure"]) == {"points", "nats"} and len(found) == 3 * 2 * (4 + 1)
    of_rte = found[(found["task"] == "rte") & (found["view"] == "steps") & (found["against"] == "single")]
    own = table[(table["task"] == "rte") & (table["strategy"] == "merged") & table["primary"] & (table["seed"] != 2)]
    own = own[own["compute"] == "steps"].pivot(index="seed", columns="variant", values="value")
    gaps = 100 * (own["AdaMix"] - own["single"]).to_numpy()
    judged, (row,) = verdict_of(t_interval(gaps), "points", 4), of_rte[of_rte["measure"] == "points"].to_dict("records")
    assert row["seeds"] == 3 and row["verdict"] == judged.verdict
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(
        [gaps.mean(), judged.low, judged.high], rel=1e-6
    )


def test_what_has_no_adamix_or_nothing_beside_it_is_compared_with_nothing():
    for effects in ({"single": 0.0, "full": 1.0}, {"AdaMix": 0.0}):
        scores = Scores(Results(made.results(effects)))
        assert comparisons(scores).empty and opponents(comparisons(scores), scores).empty


# -- the whole report --------------------------------------------------------------------------------------------


class Checker(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_endtag(self, tag):
        if tag not in ("img",):
            assert self.open.pop() == tag


def test_the_report_of_a_folder(tmp_path):
    effects = {**EFFECTS, "full": -1.0, "<b>odd | name</b>": 0.0}
    table = pd.concat(
        [
            made.results(effects, seeds=3, compute=("single",)),
            made.results({"AdaMix": 0.0, "full": 0.0}, seeds=2, tasks=("subj",), examples=30),
            made.results({"AdaMix": 0.0, "single": 0.0}, seeds=3, tasks=("aspects",)),
        ]
    )
    folder = made.write(tmp_path / "results", table)
    said = []
    verdicts = report(folder, say=said.append)
    assert len(verdicts) == 12 and verdicts[0].verdict in said[0] and "report.html" in said[-1]
    out = folder / "report"
    text, page = ((out / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    for each in (text, page):
        for n in (1, 2, 3, 6, 7, 8, 9, 10, 11):
            assert f"Table {n}. " in each
        assert "not run" in each and "fewer than 3 decide nothing" in each and "aspects" in each
        assert "here, equal compute" in each
    for name, alt in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
        assert len(name) > 40 and (out / alt).is_file() and (out / alt).with_suffix(".txt").is_file()
    checker = Checker()
    checker.feed(page)
    assert not checker.open and len(checker.images) == 1
    assert all(image["alt"] and image["src"].startswith("data:image/png") for image in checker.images)
    assert not [link for link in checker.links if not link.startswith("data:")]  # self-contained
    assert "<b>odd" not in page + text and "&lt;b&gt;odd" in page and "odd \\| name" in text
    rows = pd.read_csv(out / "differences.csv")
    assert {"paper", "difference", "low", "high", "verdict"} <= set(rows.columns)
    eight = rows[(rows["table"] == "Table 8") & (rows["task"] == "rte")].set_index("comparison")
    assert eight.loc["AdaMix − w/o Consistency", "paper"] == 4.4
    known = Scores(Results(table)).on_task(minus("AdaMix", "no consistency"), "rte").estimate
    assert eight.loc["AdaMix − w/o Consistency", "difference"] == pytest.approx(known.mean, abs=1e-4)


def test_views_of_a_comparison_stand_in_the_report(tmp_path):
    effects = {"AdaMix": 3.0, "single": 0.0, "single, lr/M + SWA": 3.0}
    table = pd.concat(
        made.results(effects, tasks=("subjectivity",), steps=steps).assign(compute=view)
        for view, steps in (("rate", 300), ("best", 150), ("oracle", 150), ("compute", 600))
    )
    table["run"] += table["compute"]
    report(made.write(tmp_path / "results", table), say=lambda line: None)
    text = (tmp_path / "results" / "report" / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## AdaMix against each variant") : text.index("## The paper's Figure 5")]
    for view in ("equal rate and steps", "each at its own best", "by true labels (an oracle)", "equal compute"):
        assert f"| {view}" in section or f"{view} |" in section
    rows = [line for line in section.splitlines() if line.startswith("| subjectivity")]
    single = [line for line in rows if "| single |" in line]
    assert len(rows) >= 8 and len(single) >= 4 and all("+" in line and "*" in line for line in single)
    assert "| AdaMix (up shared) minus |" in section and "not run" in single[0]  # no temperatures here


@pytest.mark.parametrize("examples, strategies", [(30, None), (0, "merged")])
def test_a_figure_that_no_run_reaches_is_not_drawn(tmp_path, examples, strategies):
    table = made.results({"AdaMix": 0.0}, seeds=2, tasks=("rte",)).assign(examples=examples)
    table = table[table["strategy"] == strategies] if strategies else table
    report(made.write(tmp_path, table, with_rest=False), say=lambda line: None)
    assert "Here: not run." in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "report" / "figure5.png").exists()


def test_the_report_works_from_results_alone(tmp_path):
    folder = made.write(tmp_path / "results", made.results({"AdaMix": 0.0}, seeds=1, tasks=("rte",)), with_rest=False)
    verdicts = report(folder, tmp_path / "elsewhere", say=lambda line: None)
    assert all(each.verdict == "not decided by these runs" for each in verdicts)
    text = (tmp_path / "elsewhere" / "report.md").read_text(encoding="utf-8")
    assert "curves.parquet is not there" in text
    assert "single" in text  # listed as not run


def test_the_command(tmp_path):
    from typer.testing import CliRunner

    from adamix_lab.cli.main import app

    folder = made.write(tmp_path / "results", made.results(EFFECTS, seeds=3, tasks=("rte",)), with_rest=False)
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "12. With 30 labelled" in done.output
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    "stored", sorted((data_root() / "results").glob("**/report/claims.csv")), ids=lambda path: path.parents[1].name
)
def test_stored_verdicts_are_those_of_the_stored_runs(stored):
    scores = Scores(read_results(stored.parents[1]))
    claims = pd.read_csv(stored)
    assert claims["at equal steps"].tolist() == [found.verdict for found in verdicts_of(scores)]
    text = (stored.parent / "report.md").read_text(encoding="utf-8")
    assert all(f"| {row.number} | {row.claim} |" in text for row in claims.itertuples())
