"""What answers mean: kinds, losses, consistency; in the configuration of the model, with the task that is in place."""

import json

import close
import pytest
import tiny
import torch
from torch.nn import functional as F

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.files import CONFIG, read_config
from adamix_lab.core.objective import Consistency, Objective, task_loss_of, without_labels
from adamix_lab.core.routing import Router
from adamix_lab.core.sites import answer_kind, class_names, count_answers, declare, drawn_modules, read_contract
from adamix_lab.core.views import logits_of
from adamix_lab.models.model import attach, detach
from adamix_lab.models.saving import load, save

SEVERAL = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
KINDS = [
    (lambda: tiny.bert(), "classes"),
    (lambda: tiny.bert(num_labels=1), "numbers"),
    (lambda: tiny.bert(problem_type="regression"), "numbers"),
    (lambda: tiny.bert(problem_type="multi_label_classification"), "labels"),
    (lambda: tiny.bert(problem_type="multi_label_classification", num_labels=1), "labels"),
    (lambda: tiny.bert(cls="BertForTokenClassification"), "tokens"),
    (lambda: tiny.bert(cls="BertForQuestionAnswering", num_labels=2), "spans"),
    (lambda: tiny.bert(cls="BertForMaskedLM"), "texts"),
    (lambda: tiny.gpt2(num_labels=1), "texts"),
    (lambda: tiny.t5(), "texts"),
    (lambda: torch.nn.Linear(2, 2), "classes"),
]


def _step(model, labels, consistency=None, views=2, **batch):
    mixture = tiny.mixed(model, LoRA(2), experts=2)
    batch = tiny.batch(rows=2) | batch
    routes = Router(mixture.space, 0).views(0, views)
    losses = Objective(mixture, consistency or Consistency(0.0))({**batch, "labels": labels}, routes)
    return mixture, batch, routes, losses


@pytest.mark.parametrize(("build", "kind"), KINDS)
def test_a_model_says_what_it_answers_with(build, kind):
    assert answer_kind(build()) == kind


def test_t5_and_bart_answer_with_classes_and_are_counted():
    from served import bart
    from transformers import T5Config, T5ForSequenceClassification

    t5 = T5ForSequenceClassification(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_labels=3, eos_token_id=3)
    )
    assert [(answer_kind(model), count_answers(model)) for model in (t5, bart())] == [("classes", 3)] * 2
    assert "decoder_input_ids" not in without_labels(t5, tiny.batch() | {"labels": torch.tensor([0, 1])})
    assert "decoder_input_ids" in without_labels(tiny.t5(), tiny.batch(rows=2) | {"labels": torch.tensor([[4], [5]])})


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"problem_type": "multi_label_classification"}, SEVERAL),
        ({"problem_type": "regression"}, SEVERAL * 3.5 - 1),
        ({"problem_type": "regression", "num_labels": 1}, torch.tensor([0.5, -2.0])),
        ({}, torch.tensor([2, 0])),
    ],
)
def test_the_loss_is_the_models_own(settings, labels):
    mixture, batch, routes, losses = _step(tiny.bert(**settings), labels, views=1)
    own = mixture(selection=routes[0], labels=labels, **batch)
    close.assert_close(losses.task, own.loss.detach())


def test_several_labels_are_held_together_by_the_kl_of_each():
    model = tiny.bert(problem_type="multi_label_classification")
    mixture, batch, routes, losses = _step(model, SEVERAL, Consistency(2.0))
    with torch.no_grad():
        p, q = (mixture(selection=route, **batch).logits.double().sigmoid() for route in routes)
    each = 0.5 * (p - q) * (p.logit() - q.logit())  # of p and q, and of their complements: the symmetric KL
    close.assert_close(losses.consistency, each.mean())
    close.assert_close(losses.total.detach(), losses.task + 2 * losses.consistency)
    squared = _step(tiny.bert(problem_type="multi_label_classification"), SEVERAL, Consistency(1.0, "mse"))[3]
    assert squared.consistency > 0


def test_numbers_have_no_distribution_however_many_they_are():
    with pytest.raises(ValueError, match=r'numbers have no distribution.*kind="mse"'):
        _step(tiny.bert(problem_type="regression"), SEVERAL, Consistency(1.0))
    assert _step(tiny.bert(problem_type="regression"), SEVERAL, Consistency(1.0, "mse"))[3].consistency > 0


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"expected class numbers.*multi_label_classification"):
        _step(tiny.bert(), SEVERAL)
    with pytest.raises(ValueError, match=r"Labels \[2\] for logits \[2, 3\]: expected a number for each"):
        _step(tiny.bert(problem_type="multi_label_classification"), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"Labels \[2\] for logits \[2, 3\]"):
        _step(tiny.bert(problem_type="regression"), torch.tensor([0.0, 1.0]))


def test_spans_train_on_the_positions_of_start_and_end():
    labels = torch.tensor([[1, 4], [0, 2]])
    model = tiny.bert(cls="BertForQuestionAnswering", num_labels=2)
    mixture, batch, routes, losses = _step(model, labels, Consistency(1.0))
    own = mixture(selection=routes[0], start_positions=labels[:, 0], end_positions=labels[:, 1], **batch)
    close.assert_close(losses.task, own.loss.detach())
    assert losses.consistency > 0 and losses.logits.shape[:2] == (2, 2)
    assert task_loss_of(mixture)(torch.zeros(2, 2, 4), torch.full((2, 2), -100)).isnan()


def test_a_model_without_logits_is_named():
    mixture = tiny.mixed(tiny.bert(cls="BertModel"), LoRA(2), experts=2)
    with pytest.raises(ValueError, match=r"answers with BaseModelOutput.*which has no logits: expected a head"):
        logits_of(mixture(selection="merge", **tiny.batch()))


# -- the configuration goes with the task --


def test_declared_names_are_in_the_configuration_and_detach_takes_them_out_again():
    names = {0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}
    model = tiny.bert(id2label=names, label2id={name: n for n, name in names.items()})
    before = read_contract(model)
    mixture = attach(model, LoRA(2), experts=2)
    declare(model, "labels", ("food", "service", "any"))
    assert class_names(model) == ("food", "service", "any") and answer_kind(model) == "labels"
    mixture.add_task("score", num_labels=1)
    assert answer_kind(model) == "numbers" and model.config.problem_type == "regression" and not class_names(model)
    mixture.add_task("two", num_labels=2)
    assert answer_kind(model) == "classes" and model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    declare(model, "classes", ("ham", "spam"))
    mixture.switch("default")
    assert (model.num_labels, class_names(model)) == (3, ("food", "service", "any"))
    assert model.config.problem_type == "multi_label_classification"
    mixture.switch("two")
    assert (model.num_labels, class_names(model), answer_kind(model)) == (2, ("ham", "spam"), "classes")
    assert read_contract(detach(mixture)) == before


def test_a_name_for_each_answer():
    with pytest.raises(ValueError, match="2 names for a head that answers 3: expected one each"):
        declare(tiny.bert(), "classes", ("a", "b"))


@pytest.mark.parametrize(("kind", "names"), [("labels", ("a", "b", "c")), ("numbers", ()), ("classes", ())])
def test_saves_keep_what_answers_mean(tmp_path, kind, names):
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=2)
    declare(mixture.model, kind, names)
    save(mixture, tmp_path)
    again = load(tiny.bert(id2label={0: "x", 1: "y", 2: "z"}), tmp_path).model
    assert (answer_kind(again), class_names(again)) == (kind, names)


def test_saves_of_earlier_versions_have_the_names_of_their_notes(tmp_path):
    save(tiny.mixed(tiny.bert(), LoRA(2), experts=2), tmp_path, notes={"classes": ["a", "b", "c"]})
    config = json.loads((tmp_path / CONFIG).read_text())
    del config["answers"], config["classes"], config["digest"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert class_names(load(tiny.bert(), tmp_path).model) == ("a", "b", "c")
    (tmp_path / CONFIG).write_text(json.dumps(config | {"classes": [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"has classes = .*expected a list of names"):
        read_config(tmp_path)


# -- what the files did not hold --


def _read(folder, **settings):
    from transformers import AutoModelForSequenceClassification

    tiny.bert(cls="BertForMaskedLM").save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder, **settings).eval()


def test_what_was_drawn_trains_is_saved_and_comes_back(tmp_path):
    model = _read(tmp_path / "masked")
    assert list(drawn_modules(model)) == ["bert.pooler", "classifier"] and not drawn_modules(tiny.bert())
    mixture = attach(model, LoRA(2), experts=2)
    assert mixture.head_paths == ("classifier", "bert.pooler")
    assert attach(_read(tmp_path / "masked"), LoRA(2), train_head=False).head_paths == ()
    start = mixture.model.bert.pooler.dense.weight.clone()
    batch = tiny.batch(rows=2) | {"labels": torch.tensor([0, 1])}
    losses = Objective(mixture)(batch, Router(mixture.space, 0).views(0, 2))
    losses.total.backward()
    assert mixture.model.bert.pooler.dense.weight.grad.abs().sum() > 0
    with torch.no_grad():
        mixture.model.bert.pooler.dense.weight.add_(1.0)
    save(mixture, tmp_path / "saved")
    again = load(_read(tmp_path / "masked"), tmp_path / "saved")  # its pooler was drawn anew
    close.assert_close(
        again(**tiny.batch()).logits.detach(), mixture(selection="merge", **tiny.batch()).logits.detach()
    )
    close.assert_close(detach(mixture).bert.pooler.dense.weight.detach(), start.detach())


def test_a_site_that_was_drawn_is_refused(tmp_path):
    from transformers import BertForSequenceClassification

    model = tiny.bert()
    kept = {name: t for name, t in model.state_dict().items() if "layer.1" not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    broken = BertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"site 'bert\.encoder\.layer\.1.*were not in the model's files"):
        attach(broken, LoRA(2), experts=2)
    with pytest.raises(ValueError, match="Module of the head 'pooler' is not known"):
        attach(tiny.bert(), LoRA(2), train_head=["pooler"])
    assert attach(tiny.bert(), LoRA(2), train_head=["classifier", "bert.pooler"]).head_paths[1] == "bert.pooler"


def test_bernoulli_kl_is_that_of_two_classes():
    z = torch.tensor([[0.3, -2.0]])
    close.assert_close(torch.stack([torch.zeros_like(z), z], -1).log_softmax(-1)[..., 1], F.logsigmoid(z))
