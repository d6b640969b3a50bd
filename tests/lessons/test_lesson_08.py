"""Lesson 08: stock peft's combinations beside the library's merges, the shipped LoRA experts, the effects."""

import close
import own_answers
import pytest
import tiny
import tiny_task
import torch
from makers import load_maker
from seen import all_inside
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")
pytest.importorskip("peft")


from adamix_lab import LoRA, merge, merge_products
from adamix_lab.lessons import your_own
from adamix_lab.lessons.checks.exercises import check_gated_lora, check_peft_weight
from adamix_lab.lessons.your_own import A, B, combining_dial, draw_experts, prepare

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
maker, effects = load_maker("lessons"), load_maker("results/effects")


def mixture(**settings):
    model = tiny_task.tiny.bert()
    made = tiny.attach(model, LoRA(rank=2, alpha=4.0), experts=4, **settings)
    return tiny.shake(made, 0.3).eval()


@pytest.fixture(scope="module")
def mixtures():
    return {"AdaMix": mixture(share="B"), "tied": mixture(tied=True)}


@pytest.fixture(scope="module")
def grounds(mixtures):
    return {name: prepare(made, TASK, TOKENIZER, name) for name, made in mixtures.items()}


def test_linear_gives_m_squared_m_and_once_the_mean_of_factors(grounds):
    for ground in grounds.values():
        found = [ground.norms["linear", weight] for weight in ("1", "1/4", "1/16")]
        close.assert_close(found, [16, 4, 1])
        close.assert_close(ground.norms["cat", "1/4"], ground.target)
    close.assert_close(grounds["AdaMix"].target, 1.0)  # a shared B: both means are one
    assert abs(grounds["tied"].target - 1) > 0.01


def test_the_number_to_reach_is_reached_where_the_text_says(grounds):
    shared, apart = grounds["AdaMix"], grounds["tied"]
    for way in (("linear", "1/16"), ("cat", "1/4")):
        assert max(shared.apart[way]) <= 1e-5
    to_factors, to_products = apart.apart["linear", "1/16"]
    assert to_factors <= 1e-5 < to_products
    to_factors, to_products = apart.apart["cat", "1/4"]
    assert to_products <= 1e-5 < to_factors
    assert min(apart.apart["linear", "1/4"][1], shared.apart["linear", "1/4"][0]) > 0.01


def test_the_dial_is_driven(mixtures):
    dial = combining_dial(mixtures, TOKENIZER, TASK)
    assert dial.last_error is None and "“linear” at weight 1 " in dial.text and "Equal to neither" in dial.text
    before = dial.picture.alt
    dial.buttons["Show me"].click()
    assert "Equal to merge, merge_products within 1e-5" in dial.text and dial.picture.alt != before
    dial.set(weight="1/2")
    assert "gives 8 times the update" in dial.picture.alt and all_inside(dial.picture.figure)
    dial.set(experts="tied", combination="cat", weight="1/4")
    assert "Equal to merge_products within 1e-5" in dial.text and "tied" in dial.text
    with pytest.raises(ValueError, match=r"weight of each expert = 0\.3: expected one of 1, 1/2"):
        dial.set(weight=0.3)


def test_the_arrows_tell_their_lengths():
    merged = float((A.mean() * B.mean(0)).norm())
    hidden, shown = draw_experts(), draw_experts(1 / 4)
    assert f"merge {merged:.2f}" in hidden.alt and "peft" not in hidden.alt
    assert f"peft's “linear” at 1/4 {4 * merged:.2f}" in shown.alt and "expert 3" in shown.alt


def test_merged_weights_are_what_the_library_merges():
    for settings in ({"share": "B"}, {"tied": True}):
        made = mixture(**settings)
        one, whole = merge(made), merge_products(made)
        for path, layer in made.sites.items():
            for way, model in (("linear at 1/M²", one), (effects.PRODUCTS, whole)):
                expected = model.sites[path].experts
                found = effects.merged_weights(layer.experts["A"], layer.experts["B"], way)
                close.assert_close(found["B"] @ found["A"], expected["B"][0] @ expected["A"][0])
            alone = effects.merged_weights(layer.experts["A"], layer.experts["B"], "expert 2")
            assert torch.equal(alone["A"], layer.experts["A"][2])
    assert effects.LINEAR == {"linear at 1/M²": 1, "linear at 1/M": 4, "linear at 1": 16}


@pytest.mark.parametrize("kind", your_own.KINDS)
def test_the_shipped_loras_load_and_what_is_missing_is_told(kind, tmp_path):
    made, _ = your_own.load_loras(kind, 1)
    assert made.space.experts == 4 and made.mixture.tied == (kind == "tied")
    assert all(float(p.detach().norm()) > 0 for _, p in made.expert_parameters())
    with pytest.raises(FileNotFoundError, match=r"data/lessons/make.py"):
        your_own.load_loras(kind, 0, tmp_path)
    with pytest.raises(ValueError, match="Kind of LoRA experts 'adamx'"):
        your_own.fresh_loras("adamx", 0)


def test_loras_are_trained_kept_and_left_alone_afterwards(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(maker, "train", lambda m, task, tokenizer, recipe, progress: calls.append(recipe))
    for _ in range(2):
        maker.main(["adamix", "tied"], 1, 3, tmp_path)
    assert [(r.seed, r.consistency.weight, r.steps) for r in calls] == [(0, 1.0, 3), (0, 0.0, 3)]
    assert your_own.load_loras("tied", 0, tmp_path)[0].mixture.tied


def test_scores_are_of_the_ways_and_the_mean_of_experts(monkeypatch):
    labels = torch.tensor([0, 1, 1])
    log_p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]).log()
    answers = {way: log_p if way == "expert 0" else log_p.flip(-1) for way in (*effects.ALONE, effects.PRODUCTS)}
    monkeypatch.setattr(effects, "lora_answers", lambda kind, seed: answers)
    monkeypatch.setattr(effects, "lora_rows", lambda: type("Rows", (), {"labels": labels}))
    assert effects.lora_score("tied", 0, "expert 0", "points").tolist() == [1, 0, 1]
    assert effects.lora_score("tied", 0, "alone", "points").tolist() == [0.25, 0.75, 0.25]
    entry = {"score": "lora_score", "kind": "tied", "way": "expert 0", "unit": "nats"}
    difference = effects.measure_of({**entry, "minus": {"way": effects.PRODUCTS}})(0)
    close.assert_close(difference[0], torch.tensor(0.1 / 0.9).log(), close.ROUNDED)


@pytest.mark.parametrize("name", own_answers.WRONG_CLASSES)
def test_a_wrong_adaptation_is_told_its_cause(name):
    answer, cause = own_answers.WRONG_CLASSES[name]
    with pytest.raises(AssertionError, match=cause):
        check_gated_lora(answer)


@pytest.mark.parametrize("name", own_answers.WRONG_WEIGHTS)
def test_a_wrong_weight_is_told_its_cause(name):
    answer, cause = own_answers.WRONG_WEIGHTS[name]
    with pytest.raises(AssertionError, match=cause):
        check_peft_weight(answer)
