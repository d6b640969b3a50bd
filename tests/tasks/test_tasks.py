import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from adamix_lab.core.errors import LabError
from adamix_lab.tasks import tasks
from adamix_lab.tasks.loading import load_task, saved_task
from adamix_lab.tasks.tasks import data_root, hold_out

ROWS = [{"sentence": f"sentence {n}", "label": n % 2, "aspect": "x"} for n in range(20)]


def jsonl(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a"], r"options = \['a'\] in a save's notes"),
        ({"folder": "x"}, "Option of load_task, in a save's notes, 'folder' is not known; expected one of"),
        ({"source": "x"}, "'source' is not known"),
        ({"rows": "many"}, "rows = 'many': expected a whole number"),
        ({"seed": "x"}, "seed = 'x': expected a whole number"),
        ({"label_noise": "much"}, "label_noise = 'much': expected a share"),
    ],
)
def test_options_that_a_save_cannot_mean_are_refused(options, says):
    with pytest.raises(LabError, match=says):
        saved_task({"task": "aspects", "options": options})


def test_the_options_of_a_task_load_it_again():
    task = load_task("aspects", rows=20, seed=3, label_noise=0.1)
    assert saved_task({"task": "aspects", "options": task.options}) == task


def test_embedded_task():
    task = load_task("aspects")
    assert task.text == ("sentence",) and task.num_labels == 2 and task.name == "aspects"
    assert len(task.train) > 500 and len(task.evaluation) > 100
    assert "aspect" in task.train[0]  # other columns are kept for the lessons


@pytest.mark.parametrize(
    ("name", "classes", "train"),
    [("subjectivity", ("subjective", "objective"), 6000), ("reviews", ("negative", "positive"), 6662)],
)
def test_embedded_real_text_keeps_two_parts_for_final_reports(monkeypatch, name, classes, train):
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    task = load_task(name)
    assert opened == ["train.jsonl.gz", "test.jsonl.gz"]  # the parts kept back are not so much as opened
    assert task.classes == classes and (len(task.train), len(task.evaluation)) == (train, 2000)
    seen = {row["sentence"] for row in (*task.train, *task.evaluation)}
    for part in ("fresh", "sealed"):
        kept = load_task(name, part=part)
        assert kept.train == task.train and len(kept.evaluation) == 1000
        assert 450 < sum(row["label"] for row in kept.evaluation) < 550
        assert seen.isdisjoint(row["sentence"] for row in kept.evaluation)
        seen |= {row["sentence"] for row in kept.evaluation}
    assert len(seen) == train + 4000
    refused(lambda: load_task(name, part="freshh"), "expected train.* and freshh.*")


def test_embedded_real_text_is_what_its_maker_cuts(shared):
    command = [sys.executable, str(data_root() / "real.py"), str(shared / "data"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_embedded_data_may_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAMIX_LAB_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(FileNotFoundError, match="Install adamix-lab again, or let ADAMIX_LAB_DATA"):
        load_task("aspects")


def test_shipped_data_is_the_checkouts_or_what_a_wheel_installed(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAMIX_LAB_DATA", raising=False)
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "adamix_lab" / "tasks" / "tasks.py"))
    (tmp_path / "data").mkdir()  # another package's
    assert data_root() == tmp_path / "adamix_lab" / "_data"
    (tmp_path / "data" / "aspects").mkdir()
    assert data_root() == tmp_path / "data"


def test_the_embedded_task_by_another_label():
    task = load_task("aspects", label="aspect")
    assert len(task.classes) > 2 and set(task.classes) != {"negative", "positive"}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_folder_with_validation_before_test(tmp_path, suffix):
    jsonl(tmp_path / f"train{suffix}", ROWS)
    jsonl(tmp_path / f"validation{suffix}", ROWS[:4])
    jsonl(tmp_path / f"test{suffix}", [{"sentence": "x", "label": -1}])
    task = load_task(tmp_path)
    assert len(task.train) == 20 and len(task.evaluation) == 4 and task.name == tmp_path.name


def test_single_csv_gets_an_evaluation_slice_with_both_classes(tmp_path):
    path = tmp_path / "reviews äöü.csv"
    body = "".join(f'"a, quoted ""text"" {n}",{"pos" if n % 2 else "neg"}\n' for n in range(20))
    path.write_text("﻿text,label\n" + body, encoding="utf-8")  # Excel's byte order mark
    task = load_task(path)
    assert task.classes == ("neg", "pos") and task.text == ("text",)
    assert len(task.train) == 16 and sorted({row["label"] for row in task.evaluation}) == [0, 1]
    assert task.evaluation == load_task(path).evaluation
    assert task.train[0]["text"].startswith('a, quoted "text"')


@pytest.mark.parametrize(
    "columns",
    [
        ("sentence1", "sentence2"),
        ("question", "sentence"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("text",),
    ],
)
def test_usual_names_of_text_are_found(tmp_path, columns):
    rows = [{**dict.fromkeys(columns, "a"), "label": n % 2} for n in range(8)]
    assert load_task(jsonl(tmp_path / "x.jsonl", rows)).text == columns


def test_regression_by_float_labels(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": n / 2} for n in range(10)]
    task = load_task(jsonl(tmp_path / "x.jsonl", rows))
    assert task.regression and task.num_labels == 1 and isinstance(task.train[0]["label"], float)


def test_a_sample_of_rows_is_seeded(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", ROWS)
    few = load_task(path, rows=5, seed=3)
    assert len(few.train) == 5 and few.train == load_task(path, rows=5, seed=3).train
    assert few.evaluation == load_task(path, seed=3).evaluation  # the sample leaves the evaluation alone
    assert [
        row for row in load_task(path, rows=9, seed=3).train if row in few.train
    ] == few.train  # fewer are among more
    refused(lambda: load_task(path, rows=17), "rows = 17: expected at most the 16 that there are")
    refused(lambda: load_task(path, rows=1), "rows = 1 leave no row of class")


def test_an_empty_sentence_is_a_row(tmp_path):
    task = load_task(jsonl(tmp_path / "x.jsonl", [{"sentence": "", "label": n % 2} for n in range(8)]))
    assert {row["sentence"] for row in task.train} == {""}


def refused(call, *says):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call()
    for part in says:
        assert part in str(error.value), str(error.value)


def test_unknown_name():
    refused(lambda: load_task("aspect"), "Task 'aspect' is not known", "Did you mean 'aspects'", "path of a folder")
    refused(lambda: load_task("no/such/folder"), "is not there", "train.* and validation.*")


def test_empty_file(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n")
    refused(lambda: load_task(path), "holds no rows")
    csv = tmp_path / "x.csv"
    csv.write_text("sentence,label\n")
    refused(lambda: load_task(csv), "holds no rows")


def test_csv_without_the_column(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sentence,lable\na,1\n")
    refused(lambda: load_task(path), "Column 'label' is not known", "Did you mean 'lable'?")
    refused(lambda: load_task(path, text="sentense", label="lable"), "Column 'sentense'", "Did you mean 'sentence'?")
    path.write_text("words,label\na,1\n")
    refused(lambda: load_task(path), "columns 'words', 'label'", 'text="column"')


def test_three_text_columns(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", ROWS)
    refused(lambda: load_task(path, text=("a", "b", "c")), "expected one column, or two")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, -1, 0], "expected whole numbers from 0 without gaps"),
        ([1, 2, 1, 2], "expected whole numbers from 0 without gaps"),
        ([0, None, 1, 0], "row 2: no label (None)"),
        ([0, float("nan"), 1, 0], "row 2: no label (nan)"),
        ([0, [1], 1, 0], "row 2: label [1]"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, says):
    path = jsonl(tmp_path / "x.jsonl", [{"sentence": "a", "label": label} for label in labels])
    refused(lambda: load_task(path), says)


def test_evaluation_label_outside_the_classes(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "test.jsonl", [{"sentence": "x", "label": 2}])
    refused(lambda: load_task(tmp_path), "test.jsonl, row 1: label 2 is outside the 2 classes", "one of 0, 1")


def test_unreadable_lines_have_numbers(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"sentence": "a", "label": 0}\n\n{"sentence": "b", "la\n')
    refused(lambda: load_task(path), "line 3", "is not JSON")
    path.write_text('{"sentence": "a", "label": 0}\n[1]\n')
    refused(lambda: load_task(path), "line 2", "is no object")
    path.write_bytes(b'{"sentence": "a", "label": 0}\n{"sentence": "\xff"}\n')
    refused(lambda: load_task(path), "line 2", "UTF-8")
    csv = tmp_path / "x.csv"
    csv.write_text("sentence,label\na,0\nb, c,1\n")
    refused(lambda: load_task(csv), "line 3", "expected 2 fields")
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"sentence": "a", "label": 0}\n' * 1000)[:-20])
    refused(lambda: load_task(packed), "not a whole gzip file")


def test_other_endings_and_incomplete_folders(tmp_path):
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"")
    refused(lambda: load_task(path), "ends in .xlsx", ".jsonl.gz")
    jsonl(tmp_path / "train.jsonl", ROWS)
    refused(lambda: load_task(tmp_path), "expected train.* and validation.*")
    jsonl(tmp_path / "test.jsonl", ROWS)
    jsonl(tmp_path / "train.json", ROWS)
    refused(lambda: load_task(tmp_path), "expected one train file")


def test_text_that_is_no_string(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"sentence": None, "label": 0}])
    refused(lambda: load_task(path), "row 1: sentence = None: expected a string")


def test_hold_out_is_stratified_and_seeded():
    rows = [{"sentence": str(n), "label": int(n % 10 == 0)} for n in range(100)]
    train, dev = hold_out(rows, 0.2, seed=1)
    assert len(train) == 80 and sum(row["label"] for row in dev) == 2
    assert (train, dev) == hold_out(rows, 0.2, seed=1) and dev != hold_out(rows, 0.2, seed=2)[1]
    assert sorted(map(str, train + dev)) == sorted(map(str, rows))
    assert hold_out(rows, 0.0, seed=1) == (rows, [])
    assert len(hold_out([{"label": n / 7} for n in range(50)], 0.1, seed=0)[1]) == 5  # a regression is one group
    refused(lambda: hold_out(rows, 1.0, 0), "fraction to hold out = 1.0")


def test_glue_rows_as_they_are(shared):
    mnli = load_task(shared / "data" / "mnli", rows=50)
    assert mnli.text == ("premise", "hypothesis") and mnli.num_labels == 3 and len(mnli.train) == 50
    assert load_task(shared / "data" / "stsb", rows=50).regression


# -- tasks by name -----------------------------------------------------------------------------------------


def folder_of(path, name, rows, **parts):
    folder = path / name
    folder.mkdir()
    for part, some in ({"train": rows, "validation": rows[:4]} | parts).items():
        jsonl(folder / f"{part}.jsonl", some)
    return folder


PAIRS = [{"sentence1": f"one {n}", "sentence2": "", "label": n % 2, "idx": n} for n in range(8)]


def test_a_known_name_brings_its_columns_classes_and_metrics(tmp_path):
    unlabelled = [{**row, "label": -1} for row in PAIRS]
    folder = folder_of(tmp_path, "mrpc", PAIRS, test=unlabelled)
    by_path = load_task(folder)
    assert by_path == load_task(str(folder)) and by_path.source == str(folder.resolve())
    assert by_path.classes == ("not_equivalent", "equivalent") and by_path.metrics == ("accuracy", "f1")
    assert by_path.text == ("sentence1", "sentence2") and by_path.train[0]["sentence2"] == ""
    assert load_task(folder, rows=3).train != PAIRS
    other = tmp_path / "of another name"
    folder.rename(other)
    assert load_task(other).classes == ("0", "1")


def test_labels_of_a_known_task_may_be_names(tmp_path):
    rows = [{**row, "label": ["entailment", "not_entailment"][row["label"]]} for row in PAIRS]
    assert [row["label"] for row in load_task(folder_of(tmp_path, "rte", rows)).train] == [0, 1] * 4


def test_a_known_task_need_not_show_every_class_in_a_sample(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": 2}] * 4
    assert load_task(folder_of(tmp_path, "mnli", rows)).num_labels == 3


def test_similarity_is_a_regression_even_with_whole_numbers(tmp_path):
    rows = [{**row, "label": n % 6} for n, row in enumerate(PAIRS)]
    task = load_task(folder_of(tmp_path, "stsb", rows))
    assert task.regression and task.num_labels == 1 and task.metrics == ("pearson", "spearman")
    assert all(isinstance(row["label"], float) for row in task.train)


def test_both_sets_of_mnli(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": n % 3} for n in range(9)]
    parts = {"validation_matched": rows[:3], "validation_mismatched": rows[:5]}
    folder = folder_of(tmp_path, "mnli", rows, **parts)
    (folder / "validation.jsonl").unlink()
    matched, mismatched = load_task(folder).evaluation_tasks()
    assert (matched.name, mismatched.name) == ("mnli", "mnli-mismatched")
    assert len(matched.evaluation) == 3 and len(mismatched.evaluation) == 5 and mismatched.train == matched.train


@pytest.mark.parametrize(
    ("name", "labels", "says"),
    [
        ("rte", [0, 1, -1], "row 3: label -1 is outside the 2 classes"),
        ("rte", [0, 1, 2], "row 3: label 2 is outside the 2 classes"),
        ("rte", ["entailment", "entails"], "row 2: label 'entails' is outside"),
        ("rte", [0, None], "row 2: no label (None)"),
        ("rte", [0, 0.5], "row 2: label 0.5 is outside"),
        ("stsb", [0.5, "high"], "row 2: label 'high': expected a number"),
        ("stsb", [0.5, -1.0], "row 2: label -1.0 is out of range: expected 0 to 5"),
        ("stsb", [0.5, 5.5], "row 2: label 5.5 is out of range"),
        ("stsb", [0.5, float("nan")], "row 2: no label (nan)"),
    ],
)
def test_labels_that_a_known_task_has_not(tmp_path, name, labels, says):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in labels]
    refused(lambda: load_task(folder_of(tmp_path, name, rows)), "train.jsonl", says)


def test_what_does_not_fit_a_known_task(tmp_path):
    folder = folder_of(tmp_path, "subj", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    refused(lambda: load_task(folder), "expected train.* and test.*")  # Subj is judged on its test set
    (folder / "validation.jsonl").rename(folder / "test.jsonl")
    refused(lambda: load_task(folder), "Column 'sentence' is not known")
    assert load_task(folder, text="text").classes == ("0", "1")  # text= sets the table aside
    refused(lambda: load_task("sst"), "Task 'sst' is not known", "sst2", "owner/name")
    with pytest.raises(OSError, match=r"nyu-mll/glue \(rte\) could not be loaded.*Without network, give a folder"):
        load_task("rte")
    with pytest.raises(OSError, match="Data set nobody/nothing could not be loaded"):
        load_task("nobody/nothing")


def test_every_shared_task_loads_by_its_name(shared):
    from adamix_lab.tasks.tasks import PAPER_TASKS

    sizes = {"cola": 1043, "sst2": 872, "mrpc": 408, "qqp": 1000, "stsb": 1500, "mnli": 9815, "qnli": 5463,
             "rte": 277, "subj": 2000, "mpqa": 2000}  # fmt: skip
    assert sizes.keys() == PAPER_TASKS.keys()
    for name in sorted(sizes.keys() - {"sst2", "mnli", "qnli"}):  # the large ones take seconds
        task = load_task(shared / "data" / name, rows=20)
        assert len(task.evaluation) == sizes[name] and len(task.train) == 20
    assert any(not row["sentence"].strip() for row in load_task(shared / "data" / "mpqa").train)
