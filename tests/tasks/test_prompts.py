"""Templates, label words, and training on the logits of label words, on tiny random masked language models."""

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import merge
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import attach
from adamix_lab.models.saving import load
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.labels import PROMPTS, Prompt
from adamix_lab.tasks.prompts import PromptModel, load_prompted, prompt_encoder, word_ids
from adamix_lab.tasks.tasks import PAPER_TASKS, Task
from adamix_lab.training.evaluation import STRATEGIES, evaluate
from adamix_lab.training.report import save
from adamix_lab.training.train import train

PROMPT = Prompt("{first} w20 {mask} .", ("w0", "w4", "w8"))
PAIR = Prompt("{first} ? {mask} , {second}", ("w0", "w4"))


def tokenizer():
    """The tiny tokenizer, with a mask; words are split at spaces."""
    made = tiny_task.tokenizer()
    made.add_special_tokens({"mask_token": "[MASK]"})  # one more token than the tiny vocabulary's
    return made


def masked_lm(family):
    cls = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "distilbert": "DistilBertForMaskedLM"}[family]
    return getattr(tiny, family)(cls=cls)


def prompted(family, prompt=PROMPT):
    tokens = tokenizer()
    return PromptModel(masked_lm(family), word_ids(prompt, tokens), tokens.mask_token_id).eval(), tokens


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_logits_are_the_language_models_own_at_the_mask(family):
    model, tokens = prompted(family)
    task = tiny_task.task()
    examples = prompt_encoder(PROMPT)(task.evaluation[:5], task, tokens)
    for example in examples:
        inputs = {name: value[None] for name, value in example.items() if name in ("input_ids", "attention_mask")}
        (place,) = (example["input_ids"] == tokens.mask_token_id).nonzero()[:, 0].tolist()
        assert 0 < place < len(example["input_ids"]) - 1
        with torch.no_grad():
            whole = model.language_model(**inputs).logits[0, place]
            close.assert_close(model(**inputs).logits[0], whole[tokens.convert_tokens_to_ids(PROMPT.words)])


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)])
def test_routes_consistency_strategies_and_merging_work_on_label_words(family, adaptation, tmp_path):
    model, tokens = prompted(family)
    task, encoder = tiny_task.task(), prompt_encoder(PROMPT)
    share = "up" if isinstance(adaptation, Bottleneck) else "B"
    mixture = attach(model, adaptation, experts=3, share=share, blocks=(-2, -1))
    assert len(mixture.sites) == (2 if share == "up" else 4) and not mixture.head_paths
    before = evaluate(mixture, task, tokens, encoder=encoder)[0]
    recipe = tiny_task.recipe(steps=30, lr=2e-2, consistency=Consistency(1.0, views="shared_prefix"))
    history = train(mixture, task, tokens, recipe, progress=False, encoder=encoder)
    assert history.rows[-1]["consistency"] > 0
    names = [name for name in STRATEGIES if name in ("merged", "fixed", "random", "random-token", "ensemble")]
    results = evaluate(mixture, task, tokens, names, encoder=encoder)
    assert results[0].loss < before.loss
    merged = evaluate(merge(mixture), task, tokens, encoder=encoder)[0]
    close.assert_close(merged.log_probabilities, results[0].log_probabilities)
    save(mixture, tmp_path)
    again = evaluate(load(prompted(family)[0], tmp_path), task, tokens, encoder=encoder)[0]
    close.assert_close(again.log_probabilities, results[0].log_probabilities)


def pairs(rows=6):
    made = [{"a": f"w{n} w{n + 1}", "b": f"w{n + 9}" if n else "", "label": n % 2} for n in range(rows)]
    return Task("pairs", made, made, ("a", "b"), "label", ("no", "yes"))


def test_pairs_stand_around_the_mask():
    model, tokens = prompted("roberta", PAIR)
    examples = prompt_encoder(PAIR)(pairs().train, pairs(), tokens)
    assert tokens.decode(examples[1]["input_ids"]).split()[1:-1] == "w1 w2 [UNK] [MASK] [UNK] w10".split()
    assert torch.isfinite(model(input_ids=examples[1]["input_ids"][None]).logits).all()


def test_long_rows_lose_words_never_the_mask():
    tokens, task = tokenizer(), pairs()
    rows = [{"a": " ".join(["w9"] * 60), "b": "w1 w2 w3", "label": 0}, {"a": "w1", "b": "w2", "label": 1}]
    with pytest.warns(TextsCut, match="1 of 2 rows are longer than max_length = 16"):
        long, short = prompt_encoder(PAIR)(rows, task, tokens, 16)
    assert len(long["input_ids"]) <= 16 and (long["input_ids"] == tokens.mask_token_id).sum() == 1
    assert tokens.decode(long["input_ids"]).split()[-4:-1] == ["w1", "w2", "w3"]  # the longer sentence is cut
    assert len(short["input_ids"]) == 7
    with pytest.raises(ValueError, match="alone takes 5 tokens"):
        prompt_encoder(PAIR)(rows, task, tokens, 4)


def test_a_mask_in_the_text_is_no_second_mask():
    tokens, task = tokenizer(), tiny_task.task()
    (example,) = prompt_encoder(PROMPT)([{"sentence": "w1 [MASK] w2", "label": 0}], task, tokens)
    assert (example["input_ids"] == tokens.mask_token_id).sum() == 1
    model, _ = prompted("bert")
    with pytest.raises(ValueError, match=r"Rows hold \[0\] masks: expected one each"):
        model(input_ids=torch.tensor([[2, 5, 3]]))


@pytest.mark.parametrize(
    ("template", "words", "says"),
    [
        ("{first} It was .", ("a", "b"), "has 0 places for the mask"),
        ("{mask} {first} {mask}", ("a", "b"), "has 2 places for the mask"),
        ("It was {mask}", ("a", "b"), "expected {first} once"),
        ("{first} {other} {mask}", ("a", "b"), "nothing else"),
        ("{first} {mask}", ("a", "a"), "all different"),
        ("{first} {mask}", ("a",), "two or more"),
    ],
)
def test_templates_that_are_none(template, words, says):
    with pytest.raises(ValueError, match=says):
        Prompt(template, words)


def test_prompts_that_do_not_fit():
    tokens, task = tokenizer(), tiny_task.task()
    with pytest.raises(ValueError, match=r"Label word 'w1 w2' is 2 tokens here \(w1, w2\)"):
        word_ids(Prompt("{first} {mask}", ("w1 w2", "w3")), tokens)
    with pytest.raises(ValueError, match="Label word 'great' is 1 tokens here"):  # not in the vocabulary
        word_ids(Prompt("{first} {mask}", ("great", "w3")), tokens)
    with pytest.raises(ValueError, match=r"2 label words.*expected 3, one for each of good, bad, neither"):
        prompt_encoder(PAIR)(task.train, task, tokens)
    with pytest.raises(ValueError, match=r"expected {second} for pairs and only for them"):
        prompt_encoder(PAIR)(task.train, Task("x", [], [], ("sentence",), "label", ("a", "b")), tokens)


def test_the_papers_tasks_have_prompts_that_fit():
    assert PROMPTS.keys() == PAPER_TASKS.keys() - {"stsb"}
    for name, prompt in PROMPTS.items():
        prompt.check(Task(name, [], [], PAPER_TASKS[name].text, "label", PAPER_TASKS[name].classes))


def test_backbones_with_and_without_a_masked_head(tmp_path):
    tokens, task = tokenizer(), tiny_task.task()
    masked_lm("bert").save_pretrained(tmp_path / "with")
    tiny.bert().save_pretrained(tmp_path / "without")
    for name in ("with", "without"):
        tokens.save_pretrained(tmp_path / name)
    model, _ = load_prompted(str(tmp_path / "with"), PROMPT, task)
    assert model.num_labels == 3 and not model.training
    with pytest.raises(ValueError, match="holds no masked-LM head"):
        load_backbone(str(tmp_path / "without"), kind="masked")
