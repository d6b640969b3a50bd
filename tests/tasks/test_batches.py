import warnings

import pytest
import tiny
import tiny_task
import torch

from adamix_lab.tasks.batches import (
    Batches,
    Padding,
    TextsCut,
    collate,
    encode,
    labelled,
    length,
    padding_of,
    sequential,
    tokenized,
)
from adamix_lab.tasks.tasks import Task

TASK = tiny_task.task()


def examples(rows=None):
    return encode(rows or TASK.train, TASK, tiny_task.tokenizer())


def test_encode_one_and_two_sentences():
    one = encode([{"sentence": "w0 w1", "label": 2}], TASK, tiny_task.tokenizer())[0]
    assert one["input_ids"].tolist() == [2, 4, 5, 3] and one["labels"].item() == 2
    pairs = Task("pairs", [], [], ("a", "b"), classes=("x", "y"))
    two = encode([{"a": "w0", "b": "w1"}], pairs, tiny_task.tokenizer())[0]
    assert two["input_ids"].tolist() == [2, 4, 3, 5, 3] and two["token_type_ids"].tolist() == [0, 0, 0, 1, 1]
    assert "labels" not in two  # rows to predict have none


def test_empty_sentences_survive():
    rows = [{"sentence": "", "label": 0}, {"sentence": "w1", "label": 1}]
    assert [length(e) for e in examples(rows)] == [2, 3]

    class Bare:  # as GPT-2's: nothing before, nothing after
        model_input_names = ("input_ids", "attention_mask")
        bos_token_id = 7

        def __call__(self, texts, **settings):
            return {"input_ids": [[1] * len(t) for t in texts], "attention_mask": [[1] * len(t) for t in texts]}

    empty = encode(rows, TASK, Bare())[0]
    assert empty["input_ids"].tolist() == [7] and empty["attention_mask"].tolist() == [1]


def test_cut_rows_are_counted():
    rows = [{"sentence": "w0 " * n, "label": 0} for n in (2, 4, 5, 9)]
    with pytest.warns(TextsCut, match=r"2 of 4 rows are longer than max_length = 6 tokens \(the longest has 11\)"):
        cut = encode(rows, TASK, tiny_task.tokenizer(), max_length=6)
    assert [length(e) for e in cut] == [4, 6, 6, 6]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(rows, TASK, tiny_task.tokenizer(), max_length=11)


def test_nothing_to_encode():
    with pytest.raises(ValueError, match="No rows to encode"):
        encode([], TASK, tiny_task.tokenizer())
    with pytest.raises(ValueError, match="max_length = 0"):
        encode(TASK.train, TASK, tiny_task.tokenizer(), max_length=0)


@pytest.mark.parametrize(
    ("row", "classes", "says"),
    [
        ({"text": "w0", "label": "pos"}, ("neg", "pos"), "Label 'pos' of task 'mine': expected a class number"),
        ({"text": "w0", "label": 1.0}, ("neg", "pos"), "expected a class number from 0 to 1"),
        ({"text": "w0", "label": None}, ("neg", "pos"), "expected a class number"),
        ({"text": "w0", "label": float("nan")}, (), "Label nan of task 'mine': expected a number"),
        ({"text": "w0", "label": "1.5"}, (), "expected a number"),
        ({"txt": "w0", "label": 1}, ("neg", "pos"), "Did you mean 'txt'?"),
        ({"text": None, "label": 1}, ("neg", "pos"), "text = None: expected a string"),
    ],
)
def test_rows_by_hand_that_do_not_fit_are_named(row, classes, says):
    with pytest.raises(ValueError) as error:
        encode([row], Task("mine", [], [], ("text",), classes=classes), tiny_task.tokenizer())
    assert says in str(error.value)


def test_tasks_by_hand():
    rows = [{"text": "w0", "label": True}, {"text": "w1", "label": False}]
    task = Task("mine", rows, rows, "text", classes=("neg", "pos"))
    found = encode(rows, task, tiny_task.tokenizer())
    assert [e["labels"].tolist() for e in labelled(found, task)] == [1, 0] and found[0]["labels"].dtype == torch.long
    bare = encode([{"text": "w0"}], task, tiny_task.tokenizer())
    with pytest.raises(ValueError, match="Row 1 of task 'mine' has no label"):
        labelled(bare, task)
    with pytest.raises(ValueError, match="the classes a, a: expected each name once"):
        Task("mine", rows, rows, ("text",), classes=("a", "a"))
    with pytest.raises(ValueError, match="train is a str: expected a list of dicts"):
        Task("mine", "rows", rows, ("text",), classes=("a", "b"))


def test_collate_pads_every_key():
    a = {"input_ids": torch.tensor([5, 6]), "attention_mask": torch.ones(2).long(), "labels": torch.tensor(1)}
    b = {"input_ids": torch.tensor([7]), "attention_mask": torch.ones(1).long(), "labels": torch.tensor(0)}
    batch = collate([a, b], Padding(9))
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]] and batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    states = collate([{"inputs_embeds": torch.ones(2, 3)}, {"inputs_embeds": torch.ones(4, 3)}])["inputs_embeds"]
    assert states.shape == (2, 4, 3) and states[0, 2:].abs().sum() == 0
    tokens = collate([{"labels": torch.tensor([1, 2])}, {"labels": torch.tensor([3])}])["labels"]
    assert tokens.tolist() == [[1, 2], [3, -100]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("token", ["[PAD]", "w3"])
def test_padding_is_the_tokenizers_own(side, token):
    tokenizer = tiny_task.tokenizer()
    tokenizer.padding_side, tokenizer.pad_token = side, token
    tokenizer._pad_token_type_id = 2
    texts = ["w1 w2 w4", "w5", "w6 w7"]
    theirs = tokenizer(texts, padding=True, return_tensors="pt")
    ours = collate(tokenized([texts], tokenizer, 128), padding_of(tokenizer))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def decoder_classifier(pad):
    """A tiny GPT-2 that answers at the last token that is not `pad`."""
    model = tiny.gpt2(cls="GPT2ForSequenceClassification", num_labels=3)
    model.config.pad_token_id = pad
    return model


def test_a_head_that_would_read_padding_is_refused():
    tokenizer = tiny_task.tokenizer()
    tokenizer.pad_token = "w3"
    assert padding_of(tokenizer, decoder_classifier(tokenizer.pad_token_id)) == (tokenizer.pad_token_id, "right", 0)
    for other in (0, None):
        with pytest.raises(ValueError, match=f"pad_token_id = {other}: expected the tokenizer's, 7"):
            padding_of(tokenizer, decoder_classifier(other))
    padding_of(tokenizer, tiny.bert())  # a mask is all that an encoder's head needs
    padding_of(tokenizer, tiny.gpt2())  # a language model answers at every token
    tokenizer.padding_side = "left"
    llama = tiny.llama(cls="LlamaForSequenceClassification")
    assert padding_of(tokenizer, llama).side == "left"  # the last token is never padding


@pytest.mark.parametrize("build", [tiny.bert, lambda: decoder_classifier(0)])
def test_padding_on_the_left_where_the_model_counts_it_or_reads_it(build):
    """BERT's head reads the first place, and GPT-2 counts positions from it: answers would depend on the neighbours."""
    tokenizer = tiny_task.tokenizer()
    tokenizer.padding_side = "left"
    with pytest.warns(UserWarning, match="padded on the right: .* would answer otherwise"):
        assert padding_of(tokenizer, build()).side == "right"
    assert padding_of(tokenizer, tiny.gpt2()).side == "left"  # a language model's texts are scored with masks


def test_batches_are_a_function_of_seed_and_epoch():
    rows = examples()
    batches = Batches(rows, 10, seed=3)
    torch.manual_seed(99)
    first = batches.epoch(0)
    torch.manual_seed(1)
    assert Batches(rows, 10, seed=3).epoch(0) == first
    assert batches.epoch(1) != first and Batches(rows, 10, seed=4).epoch(0) != first
    assert sorted(n for batch in first for n in batch) == list(range(len(rows)))
    assert len(batches) == len(first) == 10 and sorted(map(len, first)) == [6] + [10] * 9
    assert [batches.at(step) for step in (3, 13, 3)] == [first[3], batches.epoch(1)[3], first[3]]


def test_batches_are_bucketed_by_length():
    rows = examples()

    def padded(index_lists):
        return sum(len(batch) * max(length(rows[n]) for n in batch) for batch in index_lists)

    tokens = sum(map(length, rows))
    in_order = [list(range(n, min(n + 8, len(rows)))) for n in range(0, len(rows), 8)]
    assert padded(Batches(rows, 8).epoch(0)) < 1.1 * tokens < padded(in_order)


def test_sequential_gives_results_back_in_order():
    rows = examples()
    lengths = torch.zeros(len(rows), dtype=torch.long)
    widths = []
    for indices, batch in sequential(rows, 16):
        lengths[indices] = batch["attention_mask"].sum(-1)
        widths.append(batch["input_ids"].shape[1])
    assert lengths.tolist() == [length(e) for e in rows] and widths == sorted(widths, reverse=True)
    with pytest.raises(ValueError, match="batch_size = 0"):
        next(sequential(rows, 0))
