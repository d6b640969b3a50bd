"""Models and data from the Hub, against a small Hub on loopback; each client is a process of its own.

(huggingface_hub reads HF_ENDPOINT and HF_HUB_OFFLINE once, when it is imported.)
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import commit_of, serve

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"sentence1": f"premise {n}", "sentence2": "" if n == 1 else f"claim {n}", "label": n % 2} for n in range(12)]

CLIENT = """
import json, sys
from adamix_lab import load_backbone, load_task
for kind, name, options in json.loads(sys.argv[1]):
    try:
        if kind == "model":
            model, tokenizer = load_backbone(name, **options)
            total = sum(float(p.detach().double().sum()) for p in model.parameters())
            out = {"sum": total, "tokens": len(tokenizer("w1 w2")["input_ids"])}
        else:
            task = load_task(name, **options)
            out = {"train": task.train, "evaluation": task.evaluation, "classes": task.classes, "text": task.text,
                   "metrics": task.metrics, "further": {k: len(v) for k, v in task.further.items()}}
    except Exception as error:
        out = {"error": type(error).__name__, "says": str(error)}
    print("RESULT" + json.dumps(out))
"""


def client(hub, home, *asked, offline=False):
    """What each load gave, in a fresh process with `home` as its cache."""
    proxies = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in proxies},
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)),
        "HF_DATASETS_OFFLINE": str(int(offline)), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    asked = [(kind, name, options[0] if options else {}) for kind, name, *options in asked]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(asked)], env=environment, capture_output=True, text=True, timeout=240
    )
    lines = [line.removeprefix("RESULT") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(lines) == len(asked), done.stderr[-3000:]
    return [json.loads(line) for line in lines]


def parquet(rows, names=None):
    datasets = pytest.importorskip("datasets")
    features = None
    if names:
        kinds = {key: datasets.Value("string") for key in rows[0] if key != "label"}
        features = datasets.Features({**kinds, "label": datasets.ClassLabel(names=names)})
    buffer = io.BytesIO()
    datasets.Dataset.from_list(rows, features=features).to_parquet(buffer)
    return buffer.getvalue()


def card(*configs, splits=("train", "validation")):
    lines = ["---", "configs:"]
    for config in configs:
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    return "\n".join([*lines, "---", ""]).encode()


@pytest.fixture(scope="module")
def glue():
    """Like nyu-mll/glue, in small: one configuration."""
    names = ["entailment", "not_entailment"]
    return {
        "README.md": card("rte"),
        "rte/train-00000-of-00001.parquet": parquet(ROWS, names),
        "rte/validation-00000-of-00001.parquet": parquet(ROWS[:4], names),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny
    import tiny_task

    folder = tmp_path_factory.mktemp("model")
    tiny.bert().save_pretrained(folder)
    tiny_task.tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_task_by_name_is_downloaded_once_and_found_offline(glue, tmp_path):
    with serve({"datasets/nyu-mll/glue": glue}) as hub:
        (online,) = client(hub, tmp_path, ("data", "rte"))
        assert online["classes"] == ["entailment", "not_entailment"] and online["text"] == ["sentence1", "sentence2"]
        assert online["train"] == ROWS and online["evaluation"] == ROWS[:4]  # the empty sentence, too
        fetched = [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".parquet")]
        assert len(fetched) == len(set(fetched)) == 2
        hub.asked.clear()
        offline, typo = client(hub, tmp_path, ("data", "rte"), ("data", "nyu-mll/gleu"), offline=True)
        assert offline == online
        assert typo["error"] == "OSError" and "nyu-mll/gleu" in typo["says"]
        assert "Check the name" in typo["says"] and "give a folder" in typo["says"]
        assert not hub.asked


@pytest.mark.slow
def test_data_sets_of_other_shapes(tmp_path):
    subj = [{"text": f"sentence {n}", "label": n % 2} for n in range(6)]
    own = [{"sentence": f"sentence {n}", "label": n % 3} for n in range(9)]
    pairs = [{"premise": "a", "hypothesis": "b", "label": n % 3} for n in range(6)]
    repositories = {
        "datasets/SetFit/subj": {
            "train.jsonl": "".join(json.dumps(row) + "\n" for row in subj).encode(),
            "test.jsonl": "".join(json.dumps(row) + "\n" for row in subj[:2]).encode(),
        },
        "datasets/some/table": {
            "data/train-00000-of-00001.parquet": parquet(own, ["bad", "fair", "good"]),
            "data/test-00000-of-00001.parquet": parquet(own[:3], ["bad", "fair", "good"]),
        },
        "datasets/nyu-mll/glue": {
            "README.md": card("mnli", splits=("train", "validation_matched", "validation_mismatched")),
            "mnli/train-0.parquet": parquet(pairs),
            "mnli/validation_matched-0.parquet": parquet(pairs[:3]),
            "mnli/validation_mismatched-0.parquet": parquet(pairs[:4]),
        },
        "datasets/some/script": {"script.py": b"raise SystemExit('a loading script ran')"},
    }
    with serve(repositories) as hub:
        asked = ("data", "subj"), ("data", "some/table"), ("data", "mnli"), ("data", "some/script"), ("data", "sst2")
        subj_task, table, mnli, script, config = client(hub, tmp_path, *asked)
    # the Hub's 0 is objective, the table's 0 is subjective
    assert [row["label"] for row in subj_task["train"]] == [1, 0] * 3
    assert subj_task["text"] == ["sentence"] and subj_task["classes"] == ["subjective", "objective"]
    assert table["classes"] == ["bad", "fair", "good"] and table["train"] == own and len(table["evaluation"]) == 3
    assert mnli["further"] == {"mismatched": 4} and len(mnli["evaluation"]) == 3
    assert script["error"] == "OSError" and "script" in script["says"]
    assert config["error"] == "OSError" and "sst2" in config["says"] and "mnli" in config["says"]


@pytest.mark.slow
def test_revisions_of_data(glue, tmp_path):
    commit, wrong = commit_of(glue), "0" * 40
    asked = [("data", "rte", {"revision": revision}) for revision in (commit, wrong, "no-such-branch")]
    with serve({"datasets/nyu-mll/glue": glue}) as hub:
        right, unknown, branch = client(hub, tmp_path, *asked)
        assert right["train"] == ROWS
        for refused in (unknown, branch):
            assert refused["error"] == "OSError" and "at revision" in refused["says"], refused
        right, unknown, branch = client(hub, tmp_path, *asked, offline=True)
        assert right["train"] == ROWS
        for refused in (unknown, branch):  # the cache holds another commit: it is not passed off as this one
            assert refused["error"] == "OSError" and commit in refused["says"], refused


@pytest.mark.slow
def test_a_data_download_that_breaks_off_leaves_nothing_broken(glue, tmp_path):
    path = "rte/train-00000-of-00001.parquet"
    with serve({"datasets/nyu-mll/glue": glue}) as hub:
        hub.cut = {path}
        (broken,) = client(hub, tmp_path, ("data", "rte"))
        assert broken["error"] == "OSError" and "run it again" in broken["says"], broken
        hub.cut = set()
        (whole,) = client(hub, tmp_path, ("data", "rte"))
        assert whole["train"] == ROWS
    missing = {name: data for name, data in glue.items() if name != path}
    with serve({"datasets/nyu-mll/glue": missing}) as hub:
        (lacking,) = client(hub, tmp_path / "other", ("data", "rte"))
        assert lacking["error"] == "OSError" and "rte" in lacking["says"]


@pytest.mark.slow
def test_a_model_is_downloaded_once_and_found_offline(model, tmp_path):
    with serve({"models/tiny/bert": model}) as hub:
        asked = [
            ("model", "tiny/bert", {"num_labels": 3}),
            ("model", "tiny/bert", {"num_labels": 3, "revision": commit_of(model)}),
            ("model", "tiny/bert", {"num_labels": 3, "revision": "no-such-branch"}),
            ("model", "tiny/bart", {}),
        ]
        first, pinned, revision, typo = client(hub, tmp_path, *asked)
        assert first["tokens"] == 4 and pinned == first
        assert revision["error"] == "OSError" and "no-such-branch" in revision["says"]
        assert typo["error"] == "OSError" and "'tiny/bart'" in typo["says"] and "hf download" in typo["says"]
        fetched = [path for method, path, _ in hub.asked if method == "GET" and path.endswith("model.safetensors")]
        assert len(fetched) == 1
        hub.asked.clear()
        again = client(hub, tmp_path, *asked, offline=True)
        assert again[:2] == [first, first] and not hub.asked
        assert {answer["error"] for answer in again[2:]} == {"OSError"}


@pytest.mark.slow
def test_a_model_download_that_breaks_off_or_lacks_a_file(model, tmp_path):
    lacking = {name: data for name, data in model.items() if name != "model.safetensors"}
    with serve({"models/tiny/bert": model, "models/tiny/lacking": lacking}) as hub:
        hub.cut = {"model.safetensors"}
        asked = ("model", "tiny/bert", {"num_labels": 3}), ("model", "tiny/lacking", {"num_labels": 3})
        broken, without = client(hub, tmp_path, *asked)
        assert broken["error"] == "OSError" and "tiny/bert" in broken["says"], broken
        assert without["error"] == "OSError" and "model.safetensors" in without["says"]
        half = [*tmp_path.glob("hub/*/snapshots/*/model.safetensors")]
        assert not half  # an unfinished file is never under its own name
        hub.cut = set()
        whole, _ = client(hub, tmp_path, *asked)
        assert "sum" in whole, whole
    (kept,) = tmp_path.glob("hub/*/snapshots/*/model.safetensors")
    assert kept.read_bytes() == model["model.safetensors"]
