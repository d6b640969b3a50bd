"""How long a row may be: what the model says is what it takes, and one more token fails."""

import warnings

import close
import pytest
import tiny
import tiny_task
import torch
from torch import nn

from adamix_lab.analysis.posterior import fix_batches
from adamix_lab.baselines.making import baseline, linear_probe
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.models.model import attach
from adamix_lab.tasks.batches import TextsCut, allowed_length, positions
from adamix_lab.training.evaluation import evaluate, predict
from adamix_lab.training.train import train

SMALL = {
    "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 34,
}  # fmt: skip
TWO = {
    "vocab_size": 30, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 34,
}  # fmt: skip
DECODER = {"vocab_size": 30, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 34}
MODELS = {  # by class: what its positions are, the settings of a small one
    "BertForSequenceClassification": (34, SMALL),
    "RobertaForSequenceClassification": (32, SMALL),  # they begin behind the padding's
    "CamembertForSequenceClassification": (32, SMALL),
    "MPNetForSequenceClassification": (32, SMALL),
    "LongformerForSequenceClassification": (32, {**SMALL, "attention_window": [4]}),
    "ElectraForSequenceClassification": (34, SMALL),
    "DebertaForSequenceClassification": (34, SMALL),
    "NystromformerForSequenceClassification": (34, SMALL),
    "GPT2LMHeadModel": (34, DECODER),
    "OpenAIGPTLMHeadModel": (34, DECODER),
    "BartForConditionalGeneration": (34, TWO),
    "PegasusForConditionalGeneration": (34, TWO),
    "CLIPTextModel": (34, SMALL),
    "DebertaV2ForSequenceClassification": (None, {**SMALL, "relative_attention": True, "position_biased_input": False}),
    "T5ForConditionalGeneration": (None, {"vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1}),
    "XLNetForSequenceClassification": (None, {"vocab_size": 30, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}),
}


@pytest.mark.parametrize("name", MODELS)
def test_positions_are_what_the_model_takes(name):
    import transformers

    known, settings = MODELS[name]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings)).eval()
    assert positions(model) == known

    def run(tokens):
        ids = torch.full((1, tokens), 7)
        more = {"decoder_input_ids": ids[:, :2]} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)

    run(known or 600)
    if known:
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            run(known + 1)


def test_models_of_other_kinds():
    assert positions(nn.Linear(2, 2)) is None and positions(tiny.llama()) == 40  # rotary: what the configuration names
    made = baseline("prompt", tiny.bert(), tokens=8)
    assert positions(made.model) == 32  # virtual tokens take places, too


def test_a_length_is_asked_for_or_found():
    model, tokenizer = tiny.bert(), tiny_task.tokenizer()
    assert allowed_length(None, model, tokenizer) == 40 == allowed_length(40, model, tokenizer)
    assert allowed_length(None, nn.Linear(2, 2), tokenizer) == 128 and allowed_length(999, tiny.t5(), tokenizer) == 999
    tokenizer.model_max_length = 20
    assert allowed_length(None, model, tokenizer) == 20 and allowed_length(30, model, tokenizer) == 30
    for given in (41, 1024):
        with pytest.raises(ValueError, match=f"max_length = {given}: expected at most 40, the positions of BertFor"):
            allowed_length(given, model, tokenizer)
    with pytest.raises(ValueError, match="max_length = 0"):
        allowed_length(0, model, tokenizer)


@pytest.mark.parametrize("make", [tiny.bert, tiny.roberta])
def test_long_texts_are_cut_at_the_positions_with_one_warning(make):
    mixture, tokenizer = attach(make(), Bottleneck(4)), tiny_task.tokenizer()
    most = positions(mixture.model)
    word = tiny_task.task().train[0][tiny_task.task().text[0]].split()[0]
    texts = [" ".join([word] * number) for number in (1, 100, 60, most)]
    with pytest.warns(TextsCut, match=rf"3 of 4 rows are longer than max_length = {most} tokens") as caught:
        answers = predict(mixture, tokenizer, texts, batch_size=2)
    assert len(caught) == 1 and answers.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close.assert_close(predict(mixture, tokenizer, texts[:1]), answers[:1], close.REORDERED)


def test_a_batch_of_the_trainer_names_a_row_that_is_too_long():
    from adamix_lab.tasks.batches import ZEROS
    from adamix_lab.training.hf_trainer import batch_of

    row = {"input_ids": list(range(41)), "labels": 1}
    assert batch_of([row], ZEROS)["input_ids"].shape == (1, 41)
    with pytest.raises(ValueError, match="A row has 41 tokens: expected at most 40, the model's positions"):
        batch_of([row], ZEROS, most=positions(tiny.bert()))


def test_everyone_who_encodes_refuses_more_than_the_positions():
    mixture, task, tokenizer = tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer()
    most = positions(mixture.model)
    for call in (
        lambda: train(mixture, task, tokenizer, tiny_task.recipe(max_length=most + 1), progress=False),
        lambda: evaluate(mixture, task, tokenizer, max_length=most + 1),
        lambda: predict(mixture, tokenizer, ["a"], max_length=most + 1),
        lambda: fix_batches(mixture, task, tokenizer, max_length=most + 1),
        lambda: linear_probe(tiny.bert(), task, tokenizer, max_length=most + 1),
    ):
        with pytest.raises(
            ValueError, match=f"max_length = {most + 1}: expected at most {most}, the positions of Bert"
        ):
            call()
