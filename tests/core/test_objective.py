"""The objective: task loss on the first view, consistency between the two, everything returned."""

from types import SimpleNamespace

import close
import pytest
import tiny
import torch
import torch.nn.functional as F

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError
from adamix_lab.core.objective import (
    IGNORED,
    Consistency,
    Objective,
    agreement,
    cross_entropy,
    mean_squared_difference,
    mean_squared_loss,
    next_token_loss,
    predicts_next,
    reads_labels,
    reference_kl,
    task_loss_of,
    without_labels,
)  # fmt: skip
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import WAYS


def step(mixture, consistency=None, labels=None, views=2, **more):
    objective = Objective(mixture, consistency, **more)
    batch = {**tiny.batch(pad=False), "labels": tiny.labels() if labels is None else labels}
    return objective(batch, Router(mixture.space).views(0, views))


def two(mixture):
    return [mixture(selection=route, **tiny.batch(pad=False)).logits for route in Router(mixture.space).views(0)]


def test_a_language_model_that_says_nothing_of_generation_predicts_no_next_token():
    class Masked(torch.nn.Module):
        def get_output_embeddings(self):
            return torch.nn.Linear(2, 2)

    assert not predicts_next(Masked())


def test_the_sum_by_hand():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    first, second = two(mixture)
    losses = step(mixture, Consistency(weight=3.0))
    close.assert_close(losses.task, F.cross_entropy(first, tiny.labels()))
    close.assert_close(losses.consistency, reference_kl(first, second))
    close.assert_close(losses.total, losses.task + 3.0 * losses.consistency, close.ROUNDED)
    close.assert_close(losses.logits, first)
    alike = [a == b for a, b in zip(first.argmax(-1).tolist(), second.argmax(-1).tolist(), strict=True)]
    close.assert_close(losses.agreement, torch.tensor(sum(alike) / len(alike)))


def test_views_agree_only_where_answers_count():
    first = torch.tensor([[[2.0, 1.0], [0.0, 1.0], [5.0, 0.0]]])
    second = torch.tensor([[[3.0, 1.0], [1.0, 0.0], [0.0, 5.0]]])
    assert float(agreement(first, second)) == pytest.approx(1 / 3)
    assert float(agreement(first, second, torch.tensor([[True, True, False]]))) == 0.5


def test_weight_zero_is_one_view():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    assert Consistency(0.0).number == 1 and Consistency().number == 2
    for views in (1, 2):
        losses = step(mixture, Consistency(0.0), views=views)
        close.assert_close(losses.total, F.cross_entropy(two(mixture)[0], tiny.labels()))
        assert float(losses.consistency) == 0 and losses.agreement.isnan()
    losses.total.backward()


def test_a_third_view_would_be_held_to_nothing():
    with pytest.raises(LabError, match="3 views: expected one, or two"):
        step(tiny.mixed(tiny.bert(), Bottleneck(4)), views=3)


def test_losses_are_returned_not_stored():
    """Nothing on any module holds a tensor of the step: copies, pickles and the next step stay clean."""
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    objective = Objective(mixture, Consistency())
    before = {name: set(vars(module)) for name, module in objective.named_modules()}
    losses = objective({**tiny.batch(), "labels": tiny.labels()}, Router(mixture.space).views(0))
    assert {name: set(vars(module)) for name, module in objective.named_modules()} == before
    stored = [v for m in objective.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    assert not stored
    assert losses.total.requires_grad and not losses.task.requires_grad and not losses.consistency.requires_grad


def test_labels_do_not_reach_the_model():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    seen = []
    mixture.model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    step(mixture)
    assert all("labels" not in names for names in seen)
    assert mixture.model.config.problem_type is None


@pytest.mark.parametrize("label", [3, -1, 100])
def test_labels_outside_the_classes(label):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    labels = torch.tensor([0, 1, label, 2])
    with pytest.raises(ValueError, match=rf"Label {label} is outside the 3 classes: expected 0 to 2.*num_labels"):
        step(mixture, labels=labels)


def test_token_labels_outside_the_vocabulary():
    with pytest.raises(ValueError, match="Label 9 is outside the 5 classes"):
        cross_entropy(torch.zeros(1, 2, 5), torch.tensor([[-100, 9]]))


def test_a_loss_of_ones_own():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    losses = step(mixture, Consistency(0.0), task_loss=lambda logits, labels: logits.square().mean())
    close.assert_close(losses.total, two(mixture)[0].square().mean())


# -- which loss ------------------------------------------------------------------------------------------


def test_losses_suit_the_model():
    def loss_of(model, **more):
        return task_loss_of(tiny.mixed(model, Bottleneck(4), **more))

    assert loss_of(tiny.bert()) is loss_of(tiny.bert(), train_head=False) is cross_entropy
    assert loss_of(tiny.bert(num_labels=1)) is mean_squared_loss
    assert loss_of(tiny.gpt2()) is loss_of(tiny.llama()) is next_token_loss
    assert loss_of(tiny.bert(cls="BertForMaskedLM")) is loss_of(tiny.t5()) is cross_entropy
    assert loss_of(tiny.llama(cls="LlamaForSequenceClassification")) is cross_entropy


def test_regression():
    mixture = tiny.mixed(tiny.bert(num_labels=1), Bottleneck(4))
    labels = torch.tensor([0.5, 1.0, -2.0, 4.0])
    losses = step(mixture, Consistency(kind="mse"), labels)
    first, second = two(mixture)
    close.assert_close(losses.task, ((first[:, 0] - labels) ** 2).mean())
    close.assert_close(losses.consistency, mean_squared_difference(first, second))
    with pytest.raises(ValueError, match="one class"):
        step(mixture, Consistency(), labels)


@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama])
def test_language_model_loss_equals_the_models_own(build):
    mixture = tiny.mixed(build(), LoRA(2))
    batch = tiny.batch(pad=False)
    labels = batch["input_ids"].clone()
    labels[:, :3] = -100
    labels[1, 5:] = -100
    losses = step(mixture, Consistency(100.0), labels)
    first, second = two(mixture)
    own = mixture(selection=Router(mixture.space).route(0), labels=labels, **batch).loss
    close.assert_close(losses.task, own)
    mask = labels[:, 1:] != -100
    close.assert_close(losses.consistency, reference_kl(first[:, :-1][mask], second[:, :-1][mask]))


def test_masked_language_model_loss_is_not_shifted():
    mixture = tiny.mixed(tiny.bert(cls="BertForMaskedLM"), Bottleneck(4))
    batch = tiny.batch(pad=False)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, 2] = batch["input_ids"][:, 2]
    losses = step(mixture, Consistency(), labels)
    first, second = two(mixture)
    close.assert_close(losses.task, F.cross_entropy(first[:, 2], labels[:, 2]))
    close.assert_close(losses.consistency, reference_kl(first[:, 2], second[:, 2]))


def test_token_classification():
    mixture = tiny.mixed(tiny.bert(cls="BertForTokenClassification"), Bottleneck(4))
    labels = torch.randint(0, tiny.LABELS, (4, 7), generator=torch.Generator().manual_seed(0))
    labels[:, 0] = -100
    losses = step(mixture, Consistency(), labels)
    first, second = two(mixture)
    close.assert_close(losses.task, F.cross_entropy(first.flatten(0, 1), labels.flatten()))
    close.assert_close(losses.consistency, reference_kl(first[:, 1:], second[:, 1:]))


def test_encoder_decoder_reads_shifted_labels():
    mixture = tiny.mixed(tiny.t5(), Bottleneck(4))
    batch = tiny.batch(pad=False)
    labels = batch["input_ids"][:, :4].clone()
    labels[0, 3] = -100
    losses = step(mixture, Consistency(), labels)
    own = mixture(selection=Router(mixture.space).route(0), labels=labels, **batch)
    close.assert_close(losses.task, own.loss)
    close.assert_close(losses.logits, own.logits)


def test_encoder_decoders_that_shift_labels_inside_forward_alone():
    import transformers

    settings = {"d_model": 32, "max_source_positions": 10, "max_target_positions": 20, "num_mel_bins": 4}
    stacks = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
    tokens = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 3}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.WhisperConfig(**settings, **stacks, **tokens, **heads)
    mixture = tiny.mixed(transformers.WhisperForConditionalGeneration(config).eval(), LoRA(2), targets="q_proj")
    sounds, labels = torch.randn(2, 4, 20), torch.tensor([[5, 6, 7], [8, -100, -100]])
    routes = Router(mixture.space).views(0)
    losses = Objective(mixture)({"input_features": sounds, "labels": labels}, routes)
    close.assert_close(losses.task, mixture(selection=routes[0], input_features=sounds, labels=labels).loss)
    vars(config)["decoder_start_token_id"] = None
    with pytest.raises(ValueError, match="decoder_start_token_id = None"):
        Objective(mixture)({"input_features": sounds, "labels": labels}, routes)


@pytest.mark.parametrize(("logits", "labels"), [((2, 3, 4, 4), (2, 3, 4)), ((2, 5, 3), (2, 4)), ((2, 3), (2, 3))])
def test_labels_that_do_not_fit_the_logits(logits, labels):
    with pytest.raises(ValueError, match="expected one class number for each row of logits"):
        cross_entropy(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_labels_that_a_model_aligns_itself():
    class TinyForCTC(torch.nn.Module):
        pass

    class Mixture:
        model = TinyForCTC()

    with pytest.raises(ValueError, match=r"TinyForCTC aligns labels with frames itself"):
        task_loss_of(Mixture())


def test_bad_settings():
    with pytest.raises(ValueError, match="consistency = -1: expected a number of at least 0"):
        Consistency(-1)
    with pytest.raises(ValueError, match="consistency 'kl' is not known; expected one of mse, reference"):
        Consistency(kind="kl")
    with pytest.raises(ValueError, match=r"views 'independant' is not known.*Did you mean 'independent'"):
        Consistency(views="independant")


def test_the_shared_prefix_is_asked_for_with_the_ways_that_hold_it():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2)
    consistency = Consistency(views="shared_prefix")
    with pytest.raises(LabError, match=r"'shared_prefix' is a short-cut.*Give ways=adamix_lab\.fast\.blocks\.WAYS"):
        Objective(mixture, consistency)
    assert step(mixture, consistency, ways=WAYS).total > 0


def test_smoothing_spreads_a_share_of_each_label_evenly():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    log_p = logits.log_softmax(-1)
    by_hand = -(0.9 * log_p[range(6), labels] + 0.1 * log_p.mean(-1)).mean()
    close.assert_close(cross_entropy(logits, labels, smoothing=0.1), by_hand, close.ROUNDED)
    of_a_model = task_loss_of(tiny.mixed(tiny.bert(), Bottleneck(4)), smoothing=0.1)
    close.assert_close(of_a_model(logits, labels), by_hand, close.ROUNDED)


def test_a_row_without_a_label_is_refused_and_a_token_without_one_is_left_out():
    logits = torch.zeros(2, 3)
    with pytest.raises(LabError, match="Label -100 is outside the 3 classes"):
        cross_entropy(logits, torch.tensor([0, IGNORED]))
    close.assert_close(cross_entropy(logits[None], torch.tensor([[0, IGNORED]])), torch.tensor(3.0).log())


@pytest.mark.parametrize(("pad", "filled"), [(4, 4), (None, 0)])
def test_labels_are_shifted_behind_the_token_that_starts_a_text(pad, filled):
    config = SimpleNamespace(decoder_start_token_id=9, pad_token_id=pad, is_encoder_decoder=True)
    whisper_like = SimpleNamespace(config=config, get_output_embeddings=lambda: 0)
    labels = torch.tensor([[5, 6, 7], [8, IGNORED, IGNORED]])
    assert without_labels(whisper_like, {"labels": labels})["decoder_input_ids"].tolist() == [[9, 5, 6], [9, 8, filled]]
    assert not reads_labels(torch.nn.Linear(2, 2))
