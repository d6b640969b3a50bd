"""Training mode is AdaMix: what `forward` does when nobody says which route."""

import copy
import warnings

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.mixture import during
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.models.model import attach


def learner(model=None, seed=5, **settings):
    return tiny.mixed(model or tiny.bert(), Bottleneck(4), seed=seed, **settings).train()


def labelled(model):
    """A batch with labels that suit the model's head."""
    batch = tiny.inputs(model)
    if model.config.is_encoder_decoder:
        return {"input_ids": batch["input_ids"], "labels": batch["decoder_input_ids"].contiguous()}
    return {**batch, "labels": tiny.labels() if "Sequence" in type(model).__name__ else batch["input_ids"]}


FAMILIES = {**tiny.FAMILIES, "bert-mlm": lambda dropout=0.0: tiny.bert(dropout, "BertForMaskedLM")}


@pytest.mark.parametrize("objective", [Consistency(), Consistency(0.5, "symmetric", "same_dropout"), Consistency(0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_with_labels_is_the_objective(family, objective):
    mixture = learner(FAMILIES[family](), objective=objective)
    batch = labelled(mixture.model)
    for step in range(2):
        found = mixture(**batch)
        found.loss.backward()
        gradients = tiny.gradients(mixture)
        routes = Router(mixture.space, 5).views(step, objective.number)
        expected = Objective(mixture, objective)(batch, routes)
        expected.total.backward()
        assert torch.equal(found.loss, expected.total) and torch.equal(found.logits, expected.logits)
        close.assert_all_close(gradients, tiny.gradients(mixture))
    assert type(found) is type(mixture(selection="merge", **batch)) and int(mixture.draws) == 2


def test_the_other_values_are_the_first_views():
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    again = copy.deepcopy(mixture)
    found = mixture(**batch, output_hidden_states=True)
    first = again(selection=Router(mixture.space, 5).route(0), **batch, output_hidden_states=True)
    close.assert_close(found.logits, first.logits)
    for a, b in zip(found.hidden_states, first.hidden_states, strict=True):
        close.assert_close(a, b)
    parts = again(**batch, return_dict=False)
    assert isinstance(parts, tuple) and torch.equal(parts[0], found.loss) and torch.equal(parts[1], found.logits)


def test_inputs_by_position():
    mixture = learner()
    batch, again = tiny.batch(), copy.deepcopy(mixture)
    by_name = mixture(**batch, labels=tiny.labels()).loss
    by_place = again(batch["input_ids"], batch["attention_mask"], labels=tiny.labels(), token_type_ids=None).loss
    assert torch.equal(by_name, by_place)


def test_a_spans_start_and_end_are_labels():
    model = tiny.bert(cls="BertForQuestionAnswering", num_labels=2)
    mixture, starts, ends = learner(model), torch.tensor([1, 0, 2, 1]), torch.tensor([3, 2, 2, 4])
    routes, batch = Router(mixture.space, 5).views(0, 2), tiny.batch(pad=False)
    expected = Objective(mixture, mixture.mixture.objective)(
        {**batch, "labels": torch.stack([starts, ends], 1)}, routes
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mixture(**batch, start_positions=starts, end_positions=ends)
    assert torch.equal(found.loss, expected.total) and expected.consistency > 0
    assert torch.equal(found.start_logits, expected.logits[:, 0])


def test_without_labels_one_route_and_one_warning():
    mixture, batch = learner(), tiny.batch()
    with pytest.warns(UserWarning, match=r"without labels: one route was drawn.*AdaMixTrainer") as said:
        found = [mixture(**batch).logits for _ in range(3)]
    assert len(said) == 1 and int(mixture.draws) == 3
    for step, logits in enumerate(found):
        assert torch.equal(logits, mixture(selection=Router(mixture.space, 5).route(step), **batch).logits)
    quiet = learner(objective=Consistency(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(**batch)  # there is no consistency that could be off


def test_where_the_merge_is_meant():
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    merged = mixture(selection="merge", **batch)
    merged.loss.backward()
    gradients = tiny.gradients(mixture)
    for name, parameter in mixture.expert_parameters():
        assert torch.equal(gradients[name], gradients[name][:1].expand_as(parameter))
    with torch.no_grad():
        assert torch.equal(mixture(**batch).loss, merged.loss)
    with mixture.select("merge"):
        assert torch.equal(mixture(**batch).loss, merged.loss)
    mixture.eval()
    assert torch.equal(mixture(**batch).loss, merged.loss) and int(mixture.draws) == 0
    with pytest.raises(ValueError, match=r"selection = 'mean': expected \"merge\""):
        mixture(selection="mean", **batch)


@pytest.mark.parametrize("settings", [{"experts": 1}, {"share": ("down", "up")}])
def test_where_there_is_one_route_only(settings):
    mixture, batch = learner(**settings), {**tiny.batch(), "labels": tiny.labels()}
    assert torch.equal(mixture(**batch).loss, mixture(selection="merge", **batch).loss) and int(mixture.draws) == 0


def test_a_call_inside_select_takes_its_selection():
    """Formerly it silently took the merge."""
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    route, other = mixture.space.fixed(1), mixture.space.fixed(2)
    expected = mixture(selection=route, **batch)
    with mixture.select(route):
        found = mixture(**batch)
        assert torch.equal(mixture(selection=other, **batch).logits, mixture(selection=other, **batch).logits)
        assert torch.equal(mixture(**batch).logits, found.logits)
    assert torch.equal(found.loss, expected.loss) and int(mixture.draws) == 0
    text = tiny.mixed(tiny.gpt2(), Bottleneck(4))
    ids = tiny.batch(2, 4, pad=False)["input_ids"]
    settings = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    expected = text.generate(selection=text.space.fixed(1), **settings)
    with text.select(text.space.fixed(1)):
        assert torch.equal(text.generate(**settings), expected)


def test_nothing_is_drawn_while_the_adaptation_is_off():
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    with mixture.disabled():
        mixture(**batch).loss.backward()
    assert int(mixture.draws) == 0


def test_resume_gives_the_next_route():
    """The number of draws is in the state dict; a state of an earlier version, which has none, loads."""
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    for _ in range(3):
        mixture(**batch)
    state = copy.deepcopy(mixture.state_dict())
    expected = [mixture(**batch).loss for _ in range(2)]
    other = learner()
    other.load_state_dict(state)
    assert [mixture(**batch).loss for _ in range(0)] == [] and int(other.draws) == 3
    assert all(torch.equal(other(**batch).loss, loss) for loss in expected)
    del state["draws"]
    other.load_state_dict(state)


def test_a_way_that_the_core_does_not_have_is_refused_at_once():
    with pytest.raises(ValueError, match=r"shared_prefix.*is a short-cut of adamix_lab\.fast"):
        attach(tiny.bert(), LoRA(2), objective=Consistency(views="shared_prefix"))


@pytest.mark.parametrize("labels", [{"labels": tiny.labels()}, {}])
def test_what_is_around_forward_is_entered_once(labels):
    mixture = learner()
    again, batch = copy.deepcopy(mixture), {**tiny.batch(), **labels}
    mixture.forward = torch.autocast("cpu", dtype=torch.bfloat16)(mixture.forward)  # as accelerate has it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mixture(**batch)
        assert not torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(found.logits, again(**batch).logits)


def test_a_trainers_objective_is_called_inside():
    mixture = learner()
    routes, batch = Router(mixture.space, 8).views(3), {**tiny.batch(), "labels": tiny.labels()}
    objective = Objective(mixture, Consistency(2.0))
    with during({mixture: {"run": lambda batch: objective(batch, routes)}}):
        found = mixture(**batch)
    assert torch.equal(found.total, objective(batch, routes).total) and int(mixture.draws) == 0


def test_the_model_inside_is_not_trained_past_the_mixture():
    """`attach` wraps in place: who hands the inner model to a Trainer would train the merge, experts all alike."""
    mixture, batch = learner(), {**tiny.batch(), "labels": tiny.labels()}
    for inner in (lambda: mixture.model(**batch), lambda: next(iter(mixture.sites.values()))(torch.randn(1, 2, 32))):
        with pytest.raises(ValueError, match=r"trained past them: expected a call of what attach gave"):
            inner()
    with pytest.raises(ValueError, match="trained past them"):
        learner(experts=2).model(**batch)
    with mixture.select("merge"):
        merged = mixture.model(**batch).loss
    with torch.no_grad():
        assert torch.equal(mixture.model(**batch).loss, merged)
    with mixture.disabled():
        mixture.model(**batch)
    learner(experts=1).model(**batch)
    assert torch.equal(mixture.eval().model(**batch).loss, merged)


def test_the_mode_is_that_of_the_model_inside():
    """Who holds on to the model that was wrapped in place switches it as ever."""
    model = tiny.bert()
    mixture, batch = tiny.mixed(model, Bottleneck(4)), {**tiny.batch(), "labels": tiny.labels()}
    model.train()
    mixture(**batch)
    assert int(mixture.draws) == 1
    model.eval()
    assert torch.equal(mixture(**batch).loss, mixture(selection="merge", **batch).loss) and int(mixture.draws) == 1
