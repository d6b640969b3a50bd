"""Linearisation, loading and grouping of generation tasks; masked pairs; what does not fit is refused."""

import gzip
import json

import pytest
import tiny
import tiny_generation
import tiny_task
import torch

from adamix_lab.core.adaptations import LoRA
from adamix_lab.generation import tasks
from adamix_lab.generation.tasks import (
    GenerationTask,
    linearise_meaning,
    linearise_triples,
    load_generation_task,
    split_triple,
)
from adamix_lab.generation.training import check_decoder, encode_pairs, prompts
from adamix_lab.models.model import attach
from adamix_lab.tasks.batches import TextsCut, encode
from adamix_lab.tasks.tasks import hold_out
from adamix_lab.training.train import train

ROWS = {
    "e2e": [
        {"meaning_representation": "name[Aromi], familyFriendly[no]", "human_reference": "Aromi is  for adults. "},
        {"meaning_representation": "name[Aromi], familyFriendly[no]", "human_reference": "No children at Aromi."},
    ],
    "webnlg": [
        {
            "modified_triple_sets": {"mtriple_set": [["Aarhus | leader | Jacob", "Aarhus | area | 91.0"]]},
            "lex": {"text": ["Jacob leads Aarhus.", "wrong"], "comment": ["good", "toFix"]},
            "test_category": "unseen",
        }
    ],
    "dart": [
        {"tripleset": [["Mars Hill", "JOINED", "1973"]], "annotations": {"text": ["It joined in 1973.", "In 1973."]}},
        {"tripleset": [["Mars Hill", "JOINED", "1973"]], "annotations": {"text": ["Joined: 1973."]}},
    ],
    "plain": [{"source": "a b", "target": "c"}],
}
LINES = {
    "e2e": ("name : Aromi | family friendly : no", ("Aromi is for adults.", "No children at Aromi.")),
    "webnlg": ("Aarhus : leader : Jacob | Aarhus : area : 91.0", ("Jacob leads Aarhus.",)),
    "dart": ("Mars Hill : joined : 1973", ("It joined in 1973.", "In 1973.", "Joined: 1973.")),
    "plain": ("a b", ("c",)),
}


def write(folder, rows, parts=("train", "test")):
    for part in parts:
        with gzip.open(folder / f"{part}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_of_rows(kind, tmp_path):
    task = load_generation_task(write(tmp_path, ROWS[kind]), name=kind)
    source, references = LINES[kind]
    assert task.train == [{"source": source, "target": target} for target in references]
    assert task.sources == [source] and task.references == [references]  # equal sources are one
    assert task.evaluation == [{"source": source, "references": references}]


def test_lines_of_meanings_and_triples():
    assert linearise_meaning("name[The Eagle], priceRange[less than £20], customer rating[5 out of 5]") == (
        "name : The Eagle | price : less than £20 | customer rating : 5 out of 5"
    )
    assert linearise_triples([("A", "B_C", "D | E")]) == "A : B_C : D | E"
    assert split_triple("A | b | c | d") == ("A", "b", "c | d")
    for bad in ("", "The Eagle", "name[The Eagle], and so on", "name[The Eagle"):
        with pytest.raises(ValueError, match="expected attributes like name"):
            linearise_meaning(bad)
    with pytest.raises(ValueError, match="expected a subject, a relation and an object"):
        linearise_triples([("a", "b")])


def test_parts_samples_and_files_that_are_not_there(tmp_path):
    write(tmp_path, ROWS["e2e"], ("train", "validation"))
    assert len(load_generation_task(tmp_path, "validation", rows=1).train) == 1
    with pytest.raises(FileNotFoundError, match=r"expected train\.\* and test\.\*"):
        load_generation_task(tmp_path)
    with pytest.raises(ValueError, match="part 'dev' is not known"):
        load_generation_task(tmp_path, "dev")
    with pytest.raises(ValueError, match=r"'e2ee' is not known.*Did you mean 'e2e'.*Hub name owner/data"):
        load_generation_task("e2ee")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": "x", "label": 1}, "expected those of a generation task"),
        ({"meaning_representation": "Aromi", "human_reference": "x"}, "train, row 1.*is no row of 'e2e'"),
        ({"meaning_representation": None, "human_reference": "x"}, "train, row 1.*is no row of 'e2e'"),
        ({"modified_triple_sets": {}, "lex": {}}, "train, row 1.*is no row of 'webnlg'"),
        ({"source": "a", "target": "  "}, "holds 0 pairs to train on"),
    ],
)
def test_rows_that_do_not_fit(row, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_generation_task(write(tmp_path, [row]))


def test_the_hub_by_name(tmp_path, monkeypatch):
    """As the Hub's parquet branch lays it out: CONFIGURATION/PART/0000.parquet."""
    datasets = pytest.importorskip("datasets")
    for part in ("train", "test"):
        (tmp_path / "all" / part).mkdir(parents=True)
        datasets.Dataset.from_list(ROWS["dart"]).to_parquet(str(tmp_path / "all" / part / "0000.parquet"))
    monkeypatch.setitem(tasks.HUB, "dart", (str(tmp_path), "all"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = load_generation_task("dart")
    assert task.references == [LINES["dart"][1]]
    with pytest.raises(
        OSError, match=r"nobody/nothing could not be loaded.*Without network, give a folder with train.* and test"
    ):
        load_generation_task("nobody/nothing")


@pytest.mark.slow
def test_the_real_data_sets(shared):
    """The numbers that the data sets' own pages give."""
    expected = {"e2e_nlg": (42_061, 630, 4_693), "webnlg_2017": (18_025, 1_862, 4_928), "dart": (62_659, 4_159, 12_551)}
    for name, (train_pairs, sources, references) in expected.items():
        if not (shared / "data" / name).is_dir():
            pytest.skip(f"no {name} in {shared}")
        task = load_generation_task(shared / "data" / name)
        found = len(task.train), len(task.evaluation), sum(map(len, task.references))
        assert found == (train_pairs, sources, references), name


# -- pairs as examples -------------------------------------------------------------------------------------


def test_only_the_target_is_learned():
    task, tokenizer = tiny_generation.task(), tiny_generation.tokenizer()
    (example, *_), row = encode_pairs(task.train, task, tokenizer), task.train[0]
    ids, labels, end = example["input_ids"].tolist(), example["labels"].tolist(), tokenizer.eos_token_id
    first = ids.index(end) + 1
    assert tokenizer.decode(ids[: first - 1]) == row["source"]
    assert tokenizer.decode(ids[first:-1]) == " " + row["target"]
    assert ids[-1] == end and labels == [-100] * first + ids[first:]


def test_long_sources_are_cut_counted_and_said():
    task, tokenizer = tiny_generation.task(), tiny_generation.tokenizer()
    whole = encode_pairs(task.train, task, tokenizer)
    most = max(len(e["input_ids"]) for e in whole) - 2
    with pytest.warns(TextsCut, match=rf"of {len(whole)} sources and 0 targets were cut.*max_length = {most}"):
        cut = encode_pairs(task.train, task, tokenizer, most)
    for before, after in zip(whole, cut, strict=True):
        assert len(after["input_ids"]) <= most and len(after["input_ids"]) == len(after["labels"])
        learned = [e["labels"][e["labels"] != -100].tolist() for e in (before, after)]
        assert learned[0] == learned[1]  # the target stays whole
    with pytest.warns(TextsCut, match="16 targets were cut"):
        assert all(len(e["input_ids"]) == 3 for e in encode_pairs(task.train, task, tokenizer, 3))
    with pytest.warns(UserWarning, match="1 of 2 sources are longer than the 4 tokens"):
        ids = prompts(["name", "name : Blue Spice | area : riverside"], tokenizer, 4)
    assert [len(row) for row in ids] == [2, 4] and all(row[-1] == tokenizer.eos_token_id for row in ids)


def test_references_of_a_source_stay_together():
    rows = tiny_generation.pairs()
    rest, dev = hold_out(rows, 0.25, 0, "target", ("source",))
    assert len(dev) == 4 and len(rest) == 12
    assert not {row["source"] for row in rest} & {row["source"] for row in dev}


# -- what does not fit together ----------------------------------------------------------------------------


def test_a_generation_task_given_to_an_encoder():
    from adamix_lab.generation.training import train_generator

    task, mixture = tiny_generation.task(), tiny_task.mixture()
    with pytest.raises(ValueError, match="BertForSequenceClassification cannot write texts: expected a decoder"):
        train_generator(mixture, task, tiny_generation.tokenizer(), tiny_task.recipe())
    with pytest.raises(ValueError, match="BertLMHeadModel cannot write texts"):
        check_decoder(tiny.bert(cls="BertLMHeadModel"), 4)
    with pytest.raises(ValueError, match="'tiny' has texts to write: expected classes or numbers"):
        train(mixture, task, tiny_task.tokenizer(), tiny_task.recipe(), progress=False)


def test_a_task_of_classes_given_to_a_decoder():
    from adamix_lab.generation.training import train_generator

    mixture = attach(tiny_generation.decoder(), LoRA(2), 2)
    with pytest.raises(ValueError, match="GPT2LMHeadModel predicts the next token: expected a classification head"):
        train(mixture, tiny_task.task(), tiny_task.tokenizer(), tiny_task.recipe(), progress=False)
    with pytest.raises(ValueError, match="'tiny' has classes or numbers as labels: expected texts to write"):
        train_generator(mixture, tiny_task.task(), tiny_generation.tokenizer(), tiny_task.recipe(max_length=32))
    with pytest.raises(ValueError, match="128 tokens are asked for: expected at most 64, the positions"):
        train_generator(mixture, tiny_generation.task(), tiny_generation.tokenizer(), tiny_task.recipe(max_length=128))


def test_a_tokenizer_without_an_end():
    with pytest.raises(ValueError, match="has no end-of-text token"):
        encode_pairs(tiny_generation.task().train, tiny_generation.task(), tiny_task.tokenizer())


def test_a_generation_task_is_neither_classes_nor_regression():
    task = GenerationTask("x", [], [])
    assert task.generates and not task.regression and not tiny_task.task().generates
    assert encode(tiny_task.task().train[:1], tiny_task.task(), tiny_task.tokenizer())[0]["labels"] == torch.tensor(0)
