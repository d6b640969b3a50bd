"""What the lessons compute and draw, against plain recomputation; each widget driven without a browser."""

import re

import close
import pytest
import tiny
import tiny_answers
import tiny_task
import torch
from makers import load_maker
from seen import all_inside
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.points import aligned, bottleneck_sites, permuted_copies
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import consistency, merging, routing, tour
from adamix_lab.lessons.answers import answers_of, load_answers, read_answers, write_answers
from adamix_lab.lessons.consistency import agreed_and_wrong, consistency_dial, measure_dial, pairwise_kl
from adamix_lab.lessons.merging import mixed, mixing_triangle, prepare
from adamix_lab.lessons.routing import by_expert, draw_loads, draw_routed, train_gates
from adamix_lab.models.model import load_trained, trained_tensors
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
measures = load_maker("results/effects")


@pytest.fixture
def stored(monkeypatch):
    """Made-up answers for every run, so that nothing is read from the project's data."""

    def load(name, seed=0, data="aspects"):
        return tiny_answers.answers(200, seed=len(name) + seed + len(data))

    monkeypatch.setattr(consistency, "load_answers", load)


def apart(**more):
    return tiny.shake(tiny_task.mixture(share=None, tied=True, experts=4, **more)).eval()


# -- 01 -----------------------------------------------------------------------------------------------------


def test_flips_are_changes_of_one_expert_only():
    labels = torch.zeros(2, dtype=torch.long)
    odds = torch.full((2, 16), -1.0)
    odds[1, 6] = 1.0  # expert 1 then 2: six neighbours, and itself
    found = measures.flips(tiny_answers.of_odds(odds, labels))
    assert found[0].sum() == 0 and found[1].sum() == 7
    assert {n for n in range(16) if found[1, n]} == {6, 4, 5, 7, 2, 10, 14}


def test_by_expert_averages_over_the_other_block():
    answers = tiny_answers.answers()
    values = answers.right
    found = by_expert(answers, values)
    close.assert_close(found[:, 0, 2], values[:, 8:12].mean(1), close.ROUNDED)
    close.assert_close(found[:, 1, 3], values[:, 3::4].mean(1), close.ROUNDED)


def test_the_specialist_gain_finds_specialists_and_nothing_where_there_is_nothing():
    generator = generator_for(3)
    kinds = torch.randint(2, (2000,), generator=generator)
    names = ["ab"[kind] for kind in kinds.tolist()]
    alike = (torch.rand(2000, 4, generator=generator) < 0.7).float()
    specialised = alike.clone()
    specialised[kinds == 0, 1] = 1.0  # expert 1 is for a, expert 2 for b
    specialised[kinds == 1, 2] = 1.0
    assert measures.specialist_gain(specialised, names).mean() > 0.1
    assert measures.specialist_gain(alike, names).mean().abs() < 0.03  # 2000 rows drawn


def test_a_sentence_is_answered_on_every_route_and_flips_are_named():
    mixture = tiny.shake(tiny_task.mixture(experts=4, blocks=(-2, -1))).eval()
    widget = routing.route_explorer(mixture, TOKENIZER, TASK.classes)
    assert widget.last_error is None and "All 16 routes" in widget.text
    widget.set(sentence="w1 w2 w3", first=3, second=1)
    batch = TOKENIZER(["w1 w2 w3"], return_tensors="pt")
    route = torch.stack([mixture.space.fixed(3)[0], mixture.space.fixed(1)[1]])
    with torch.no_grad():
        chance = float(mixture(selection=route, **batch).logits.softmax(-1)[0, 1])
    assert f"block 6: {100 * chance:.0f} % {TASK.classes[1]}" in widget.text
    assert all_inside(widget.picture.figure)
    for label in ("sentence 1", "Show me"):
        widget.buttons[label].click()
        assert widget.last_error is None and widget.state["sentence"].endswith((" halt .", "begun ?"))
    chances = torch.full((4, 4), 0.2).index_fill(0, torch.tensor(2), 0.9)
    assert "Flips with block 5 to expert 2." in draw_routed(chances, 0, 0, ("no", "yes")).readout


def test_the_map_of_experts_has_a_row_an_expert():
    picture = routing.draw_experts(tiny_answers.answers(996), load_task("aspects").evaluation)
    assert len(picture.figure.axes[0].texts) == 8 * 14 and "points apart" in picture.alt


def test_gates_train_alone_and_leave_no_trace():
    mixture = tiny.shake(tiny_task.mixture(experts=4)).eval()
    before = {name: p.clone() for name, p in mixture.named_parameters()}
    flags = [p.requires_grad for p in mixture.parameters()]
    loads = train_gates(mixture, TASK, TOKENIZER, steps=3, rows=12)
    assert loads.shape == (12, len(mixture.sites), 4)
    close.assert_close(loads.sum(-1), torch.ones(12, 3), close.ROUNDED)
    after = dict(mixture.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert flags == [p.requires_grad for p in mixture.parameters()]
    two = train_gates(tiny.shake(tiny_task.mixture(experts=4, blocks=(-2, -1))).eval(), TASK, TOKENIZER, 2, 12)
    assert "block 6: " in draw_loads(two, ["a", "b"] * 6).alt


# -- 02 -----------------------------------------------------------------------------------------------------


def test_pairwise_kl_is_the_mean_over_ordered_pairs():
    answers = tiny_answers.answers(6)
    log_p = answers.routes
    pairs = [(log_p[:, a].exp() * (log_p[:, a] - log_p[:, b])).sum(-1) for a in range(16) for b in range(16) if a != b]
    close.assert_close(pairwise_kl(answers), torch.stack(pairs).mean(0))


def test_agreeing_on_a_wrong_answer():
    labels = torch.tensor([0, 0, 1])
    odds = torch.tensor([[1.0] * 16, [-1.0] * 16, [-1.0] * 15 + [1.0]])
    assert agreed_and_wrong(tiny_answers.of_odds(odds, labels)).tolist() == [1, 0, 0]


def test_routes_that_answer_differently_are_counted_by_pairs():
    odds = torch.tensor([[1.0] * 16, [1.0] * 15 + [-1.0], [1.0] * 8 + [-1.0] * 8])
    found = measures.answer_differently(tiny_answers.of_odds(odds, torch.zeros(3, dtype=torch.long)))
    close.assert_close(found, torch.tensor([0.0, 2 / 16, 2 * 64 / 240]))


def test_the_fan_closes_and_goes_flat():
    widget = consistency.fan_explorer()

    def kl():
        return float(re.search(r"Two routes are ([\d.]+) nats apart", widget.text)[1])

    assert widget.last_error is None and "consistency 300" in widget.picture.alt
    flat = kl()
    assert widget.result["curves"].errors["experts"] > 0.65  # always saying one half costs 0.693
    widget.buttons["Show me"].click()
    middle = kl()
    assert widget.result["curves"].errors["experts"] < 0.6 and all_inside(widget.picture.figure)
    widget.set(consistency=0.0)
    assert flat < 0.05 * kl() and middle < 0.5 * kl()
    assert all_inside(consistency.draw_views().figure)


def test_the_consistency_dial_is_driven(stored):
    widget = consistency_dial(seeds=(20, 21))
    assert widget.last_error is None and "Weight 100, the mean of 2 seeds" in widget.text
    measured = measure_dial((20, 21))
    kl = [float(pairwise_kl(consistency.load_answers("adamix", seed, "noisy")).mean()) for seed in (20, 21)]
    close.assert_close(measured.loc[1, "kl"].tolist(), kl)
    for weight in (0, 1, 10, 100):
        widget.set(weight=weight, seed=21)
        told = measured.loc[(weight, 21), "kl"]
        assert f"Weight {weight}, seed 21: two routes are {told:.4f} nats" in widget.text
        assert f"weight {weight} marked" in widget.picture.alt and all_inside(widget.picture.figure)
    with pytest.raises(ValueError, match=r"weight of consistency = 5: expected one of 0, 1, 10, 100"):
        widget.set(weight=5)


# -- 03 -----------------------------------------------------------------------------------------------------


def test_permuted_copies_compute_the_same_and_alignment_brings_the_merge_back():
    mixture = apart(blocks=(-2, -1))
    trained = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}
    alone = answers_of(mixture, TASK, TOKENIZER).routes[:, 5 * 1]
    copies = permuted_copies(trained, 1, generator_for(0))
    load_trained(mixture, copies)
    answers = answers_of(mixture, TASK, TOKENIZER)
    close.assert_close(answers.routes, alone[:, None].expand_as(answers.routes))
    assert (answers.merged - alone).abs().max() > 1e-3
    load_trained(mixture, aligned(copies))
    close.assert_close(answers_of(mixture, TASK, TOKENIZER).merged, alone)


def test_alignment_leaves_every_function_as_it_is_and_refuses_what_it_cannot_order():
    mixture = apart(blocks=(-2, -1))
    before = answers_of(mixture, TASK, TOKENIZER).routes
    load_trained(mixture, aligned({name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}))
    close.assert_close(answers_of(mixture, TASK, TOKENIZER).routes, before)
    with pytest.raises(ValueError, match="shares a side"):
        aligned(trained_tensors(tiny_task.mixture()))
    with pytest.raises(ValueError, match="No bottleneck"):
        list(bottleneck_sites({"head.classifier.weight": torch.zeros(2, 2)}))


@pytest.fixture(scope="module")
def ground():
    return prepare(apart(blocks=(-2, -1)), TASK, TOKENIZER, "tiny", rows=24, steps=3)


def test_a_mixture_is_what_the_model_says_at_that_point(ground):
    mixture = apart(blocks=(-2, -1))
    spread = TASK.evaluation[:24]
    batch = TOKENIZER([row["sentence"] for row in spread], padding=True, return_tensors="pt")
    labels = torch.tensor([row["label"] for row in spread])
    for given, weights in (((1, 0, 0), (1, 0, 0)), ((1, 1, 1), (1 / 3,) * 3), ((0.5, 0, 1), (1 / 3, 0, 2 / 3))):
        found = mixed(ground, *given)
        point = torch.tensor([*weights, 0.0]).expand(*mixture.space.shape, -1)
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(mixture(selection=point, **batch).logits, labels)
        close.assert_close(found.loss, float(loss))
        assert sum(found.weights) == pytest.approx(1)
    close.assert_close(mixed(ground, 1, 1, 1).loss, ground.measured.at("mean"))
    close.assert_close(mixed(ground, 0, 1, 0).loss, ground.alone[1])


def test_the_mixing_triangle_is_driven(ground):
    widget = mixing_triangle(ground)
    assert "Weights 100, 0, 0 %" in widget.text and widget.last_error is None
    for label, told in (("expert 2", "0, 0, 100 %"), ("centre", "33, 33, 33 %"), ("Show me", "33, 33, 33 %")):
        widget.buttons[label].click()
        assert f"Weights {told}" in widget.text and told in widget.picture.alt
    before = widget.image.value
    widget.set(first=0.0, second=0.0, third=0.0)
    assert "are no mixture" in widget.text and widget.image.value == before
    widget.set(first=1.0, second=0.5)
    assert "67, 33, 0 %" in widget.text and widget.last_error is None
    assert all_inside(widget.picture.figure)


def test_sharing_down_is_exact_in_one_layer_and_sharing_up_is_not():
    widget = merging.sides_explorer()
    assert widget.last_error is None and "the down projection shared" in widget.text

    def gap():
        curves = widget.result["curves"]
        return float((curves.merged - curves.ensemble).abs().max())

    assert gap() < 1e-5
    widget.set(layers=2)
    assert 1e-5 < gap() < 0.05
    widget.buttons["share up"].click()
    widget.set(layers=1, near=0.7)
    assert gap() > 1 and all_inside(widget.picture.figure)
    assert "merge" not in merging.draw_question().alt.replace("Where will the merge lie?", "")


def test_gaps_of_layers_are_told_as_exact_or_not():
    picture = merging.draw_gaps({"one": [1e-8, 2e-7], "other": [0.2, 0.5]})
    assert "one: exact; other: up to 50 %" in picture.alt and all_inside(picture.figure)


def test_a_merge_is_told_after_a_change_of_the_weights(monkeypatch):
    monkeypatch.setattr("adamix_lab.lessons.answers.load_twin", lambda *_, **__: (apart(blocks=(-2, -1)), TOKENIZER))
    monkeypatch.setattr(merging, "load_task", lambda name: TASK)
    told = merging.tell_merge("copies", lambda weights: permuted_copies(weights, 0, generator_for(0)), rows=12)
    mixture = apart(blocks=(-2, -1))
    load_trained(mixture, permuted_copies(trained_tensors(mixture), 0, generator_for(0)))
    found = answers_of(mixture, TASK, TOKENIZER, 12)
    assert told.startswith(f"copies: an expert alone {100 * float(found.right[:, 0].mean()):.1f} %")
    assert f"merged {100 * float(found.merged_right.mean()):.1f} %" in told


def test_a_merge_that_differs_from_the_ensemble_is_seen():
    answers = tiny_answers.answers(60, noise=2.0)
    together = answers.routes.exp().mean(1).argmax(-1)
    assert torch.equal(measures.merge_differs(answers), (answers.merged.argmax(-1) != together).float())


# -- 00, and what is stored ---------------------------------------------------------------------------------


def test_the_stops_are_those_that_were_looked_at():
    widget = tour.stop_explorer()
    curves = tour.stored_looks()
    assert widget.last_error is None and curves.shape[1] == 10
    widget.set(adamix=100, other=50, opponent="slow-swa")
    mine, other = (curves.loc[tour.NAMES[name], step] for name, step in (("adamix", 100), ("slow-swa", 50)))
    assert f"after 100 steps: {mine.mean():.1f} %" in widget.text
    assert f"ahead in {(mine > other).sum()} of 10 seeds" in widget.text and all_inside(widget.picture.figure)
    with pytest.raises(ValueError, match="Step 30 was not looked at: expected one of 0, 25, 50"):
        tour.stopped(30, 0, "single")
    widget.buttons["Show me"].click()
    assert "single adapter leads" in widget.text  # the winner changes


def test_a_training_is_watched_and_not_changed():
    recipe = Recipe(steps=4, batch_size=8, dev_fraction=0.0, cache_prefix=True, checkpoint_every=0)
    plain, watched = (tiny_task.mixture(blocks=(-2, -1)) for _ in range(2))
    train(plain, TASK, TOKENIZER, recipe, progress=False)
    watch = tour.Watch(TASK, rows=8, every=2)
    train(watched, TASK, TOKENIZER, recipe, progress=False, on_step=watch.on_step("adamix", watched, TOKENIZER))
    assert [look["step"] for look in watch.looks[tour.ADAMIX]] == [0, 2, 4]
    one, two = trained_tensors(plain), trained_tensors(watched)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "AdaMix (up shared): the loss goes from" in watch.picture().alt and all_inside(watch.picture().figure)


def test_the_papers_table_and_the_ten_seeds_are_told():
    table = tour.table_1()
    assert table.iloc[-1].tolist() == ["AdaMix Adapter", "0.8 million", "3.2 MB", 89.9]
    picture = tour.draw_seeds("single", "adamix", "probe")
    assert picture.alt.count("±") == 12 and "AdaMix (up shared), ensemble" in picture.alt
    assert all_inside(picture.figure)


def test_the_curves_of_the_first_lessons_are_driven():
    widget = tour.four_curves()
    assert "the merge" not in widget.text
    widget.buttons["Show me"].click()
    assert "the merge" in widget.text and widget.last_error is None
    widget = routing.sixteen_curves()
    widget.set(route=5)
    assert "route (1, 1)" in widget.text


def test_answers_are_kept_and_read_again(tmp_path, monkeypatch):
    answers = tiny_answers.answers()
    write_answers(tmp_path / "adamix-seed0.safetensors", answers, {"seed": "0"})
    again = read_answers(tmp_path / "adamix-seed0.safetensors")
    close.assert_close(again.routes, answers.routes, close.STORED)
    assert torch.equal(answers.labels, again.labels)
    assert torch.equal(answers.fixed, torch.tensor([0, 5, 10, 15])) and torch.equal(answers.index, again.index)
    assert torch.equal(load_answers("adamix", 0, tmp_path).labels, answers.labels)
    with pytest.raises(FileNotFoundError, match=r"data/experts/make.py answers"):
        load_answers("apart", 0, tmp_path)
    with pytest.raises(ValueError, match=r"Run 'adamx' is not known.*'adamix'"):
        load_answers("adamx", 0, tmp_path)


def test_the_stored_answers_are_those_of_the_shipped_experts():
    from adamix_lab.training.shipped import load_twin

    mixture, tokenizer = load_twin("adamix", 1)
    found, kept = answers_of(mixture, load_task("aspects"), tokenizer, 24), load_answers("adamix", 1)
    close.assert_close(found.routes.exp(), kept.routes[:24].exp(), close.STORED)
    close.assert_close(found.merged.exp(), kept.merged[:24].exp(), close.STORED)
