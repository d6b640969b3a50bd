"""Lesson 09: the embedded notices, slot coverage, a search with a route a step, the explorer, the checks."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import close
import pytest
import tiny
import tiny_generation
import torch
from makers import load_maker

from adamix_lab.core.adaptations import LoRA
from adamix_lab.generation import comparison
from adamix_lab.generation.decoding import Decoding, a_route_each, generate_texts, one_route, search
from adamix_lab.generation.tasks import coverage, load_generation_task, realised, slots_of
from adamix_lab.lessons.checks.exercises import check_coverage, check_prefix_labels
from adamix_lab.models.model import attach
from adamix_lab.tasks.tasks import data_root

TASK, TOKENIZER = tiny_generation.task(), tiny_generation.tokenizer()
END = TOKENIZER.eos_token_id


def writer(seed=0):
    mixture = attach(tiny_generation.decoder(), LoRA(rank=2), experts=4, share="B", seed=seed)
    return tiny.shake(mixture).eval()


def prompt(source):
    return [*TOKENIZER(source, add_special_tokens=False)["input_ids"], END]


# -- the data -----------------------------------------------------------------------------------------------


def test_the_notices_are_what_their_generator_makes():
    folder = data_root() / "notices"
    done = subprocess.run([sys.executable, str(folder / "generate.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    spec = importlib.util.spec_from_file_location("notices", folder / "generate.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    train, test = (
        [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        for part in ("train", "test")
    )
    assert not {row["source"] for row in train} & {row["source"] for row in test}
    for row in train + test:
        slots = slots_of(row["source"])
        assert 4 <= len(slots) <= 6 and all(realised(row["target"], slots).values()), row
        pair = slots["event"], slots["place"]
        assert (pair in made.held_out()) == (row["test_category"] == "held out")
    assert {row["test_category"] for row in train} == {"seen"}
    assert len({row["source"] for row in test if row["test_category"] == "held out"}) == 40
    values = [value for listed in made.SLOTS.values() for value in listed.split()]
    forms = " ".join(made.FORMS).lower().split()
    assert len(set(values)) == len(values) and not {value.lower() for value in values} & set(forms)


def test_the_notices_load_by_name():
    task = load_generation_task("notices")
    assert len(task.train) == 2400 and len(task.evaluation) == 80
    assert {len(row["references"]) for row in task.evaluation} == {4}
    with pytest.raises(ValueError, match=r"'notice' is not known.*notices"):
        load_generation_task("notice")


# -- coverage -----------------------------------------------------------------------------------------------


def test_coverage_counts_whole_words_once():
    slots = {"event": "race", "host": "king"}
    assert realised("Asking for a RACE, a race.", slots) == {"event": True, "host": False}
    assert coverage(["a race of the king", ""], ["event: race, host: king"] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("source", ["", "event", "event: ", "event: race, event: play", "event: race, the park"])
def test_sources_that_are_no_meanings_are_refused(source):
    with pytest.raises(ValueError, match=r"expected (slots and values|each slot once)|like event: race"):
        slots_of(source)


def test_coverage_asks_for_a_text_each():
    with pytest.raises(ValueError, match="a text each"):
        coverage(["a"], [])


# -- search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["merged", "fixed-1"])
def test_a_held_route_writes_what_transformers_writes(strategy):
    mixture = writer()
    settings = Decoding(beams=1, no_repeat=0, new_tokens=8, batch_size=1)
    for source, expected in zip(
        TASK.sources, generate_texts(mixture, TASK.sources, TOKENIZER, settings, strategy), strict=True
    ):
        route = None if strategy == "merged" else mixture.space.fixed(1)
        tokens = search(mixture, prompt(source), END, one_route(route), new_tokens=8).tokens
        assert TOKENIZER.decode(tokens).strip().split("\n")[0].strip() == expected


def test_more_beams_never_score_lower_where_all_are_kept():
    mixture, found = writer(), []
    for beams in (1, 3):
        best = search(mixture, prompt(TASK.sources[0]), END, one_route(None), beams, new_tokens=3)
        found.append(best.score)
    assert found[1] >= found[0] - close.REORDERED.share * abs(found[0])


def test_the_score_is_the_mean_log_probability_of_what_was_written():
    mixture = writer()
    start = prompt(TASK.sources[0])
    best = search(mixture, start, END, one_route(None), beams=2, new_tokens=4)
    written = best.tokens if len(best.tokens) == 4 else [*best.tokens, END]
    with torch.no_grad():
        log_p = mixture(input_ids=torch.tensor([[*start, *written]])).logits[0].log_softmax(-1)
    rows = range(len(start) - 1, len(start) + len(written) - 1)
    close.assert_close(best.score, float(log_p[list(rows), written].mean()))


def test_a_route_for_each_step_is_a_route_for_each_token_of_one_pass():
    mixture = writer()
    start, route_at = prompt(TASK.sources[0]), a_route_each(mixture.space, 5)
    tokens = search(mixture, start, END, route_at, new_tokens=5).tokens[:4]
    routes = torch.stack([route_at(0)] * len(start) + [route_at(n + 1) for n in range(len(tokens))])[None]
    with torch.no_grad():
        logits = mixture(input_ids=torch.tensor([[*start, *tokens]]), selection=routes).logits[0]
    assert logits[len(start) - 1 : -1].argmax(-1).tolist()[: len(tokens)] == tokens
    assert torch.equal(route_at(3), a_route_each(mixture.space, 5)(3))


def test_what_does_not_fit_the_search_is_told():
    mixture = writer()
    with pytest.raises(ValueError, match="beams = 0"):
        search(mixture, [1], END, one_route(None), beams=0)
    with pytest.raises(ValueError, match="prompt is empty"):
        search(mixture, [], END, one_route(None), new_tokens=4)


# -- what is shipped ----------------------------------------------------------------------------------------


def test_missing_writers_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data/generators/make\.py"):
        comparison.load_writer(folder=tmp_path)


def test_writers_are_made_once_and_described(tmp_path, monkeypatch):
    task = load_generation_task("notices")
    few = replace(task, train=task.train[:8], evaluation=task.evaluation[:3])
    short = {"STRATEGIES": ("merged", "fixed-0", "random", "anew"), "BEAMS": (1, 2), "EXPLORED": 2, "NEW_TOKENS": 6}
    monkeypatch.setattr(comparison, "NEW_TOKENS", short["NEW_TOKENS"])
    maker = load_maker("generators")
    short["GREEDY"] = replace(maker.GREEDY, new_tokens=6)
    for name, value in {**short, "load_generation_task": lambda name: few}.items():
        monkeypatch.setattr(maker, name, value)
    said = []
    maker.make(tmp_path, seeds=(0,), steps=1, say=said.append)
    maker.make(tmp_path, seeds=(0,), steps=1, say=said.append)
    assert len(said) == 2 and said[0] == said[1] and "merged" in said[0]
    mixture, tokenizer = comparison.load_writer(folder=tmp_path)
    texts, explored = (comparison.load_texts(folder=tmp_path, file=file) for file in ("texts.json", "explored.json"))
    assert {len(each) for each in texts.values()} == {3} and set(texts) == set(short["STRATEGIES"])
    assert set(explored) == set(comparison.ROUTES) and explored["merged"].keys() == {"1", "2"}
    for strategy, seed in (("anew", 1), ("fixed-0", 0)):
        assert comparison.write_one(mixture, few.sources[1], tokenizer, strategy, seed=seed) == texts[strategy][1]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "1 steps of 8 pairs" in card and "| anew |" in card and str(tmp_path) not in card


def test_the_card_is_what_the_notes_give():
    maker, folder = load_maker("generators"), data_root() / "generators"
    assert maker.card(folder, load_generation_task(maker.TASK)) == (folder / "README.md").read_text(encoding="utf-8")


def test_the_shipped_writer_writes_what_is_stored():
    mixture, tokenizer = comparison.load_writer()
    task, texts = load_generation_task("notices"), comparison.load_texts()
    for n in (0, 50):
        assert comparison.write_one(mixture, task.sources[n], tokenizer, "merged") == texts["merged"][n]
        assert comparison.write_one(mixture, task.sources[n], tokenizer, "anew", seed=n) == texts["anew"][n]
    assert set(texts) == set(comparison.STRATEGIES) and {len(each) for each in texts.values()} == {80}


def test_the_explorer_is_driven():
    pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")
    from adamix_lab.lessons.generation import decoding_explorer, inputs, share, written

    widget = decoding_explorer()
    assert widget.last_error is None
    before = widget.picture.alt
    widget.buttons["Show me"].click()
    assert widget.picture.alt != before and "Chosen: expert 1, 1 beam" in widget.picture.alt
    for number, route, beams in ((1, "expert 0", 1), (10, "a new route every token", 4), (5, "merged", 4)):
        widget.set(number=number, route=route, beams=beams)
        source, texts, *_ = written(number, route, beams)
        assert source == inputs()[number - 1] and f"{source} → “{texts[route]}”" in widget.text
        assert f"{100 * share(route, beams):.0f} % of the slots" in widget.text
    with pytest.raises(ValueError, match=r"beams = 3: expected one of 1, 4"):
        widget.set(beams=3)


def test_the_first_picture_and_the_tables():
    pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")
    from adamix_lab.lessons.drawing import outcome
    from adamix_lab.lessons.generation import ANSWERS, draw_task, e2e_scores

    assert outcome("09", "one random route a text", *ANSWERS) in ANSWERS
    assert "person 4 4" in draw_task(load_generation_task("notices")).alt
    assert "LoRA" in e2e_scores()


# -- checks -------------------------------------------------------------------------------------------------


def labels_of(source, target, sep, end):
    return [-100] * (len(source) + 1) + [*target, end]


def covered(text, slots):
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return sum(value.lower() in words for value in slots.values()) / len(slots)


def test_right_answers_pass(capsys):
    check_prefix_labels(labels_of)
    check_coverage(covered)
    assert capsys.readouterr().out.count("right") == 2


WRONG = {
    "source": (check_prefix_labels, lambda s, t, sep, end: [*s, sep, *t, end], "source is learned"),
    "separator": (check_prefix_labels, lambda s, t, sep, end: [-100] * len(s) + [sep, *t, end], "separator is counted"),
    "late": (check_prefix_labels, lambda s, t, sep, end: [-100] * (len(s) + 2) + [*t[1:], end], "first token"),
    "shifted": (check_prefix_labels, lambda s, t, sep, end: [-100] * len(s) + [*t, end, -100], "shifts them again"),
    "endless": (check_prefix_labels, lambda s, t, sep, end: [-100] * (len(s) + 1) + [*t, -100], "never stop"),
    "short": (check_prefix_labels, lambda s, t, sep, end: [*t, end], "for each of the"),
    "inside": (check_coverage, lambda x, s: sum(v.lower() in x.lower() for v in s.values()) / len(s), "whole words"),
    "marks": (check_coverage, lambda x, s: sum(v.lower() in x.lower().split() for v in s.values()) / 4, "marks cut"),
    "percent": (check_coverage, lambda x, s: 100 * covered(x, s), "percentage"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_told_their_cause(name):
    check, answer, cause = WRONG[name]
    with pytest.raises(AssertionError, match=cause):
        check(answer)
