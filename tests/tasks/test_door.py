"""What `load_task` takes, what it says of it, and what it refuses: sources x kinds, and files as people have them."""

import csv
import gzip
import json
import random

import pytest

from adamix_lab.core.errors import LabError
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task

WORDS = ["no", "yes", "perhaps"]
ODD = ["01", "1", "1_0", "10", "NA", "none"]  # names, every one


def rows_of(kind, count=24):
    """Rows of a kind of task; of several labels and several numbers as lists."""
    made = []
    for n in range(count):
        label = {
            "names": WORDS[n % 3],
            "odd names": ODD[n % 6],
            "class ids": n % 3,
            "ids as floats": float(n % 3),
            "true or false": n % 2 == 0,
            "numbers": n / 7,
            "several labels": [w for i, w in enumerate(WORDS) if (n + i) % 3],
            "zeros and ones": [n % 2, (n + 1) % 2, n % 3 % 2],
            "several numbers": [n / 7, -n / 3],
            "word by word": ["O", "B", "O"],
            "spans": {"text": ["b"], "answer_start": [2]},
            "texts": None,
        }[kind]
        text = ["a", "b", str(n)] if kind == "word by word" else f"sentence {n}, of some words"
        made.append({"source": text, "target": text} if kind == "texts" else {"text": text, "label": label, "id": n})
    return made


KINDS = ["names", "odd names", "class ids", "ids as floats", "true or false", "numbers", "several labels",
         "zeros and ones", "several numbers", "word by word", "spans", "texts"]  # fmt: skip


def delimited(path, rows, separator, head="", encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        file.write(head)
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def array(path, rows):
    path.write_text(json.dumps(rows, indent=1))
    return path


def folder(path, rows):
    path.mkdir()
    lines(path / "TRAIN.JSONL", rows)
    lines(path / "validation.json.gz", rows)
    return path


def parquet(path, rows):
    import pandas

    pandas.DataFrame(rows).to_parquet(path)
    return path


def dataset(path, rows):
    import datasets

    return datasets.Dataset.from_list(rows)


def dataset_dict(path, rows):
    import datasets

    return datasets.DatasetDict(train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows))


def frame(path, rows):
    import pandas

    return pandas.DataFrame(rows, index=range(100, 100 + len(rows)))


SOURCES = {
    "CSV": lambda path, rows: delimited(path / "a.csv", rows, ","),
    "CSV of Excel (`;`, `sep=`, UTF-16)": lambda path, rows: delimited(path / "a.CSV", rows, ";", "sep=;\n", "utf-16"),
    "TSV": lambda path, rows: delimited(path / "a.tsv", rows, "\t"),
    "JSON lines, gzipped": lambda path, rows: lines(path / "a.jsonl.gz", rows),
    "JSON array": lambda path, rows: array(path / "a.json", rows),
    "Parquet": lambda path, rows: parquet(path / "a.parquet", rows),
    "folder": lambda path, rows: folder(path / "a", rows),
    "`datasets.Dataset`": dataset,
    "`datasets.DatasetDict`": dataset_dict,
    "pandas frame": frame,
    "list of dicts": lambda path, rows: rows,
}


def outcome(source, path, kind):
    """What `load_task` makes of a source: the kind it takes it for, or that it refuses."""
    given = source(path, rows_of(kind))
    try:
        task = load_task(given)
    except ValueError as error:
        assert str(error).count("expected") or "not known" in str(error), error
        return "refused"
    return f"{len(task.classes)} {task.kind}" if task.classes else str(task.kind)


def table(tmp_path):
    """Sources x kinds x outcome, as `docs/data.md` shows it."""
    made = ["| | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for n, (name, source) in enumerate(SOURCES.items()):
        cells = []
        for kind in KINDS:
            place = tmp_path / f"{n}-{kind}"
            place.mkdir()
            cells.append(outcome(source, place, kind))
        made.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(made)


def test_sources_by_kinds(tmp_path, pytestconfig):
    found = table(tmp_path)
    assert found in (pytestconfig.rootpath / "docs" / "data.md").read_text(encoding="utf-8"), f"\n{found}"


@pytest.mark.parametrize("kind", ["names", "odd names", "numbers"])
def test_every_source_gives_the_same_rows(tmp_path, kind):
    """The same subset, wrong labels and slice, with and without `datasets`."""
    tasks = []
    options = {} if kind == "numbers" else {"label_noise": 0.25}
    for n, (name, source) in enumerate(SOURCES.items()):
        if name in ("folder", "`datasets.DatasetDict`"):
            continue  # their evaluation is a part of its own
        place = tmp_path / str(n)
        place.mkdir()
        tasks.append(load_task(source(place, rows_of(kind)), rows=12, seed=3, **options))
    drop = [[{k: v for k, v in row.items() if k != "id"} for row in task.train] for task in tasks]
    assert all(some == drop[0] for some in drop) and len(drop[0]) == 12
    assert all(task.classes == tasks[0].classes for task in tasks)
    if kind == "names":
        counts = [sum(row["true_label"] == n for row in drop[0]) for n in range(3)]
        wrong = [sum(row["true_label"] == n != row["label"] for row in drop[0]) for n in range(3)]
        assert max(counts) - min(counts) <= 1 and wrong == [1, 1, 1]
        assert "Labels made wrong, of rows to train on: 3 (seed 3)" in str(tasks[0].report)
        assert tasks[0].options == {"rows": 12, "seed": 3, "label_noise": 0.25}
        assert not any("true_label" in row for row in tasks[0].evaluation)


def refused(call, *says):
    with pytest.raises(ValueError) as error:
        call()
    for part in says:
        assert part in str(error.value), str(error.value)


def written(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


# -- files ---------------------------------------------------------------------------------------------------


def test_lone_quotes_of_a_tsv_are_text_and_whole_ones_are_not(tmp_path):
    lone = written(tmp_path / "a.tsv", 'text\tlabel\r\n"one\t0\r\ntwo"\t1\r\n"three"\t0\r\n\r\n"four\t1\r\n')
    task = load_task(lone)
    texts = {row["text"] for row in (*task.train, *task.evaluation)}
    assert texts == {'"one', 'two"', '"three"', '"four'}
    assert "line 2 has one that opens a field" in str(task.report) and "passed over: 1" in str(task.report)
    whole = written(tmp_path / "b.tsv", 'text\tlabel\n"a ""b""\tc"\t0\nsaid "so"\t1\n"d"\t0\n"e"\t1\n')
    task = load_task(whole)
    assert {row["text"] for row in (*task.train, *task.evaluation)} == {'a "b"\tc', 'said "so"', "d", "e"}
    spanning = written(tmp_path / "c.tsv", 'text\tlabel\n"one\ntwo"\t1\nthree\t0\n')
    refused(lambda: load_task(spanning), "line 2: expected 2 fields", "found 1", "JSON lines, not TSV")


def test_quotes_of_a_csv_swallow_no_rows(tmp_path):
    for n, body in enumerate(('"one,1\ntwo,0\n"three,1\nfour,0\n', 'zero,0\n"one,1\ntwo,0\n', 'a,0\n"b" c,1\n')):
        refused(
            lambda n=n, body=body: load_task(written(tmp_path / f"{n}.csv", "text,label\n" + body)),
            ", line ",
            "not CSV",
        )
    spans = written(tmp_path / "spans.csv", 'text,label\n"one\nand, more",1\ntwo,0\nthree,1\nfour,0\n')
    task = load_task(spans)
    assert len(task.train) + len(task.evaluation) == 4
    assert "4 rows in 6 lines" in str(task.report) and "span lines: 1 (the first begins at line 2)" in str(task.report)


def test_names_that_stand_twice(tmp_path):
    refused(
        lambda: load_task(written(tmp_path / "a.csv", "text,label,text\na,0,b\n")), "line 1: column 'text' stands twice"
    )
    refused(lambda: load_task(written(tmp_path / "a.tsv", "label\tlabel\n0\t1\n")), "column 'label' stands twice")
    body = '{"text": "a", "label": 0}\n{"text": "b", "label": 1, "label": 0}\n'
    refused(lambda: load_task(written(tmp_path / "a.jsonl", body)), "line 2: key 'label' stands twice")
    refused(lambda: load_task(written(tmp_path / "a.json", '[{"text": "a", "text": "b"}]')), "key 'text' stands twice")
    import pandas

    twice = pandas.DataFrame([["a", 0, 1]], columns=["text", "label", "label"])
    refused(lambda: load_task(twice), "column 'label' stands twice")
    unnamed = load_task(
        written(tmp_path / "b.csv", ",text,label,,\n" + "0,a,0,,\n1,b,1,,\n" * 3)
    )  # as Excel pads tables
    assert unnamed.classes == ("0", "1")
    assert "one without a name" in str(unnamed.report)


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.CSV", "text,label\n", "utf-8-sig"),
        ("b.csv", "text;label\n", "utf-16-le-mark"),
        ("c.csv", '"sep=|"\r\ntext|label\r\n', "utf-8"),
        ("d.csv", "text\tlabel\n", "utf-16"),
        ("e.TSV", "text;label\r", "utf-8"),
    ],
)
def test_files_as_windows_writes_them(tmp_path, name, content, encoding):
    mark = next(m for m in ";|\t," if m in content.splitlines()[-1])
    end = content[-2:] if content.endswith("\r\n") else content[-1]
    body = content + "".join(f"a text {n}{mark}{'ja' if n % 2 else 'nein'}{end}" for n in range(6))
    if encoding == "utf-16-le-mark":
        (tmp_path / name).write_bytes(b"\xff\xfe" + body.encode("utf-16-le"))
    else:
        written(tmp_path / name, body, encoding)
    task = load_task(tmp_path / name)
    assert task.classes == ("ja", "nein") and len(task.train) + len(task.evaluation) == 6
    assert {row["text"] for row in task.evaluation} <= {f"a text {n}" for n in range(6)}


def test_other_encodings_are_named(tmp_path):
    refused(lambda: load_task(written(tmp_path / "a.csv", "text,label\n", "utf-16-le")), "a.csv, line 1", "zero byte")
    refused(lambda: load_task(written(tmp_path / "b.csv", "text,label\nä,0\n", "cp1252")), "b.csv, line 2", "UTF-8")


def test_long_fields_leave_the_limit_as_it_was(tmp_path):
    before = csv.field_size_limit()
    task = load_task(
        written(tmp_path / "a.tsv", "text\tlabel\n" + f'"{"word " * 40000}"\t0\n{"word " * 40000}\t1\n' * 3)
    )
    assert len(task.train) + len(task.evaluation) == 6 and csv.field_size_limit() == before
    assert {len(row["text"]) for row in task.train} == {200000}


def test_json_that_is_neither_lines_nor_an_array(tmp_path):
    refused(
        lambda: load_task(written(tmp_path / "a.json", '[\n{"text": "a"},\n]')), "line 3", "is not JSON", "one array"
    )
    refused(lambda: load_task(written(tmp_path / "b.json", '[{"text": "a", "label": 1}, 3]')), "row 2: 3 is no object")
    columns = '{"text": {"0": "a"}, "label": {"0": 1}}'  # pandas' to_json as it comes
    refused(lambda: load_task(written(tmp_path / "c.json", columns)), "expected a string")


def test_parquet_brings_class_names_and_loses_nothing(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "0"])})
    rows = [{"text": f"r{n}", "label": n % 2} for n in range(10)]
    data = datasets.Dataset.from_list(rows, features=features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    for task in (load_task(tmp_path / "a.parquet"), load_task(data)):
        assert task.classes == ("1", "0")  # number 0 is the class called "1"
        assert all(row["label"] == int(row["text"][1:]) % 2 for row in task.train)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    refused(lambda: load_task(tmp_path / "b.parquet"), "not a whole Parquet file")


# -- memory --------------------------------------------------------------------------------------------------


def test_what_is_missing_in_a_frame_is_refused_with_its_row():
    import numpy
    import pandas

    for lost in (float("nan"), None, pandas.NA, numpy.float32("nan")):
        labels = pandas.DataFrame({"text": ["a", "b", "c"], "label": pandas.Series([0, 1, lost], dtype=object)})
        refused(lambda f=labels: load_task(f), "row 3: no label")
        texts = pandas.DataFrame({"text": ["a", lost, "c"], "label": [0, 1, 0]})
        refused(lambda f=texts: load_task(f), "row 2: text = ", "expected a string")


def test_values_of_numpy_and_pandas_become_plain():
    import numpy
    import pandas

    frame = pandas.DataFrame(
        {"text": pandas.Categorical(["a", "b"] * 4), "label": numpy.arange(8, dtype=numpy.int8) % 2}
    )
    rows = [{"text": numpy.str_("a"), "label": numpy.bool_(n % 2)} for n in range(8)]
    for task in (load_task(frame), load_task(rows), Task("x", rows, rows, ("text",), classes=("a", "b"))):
        assert {type(v) for row in (*task.train, *task.evaluation) for v in row.values()} <= {str, int, bool}
    given = [{"text": "a", "label": n % 2} for n in range(8)]
    assert Task("x", given, given, ("text",), classes=("a", "b")).train is given  # nothing is copied without need
    load_task(given)
    assert given[0] == {"text": "a", "label": 0}  # nor changed


def test_splits_that_number_classes_otherwise_are_refused(tmp_path):
    import datasets

    def split(names, labels):
        kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        table = {"text": [f"{names[0]} {n}" for n in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(table, features=kinds)

    train, turned = split(["neg", "pos"], [0, 1] * 4), split(["pos", "neg"], [0, 1] * 4)
    says = "numbers its classes pos, neg: expected neg, pos"
    refused(lambda: load_task(datasets.DatasetDict(train=train, validation=turned)), says)
    train.to_parquet(tmp_path / "train.parquet")
    turned.to_parquet(tmp_path / "validation.parquet")
    refused(lambda: load_task(tmp_path), says)
    aligned = turned.align_labels_with_mapping({"neg": 0, "pos": 1}, "label")
    task = load_task(datasets.DatasetDict(train=train, validation=aligned))
    assert [task.classes[row["label"]] for row in task.evaluation[:2]] == ["pos", "neg"]
    refused(lambda: load_task(split(["neg", "pos"], [0] * 8)), "one class only, 'neg' (8 rows)")  # a sorted head
    shouted = train.with_transform(lambda rows: {**rows, "text": [text.upper() for text in rows["text"]]})
    refused(lambda: load_task(shouted), "Apply it with .map")


def test_files_that_are_not_there_are_not_sought_on_the_hub():
    for name in ("data/absent.csv", "data/absent.JSONL", "absent.parquet"):
        with pytest.raises(FileNotFoundError, match="is not there: expected a folder"):
            load_task(name)
    half = [{"text": "fine \ud83d", "label": n % 2} for n in range(8)]
    refused(lambda: load_task(half), "row 1: text", "holds half a character")


def test_what_is_no_table():
    import datasets

    for given in (["a", "b"], 3, {"text": ["a"]}, [], datasets.Dataset.from_dict({"text": [], "label": []})):
        refused(lambda g=given: load_task(g), "expected" if not isinstance(given, dict) else "lacks")
    only = datasets.DatasetDict(train=datasets.Dataset.from_list(rows_of("names")))
    refused(lambda: load_task(only), "lacks validation or test", "one table")


# -- labels --------------------------------------------------------------------------------------------------


def table_of(labels, **more):
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "1", "1.0"], ("01", "1", "1.0")),
        (["1e3", "10", "1e3", "10"], ("10", "1e3")),
        (["+1", "-1"], ("+1", "-1")),
        (["٣", "3"], ("3", "٣")),  # int() takes both for 3
        (["NA", "no"], ("NA", "no")),
        (["inf", "infinity"], ("inf", "infinity")),
        (["0.0", "1", "2.00"], ("0", "1", "2")),
        ([0.0, 1.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["True", "False"], ("False", "True")),
        ([str(n) for n in range(12)], tuple(str(n) for n in range(12))),
        (["-0", "0"], ("-0", "0")),
        ([" yes", "no "], ("no", "yes")),
    ],
)
def test_names_and_numbers_of_classes(labels, classes):
    task = load_task(table_of(labels * 4))
    assert task.classes == classes and task.kind == "classes"
    shown = {task.classes[row["label"]] for row in task.train}
    assert shown == set(classes)
    for row in task.train:
        given = labels[int(row["text"].split()[1]) % len(labels)]
        kept = task.classes[row["label"]]
        assert kept == str(given).strip() or float(kept) == float(given)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["pos"] * 4, "one class only, 'pos' (4 rows)"),
        ([1, 1], "whole numbers from 0 without gaps"),
        ([0, 0], "one class only"),
        ([1, 2, 3, 4, 5], 'kind="classes"'),
        (["0", "1", "NA"], "row 3: label 'NA'"),
        (["0.5", "1.5", "?"], "row 3: label '?'"),
        (["1.5", "2.0", "A"], "row 3: label 'A'"),
        (["yes", "no", "nan"], "row 3: no label ('nan')"),
        (["yes", "no", "  "], "row 3: no label"),
        ([0, "1", 1], "row 2: label '1': expected a number"),
        ([True, 1], "row 2: label 1: expected true or false"),
        ([0, 1, [1]], "row 3: label [1]"),
        ([0.5, float("inf")], "row 2: no label (inf)"),
        (["0,5", "1,0", "2,5"], "expected decimal points. Write 0.5"),
        (["1,5", "2", "0,5", "3"], "expected decimal points. Write 0.5"),
        (["1", "2", "1,2"], "'1,2', several in one"),
        (["joy", "fear", "joy|fear"], "'joy|fear', several in one"),
        (["['a']", "['b']"], "several in one"),
        ([["a"], ["b", 3]], "expected lists of names, or of numbers"),
        ([[0.5], [0.5, 1]], "lists of numbers of several lengths"),
        ([[0.5], [1.5]], "labels are lists of one"),
        ([[[0, 1], [2, 3]], [[1, 1], [0, 0]]], "holds [0, 1]: expected names or numbers"),
        ([["a", {"b": 1}], ["c", "d"]], "expected lists of names, or of numbers"),
        ([[0, 5], [1]], "without gaps"),
        ([{"a": 1}, {"a": 2}], "row 1: label {'a': 1}"),
        (["0 1 1", "1 0 0"], "several in one"),
        (['"pos"', '"neg"'], "labels in quotes"),
        (["'1'", "'0'"], "labels in quotes"),
        ([["1", "0"], ["0", "0"]], "expected 0 and 1 as numbers"),
        ([[0, 1, 2], [2, 2, 0], [1, 1, 2]], "row 2: label [2, 2, 0] names a class twice"),
        ([["a", "b"], ["a", "a "]], "row 2: label ['a', 'a'] names a class twice"),
        ([["a"], ["b", None]], "row 2: no label (['b', None])"),
        ([[0.5, 1.5], [None, 2]], "row 2: no label ([None, 2])"),
    ],
)
def test_labels_that_are_refused(labels, says):
    refused(lambda: load_task(table_of(labels)), says)


def test_a_number_is_one_class_in_either_type():
    mixed = load_task(table_of([1, 2, 1.0, 2.0] * 3), kind="classes")
    assert mixed.classes == ("1", "2")
    splits = {"train": table_of([1, 2] * 4), "test": table_of([2.0, 1.0])}  # pandas, where a label had been missing
    assert [row["label"] for row in load_task(splits, kind="classes").evaluation] == [1, 0]
    assert load_task(table_of(["1", "1.0"] * 4), kind="classes").classes == ("1", "1.0")  # names in writing


@pytest.mark.parametrize("columns", [([0, 1, 2, 1], [2, 0, 1, 0]), ([0, 1, 2, 0], [1, 2, 0, 2], [2, 0, 1, 1])])
def test_several_columns_of_whole_numbers_are_numbers(columns):
    names = "xyz"[: len(columns)]
    rows = [
        {"text": f"a {n}", **dict(zip(names, row, strict=True))} for n, row in enumerate(zip(*columns, strict=True))
    ]
    task = load_task(rows, label=tuple(names))
    assert task.kind == "numbers" and task.classes == tuple(names)
    assert sorted(row[task.label] for row in [*task.train, *task.evaluation]) == sorted(
        map(list, zip(*columns, strict=True))
    )
    refused(lambda: load_task(rows, label=tuple(names), kind="labels"), "expected 0 or 1 in each of several columns")


def test_the_kind_may_be_said():
    stars = load_task(table_of([1, 2, 5, 4, 3] * 4), kind="classes")
    assert stars.classes == ("1", "2", "3", "4", "5") and stars.options == {"kind": "classes"}
    assert load_task(table_of([1, 2, 5, 4, 3] * 4), kind="numbers").regression
    assert load_task(table_of(["1.5", "2.0", "A"] * 4), kind="classes").classes == ("1.5", "2.0", "A")
    refused(lambda: load_task(table_of(["a", "b"]), kind="numbers"), "row 1: label 'a': expected a number")
    refused(lambda: load_task(table_of(["a", "b"]), kind="labels"), "expected a list of labels")
    refused(lambda: load_task(table_of(["a", "b"]), kind="class"), "Did you mean 'classes'")


def test_true_and_false_of_several_labels_are_one_and_nought():
    task = load_task([{"text": "a", "x": n % 2 == 0, "y": n % 3 == 0} for n in range(12)], label=("x", "y"))
    assert task.kind == "labels" and task.train[0][task.label] == [1.0, 1.0]
    task = load_task(table_of([[True, False], [False, True]] * 6))
    assert task.kind == "labels" and task.train[0]["label"] == [1.0, 0.0]
    spaced = load_task(table_of([["a "], ["a", "b"]] * 6))
    assert spaced.classes == ("a", "b")
    refused(lambda: load_task(table_of([0, 1] * 4), label=("label", "label")), "column 'label' stands twice")
    pair = load_task([{"text": "a", "text_pair": "b", "label": n % 2} for n in range(8)])
    assert pair.text == ("text", "text_pair")


def test_several_columns_of_labels(tmp_path):
    rows = [{"text": f"r{n}", "toxic": n % 2, "rude": int(n % 3 == 0), "score": n / 3} for n in range(12)]
    path = delimited(tmp_path / "a.csv", rows, ",")
    task = load_task(path, label=("toxic", "rude"))
    assert (task.kind, task.classes, task.num_labels) == ("labels", ("toxic", "rude"), 2)
    assert all(row[task.label] == [int(row["toxic"]), int(row["rude"])] for row in task.train)
    numbers = load_task(path, label=("toxic", "score"))
    assert (numbers.kind, numbers.num_labels) == ("numbers", 2)
    refused(lambda: load_task(path, label=("toxic", "text")), "row 1: label 'r0': expected a number")
    lists = load_task([{"text": "a", "label": tags} for tags in [["x"], [], ["y", "x"], ["y"], ["x"]] * 2])
    assert lists.classes == ("x", "y") and [0.0, 0.0] in [row["label"] for row in lists.train]


# -- subsets and noise -----------------------------------------------------------------------------------------


def test_subsets_are_balanced_nested_and_seeded():
    rng = random.Random(0)
    rows = table_of([rng.choice("aaaaabbc") for _ in range(300)])
    whole = load_task(rows)
    shares = [sum(row["label"] == n for row in whole.train) / len(whole.train) for n in range(3)]
    drawn = {count: load_task(rows, rows=count).train for count in (20, 60, 120)}
    for count, train in drawn.items():
        for n, share in enumerate(shares):
            assert abs(sum(row["label"] == n for row in train) - share * count) <= 1
    texts = {count: {row["text"] for row in train} for count, train in drawn.items()}
    assert texts[20] < texts[60] < texts[120] and load_task(rows, rows=20, seed=1).train != drawn[20]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label_noise": 0.6}, "label_noise = 0.6: expected a share from 0 to 0.5"),
        ({"label_noise": -0.1}, "label_noise = -0.1"),
        ({"label_noise": float("nan")}, "label_noise = nan"),
        ({"rows": 0}, "rows = 0"),
        ({"rows": 100}, "rows = 100: expected at most the 18 that there are"),
        ({"rows": 2}, "rows = 2 leave no row of class"),
        ({"part": "fresh"}, "part = 'fresh' of one table"),
    ],
)
def test_subsets_that_are_refused(options, says):
    refused(lambda: load_task(table_of(["a", "b", "c"] * 8), **options), says)


def test_noise_needs_classes_and_a_free_column():
    refused(lambda: load_task(table_of([n / 3 for n in range(9)]), label_noise=0.2), "expected one class a row")
    rows = [{**row, "true_label": "a"} for row in table_of(["a", "b"] * 6)]
    refused(lambda: load_task(rows, label_noise=0.2), "true_label: expected rows without one")
    task = load_task(table_of(["a", "b", "c"] * 40), label_noise=0.5)
    wrong = [row for row in task.train if row["label"] != row["true_label"]]
    assert len(wrong) == len(task.train) // 2 and {row["label"] for row in wrong} == {0, 1, 2}


def test_a_report_says_what_misleads():
    rows = table_of(["a", "b"] * 6)
    report = str(load_task([*rows, *rows]).report)
    assert "Task 'mine': " in report and "unused: none" in report and "the labels are names" in report
    assert "whose text is trained on, too" in report
    report = str(load_task([{"text": "", "label": label} for label in ["Yes", "yes", "no"] * 4]).report)
    assert "Rows without any text: 12." in report and "differ in capitals alone: 'Yes', 'yes'." in report


def test_a_whole_number_that_no_float_holds_is_refused():
    rows = [{"text": f"a {n}", "label": float(n)} for n in range(20)]
    for kind in (None, "numbers"):
        with pytest.raises(LabError, match=r"Label 10000000000000000000\.\.\. is larger than any float"):
            load_task([*rows[:3], {"text": "b", "label": 10**400}, *rows[3:]], kind=kind)
