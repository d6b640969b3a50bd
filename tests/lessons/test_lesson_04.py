"""Lesson 04: four ways to answer, against plain recomputation; the widget without a browser."""

import close
import pytest
import tiny
import tiny_answers
import tiny_task
import torch
from seen import all_inside
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.posterior import every_route, fix_batches
from adamix_lab.core.errors import LabError
from adamix_lab.lessons import strategies
from adamix_lab.lessons.strategies import all_right_but_the_merge, lost_rows, scored

ANSWERS = tiny_answers.answers(60, noise=1.5)
TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()


def loss(log_p):
    return -log_p.gather(-1, ANSWERS.labels[:, None])[:, 0]


def test_each_way_is_scored_as_it_says():
    p = ANSWERS.routes.exp()
    close.assert_close(scored(ANSWERS, "ensemble", "nats"), loss(p.mean(1).log()))
    close.assert_close(scored(ANSWERS, "merged", "nats"), loss(ANSWERS.merged))
    close.assert_close(scored(ANSWERS, "fixed", "nats"), loss(ANSWERS.routes[:, 0]))
    close.assert_close(scored(ANSWERS, "random", "nats"), ANSWERS.loss.mean(1))
    right = (p.mean(1).argmax(-1) == ANSWERS.labels).float()
    assert torch.equal(scored(ANSWERS, "ensemble"), right) and torch.equal(
        scored(ANSWERS, "random"), ANSWERS.right.mean(1)
    )
    for name, value, known in (("way", "merge", "merged"), ("unit", "points!", "points")):
        with pytest.raises(LabError, match=f"{value!r} is not known.*{known}"):
            scored(ANSWERS, **{"way": "merged", name: value})


def test_the_papers_ensemble_lies_between_one_route_and_all_of_them():
    one, four = (scored(ANSWERS, way, "nats").mean() for way in ("random", "four"))
    every = loss(ANSWERS.routes.mean(1).log_softmax(-1)).mean()  # logits averaged over all 16
    assert every < four < one
    alike = tiny_answers.of_odds(ANSWERS.routes[:, :1, 1].expand(-1, 16) * 2, ANSWERS.labels)
    close.assert_close(scored(alike, "four", "nats"), scored(alike, "random", "nats"))


def test_jensens_inequality_holds_on_every_row_for_the_ensemble_only():
    gaps = scored(ANSWERS, "random", "nats") - scored(ANSWERS, "ensemble", "nats")
    assert float(gaps.min()) > -1e-6
    picture = strategies.draw_jensen(ANSWERS)
    assert "the ensemble: below 0 on 0 of 60 rows" in picture.alt and all_inside(picture.figure)


def test_rows_that_only_the_merge_gets_wrong():
    labels = torch.tensor([0, 1, 1])
    answers = tiny_answers.of_odds(torch.tensor([[-1.0] * 16, [1.0] * 16, [1.0] * 15 + [-1.0]]), labels)
    broken = strategies.Answers(answers.routes, answers.merged.flip(-1), labels, answers.index)
    assert all_right_but_the_merge(answers).sum() == 0
    assert all_right_but_the_merge(broken).tolist() == [1, 1, 0]
    table = lost_rows(broken, TASK)
    text = TASK.text[0]
    assert sorted(table.index) == sorted(str(TASK.evaluation[n][text]) for n in (0, 1))
    assert set(table["the merge (%)"]) == {27} and set(table["least sure route (%)"]) == {73}


def test_pictures_and_tables_tell_all_ways():
    runs = [ANSWERS, tiny_answers.answers(60, seed=1)]
    picture = strategies.draw_violins(runs)
    assert "one for each of 2 seeds" in picture.alt and all_inside(picture.figure)
    for way in ("merged", "fixed", "ensemble"):
        mean = sum(100 * float(scored(run, way).mean()) for run in runs) / 2
        assert f"{way} {mean:.1f}" in picture.alt
    table = strategies.four_ways(runs)
    assert table["passes"].tolist() == [1, 1, 1, 4, 16] and len(table) == len(strategies.WAYS)
    assert "one start" not in strategies.draw_fan(near=0.4, steps=20).alt


def test_the_agreement_explorer_asks_every_route():
    mixture = tiny.shake(tiny_task.mixture(experts=4, blocks=(-2, -1))).eval()
    widget = strategies.agreement_explorer({"tiny": (mixture, TOKENIZER)}, TASK)
    assert (
        widget.last_error is None and "of 16 routes say the same" in widget.text and all_inside(widget.picture.figure)
    )
    answers, sentence, _ = widget.result
    fixed = fix_batches(mixture, TASK, TOKENIZER, [{TASK.text[0]: sentence}], batch_size=1)
    close.assert_close(answers.routes, every_route(fixed).log_probabilities)
    with torch.no_grad():
        merged = mixture(**TOKENIZER([sentence], return_tensors="pt")).logits.log_softmax(-1)
    close.assert_close(answers.merged, merged)
    agree = int(((answers.routes[0, :, -1].exp() > 0.5) == (merged[0, -1].exp() > 0.5)).sum())
    assert f"{agree} of 16 routes say the same" in widget.text
    widget.set(sentence="another one")
    assert "another one" in widget.picture.alt
    widget.buttons["Show me"].click()
    assert "“a man walks into a bar”" in widget.picture.alt  # as the sheet has it


def test_the_shipped_seeds_are_found():
    runs = strategies.seeds_of("adamix", "noisy")
    assert runs and all(run.routes.shape == (1000, 16, 2) for run in runs)
    with pytest.raises(LabError, match="not known"):
        strategies.seeds_of("adamixx")
