import gzip
import json

import pytest

from adamix_lab.tasks import data_root, hold_out, load_task

ROWS = [{"sentence": f"sentence {n}", "label": n % 2, "aspect": "x"} for n in range(20)]


def jsonl(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_embedded_task():
    task = load_task("aspects")
    assert task.text == ("sentence",) and task.num_labels == 2 and task.name == "aspects"
    assert len(task.train) > 500 and len(task.evaluation) > 100
    assert "aspect" in task.train[0]  # other columns are kept for the lessons


def test_embedded_data_may_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAMIX_LAB_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(FileNotFoundError, match="Clone the repository, or set ADAMIX_LAB_DATA"):
        load_task("aspects")


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
    assert len(load_task(path, rows=1000).train) == 16


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
    path = tmp_path / "x.parquet"
    path.write_bytes(b"")
    refused(lambda: load_task(path), "ends in .parquet", ".jsonl.gz")
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
