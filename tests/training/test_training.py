import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import close
import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import Router
from adamix_lab.tasks import batches
from adamix_lab.tasks.batches import Batches
from adamix_lab.tasks.tasks import Task
from adamix_lab.training import train as training
from adamix_lab.training.run import read_log
from adamix_lab.training.train import prepare_data, train

ROOT = Path(__file__).resolve().parents[2]
TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
# Equal gradients become nearly equal weights: Adam divides by the gradient's own size, so rounding in a gradient near 0
# becomes a part of a whole step. At the default rate twelve such steps stay below 1e-5 of the largest weight.
GENTLE = {"lr": 4e-4}


def run(folder=None, dropout=0.0, mixture=None, task=TASK, **settings):
    mixture = mixture or tiny_task.mixture(dropout)
    history = train(mixture, task, TOKENIZER, tiny_task.recipe(**settings), folder, progress=False)
    return mixture, history


def difference(first, second):
    return tiny_task.apart(tiny_task.weights(first), tiny_task.weights(second))


def test_the_loss_falls_and_only_experts_and_head_move():
    mixture = tiny_task.mixture()
    frozen = {n: p.clone() for n, p in mixture.named_parameters() if not p.requires_grad}
    _, history = run(mixture=mixture, steps=120, batch_size=16, log_every=1, lr=5e-2, dev_fraction=0.2)
    assert sum(history.losses[-8:]) < 0.5 * sum(history.losses[:8])
    assert history.best["dev"]["accuracy"] > 0.6
    assert all(torch.equal(frozen[n], p) for n, p in mixture.named_parameters() if n in frozen)
    assert not mixture.training


def test_a_run_is_a_function_of_its_seed():
    torch.manual_seed(1)
    first, _ = run(dropout=0.1)
    torch.manual_seed(2)
    assert difference(first, run(dropout=0.1)[0]) == 0
    assert difference(first, run(dropout=0.1, seed=1)[0]) > 0


def test_the_log(tmp_path):
    mixture, history = run(tmp_path, steps=12, log_every=5, dev_fraction=0.2, evaluate_every=6)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == history.rows == read_log(tmp_path / "log.jsonl")
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [1, 5, 10, 12] and [row["step"] for row in history.looks] == [6, 12]
    row = rows[1]
    assert set(row) == {"step", "loss", "task", "consistency", "agreement", "lr", "seconds", "route"}
    close.assert_close(row["loss"], row["task"] + row["consistency"], close.ROUNDED)
    assert row["route"] == Router(mixture.space, seed=0).views(5 - 1).tolist()
    assert rows[0]["lr"] == 0 and history.steps == 12


def test_selection_keeps_the_best_weights():
    # a rate that is far too high at its peak: later weights are worse than some before
    mixture, history = run(steps=30, lr=0.5, dev_fraction=0.25, evaluate_every=1)
    best = max(history.looks, key=lambda row: (row["dev"]["accuracy"], -row["dev"]["loss"]))
    assert history.best == best and best["step"] < 30
    _, dev = training.hold_out(TASK.train, 0.25, 0)
    right = 0
    for row in dev:
        batch = TOKENIZER(row["sentence"], return_tensors="pt")
        right += int(mixture(**batch).logits.argmax() == row["label"])
    assert right / len(dev) == pytest.approx(best["dev"]["accuracy"])


@pytest.mark.parametrize("numbers", [range(96), [n // 2 for n in range(96)], [n / 7 for n in range(96)]])
def test_whole_numbers_to_be_met_are_no_classes_of_the_dev_slice(numbers):
    rows = [{**row, "label": number} for row, number in zip(TASK.train, numbers, strict=True)]
    task = Task("numbers", rows, rows, ("sentence",))
    recipe = tiny_task.recipe(steps=1, dev_fraction=0.25, consistency=Consistency(1.0, "mse"))
    _, train_rows, dev_rows, _ = prepare_data(tiny_task.mixture(), task, TOKENIZER, recipe)
    assert (len(train_rows), len(dev_rows)) == (72, 24)


def test_early_stop():
    _, history = run(steps=40, lr=0.0, dev_fraction=0.2, evaluate_every=2, patience=3)
    assert history.stopped_early and history.steps == 8  # one look that counts, three without improvement
    assert history.best["step"] == 2


@pytest.mark.parametrize("warm, told", [(12, True), (24, True), (11, False)])
def test_a_warm_up_as_long_as_the_run_is_told(warm, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(steps=12, warmup_steps=warm)
    texts = [str(each.message) for each in caught if "warmup_steps" in str(each.message)]
    assert len(texts) == told and all(f"warmup_steps = {warm} in a run of 12 steps" in text for text in texts)


def test_without_a_dev_slice_the_last_weights_stay():
    _, history = run()
    assert history.best is None and not history.looks


@pytest.mark.parametrize("accumulate", [3, 8])
def test_accumulation_equals_the_big_batch(accumulate):
    whole, history = run(clip=0.1, log_every=1, **GENTLE)
    pieces, in_pieces = run(clip=0.1, log_every=1, accumulate=accumulate, **GENTLE)
    assert difference(whole, pieces) <= close.TRAINED.share
    close.assert_close(in_pieces.losses, history.losses)


def test_a_last_batch_smaller_than_its_pieces():
    task = tiny_task.task(rows=10)  # batches of 8 and 2 rows, in 4 pieces
    whole, _ = run(task=task, steps=4, **GENTLE)
    pieces, _ = run(task=task, steps=4, accumulate=4, **GENTLE)
    assert difference(whole, pieces) <= close.TRAINED.share


@pytest.mark.parametrize("views", ["independent", "shared_prefix"])
def test_the_cached_prefix_changes_nothing_without_dropout(views):
    settings = {"consistency": Consistency(1.0, views=views), "dev_fraction": 0.2, **GENTLE}
    plain, history = run(mixture=tiny_task.mixture(blocks=(-2, -1)), **settings)
    cached, from_states = run(mixture=tiny_task.mixture(blocks=(-2, -1)), cache_prefix=True, **settings)
    assert difference(plain, cached) <= close.TRAINED.share
    close.assert_close(from_states.best["dev"]["loss"], history.best["dev"]["loss"])
    batch = TOKENIZER(["w1 w12"], return_tensors="pt")  # the model itself is whole again
    close.assert_close(cached(**batch).logits, plain(**batch).logits, close.TRAINED)


TWO_BLOCKS = {"blocks": (-2, -1)}


def test_cached_passes_have_masks_of_their_own_and_steps_take_them_in_turn():
    recipe, mixture = tiny_task.recipe(cache_prefix=True, cached_passes=3), tiny_task.mixture(0.3, **TWO_BLOCKS)
    _, made, _, _ = prepare_data(mixture, TASK, TOKENIZER, recipe)
    rows, states = len(TASK.train), [example["inputs_embeds"] for example in made]
    assert len(made) == 3 * rows and all(len(states[n]) == len(states[n + rows]) for n in range(rows))
    differing = [not torch.equal(states[n], states[n + rows * k]) for n in range(rows) for k in (1, 2)]
    assert all(differing)
    assert [int(example["labels"]) for example in made] == 3 * [row["label"] for row in TASK.train]
    order, plain = Batches(made, 8, seed=0, passes=3), Batches(made[:rows], 8, seed=0)
    assert len(order) == len(plain) == 12
    for step in range(30):
        assert [n - step % 3 * rows for n in order.at(step)] == plain.at(step)
    with pytest.raises(ValueError, match="287 examples in 3 passes"):
        Batches(made[1:], 8, passes=3)


def test_a_step_learns_from_the_pass_whose_turn_it_is(monkeypatch):
    seen, loop = [], training.collate
    monkeypatch.setattr(training, "collate", lambda rows, pad: (seen.append(rows), loop(rows, pad))[1])
    run(mixture=tiny_task.mixture(0.3, **TWO_BLOCKS), cache_prefix=True, cached_passes=2, steps=24)
    first, second = ({id(row["inputs_embeds"]) for rows in seen[n::2] for row in rows} for n in (0, 1))
    assert first and second and not first & second


@pytest.mark.parametrize("passes", [1, 3])
def test_without_dropout_several_passes_are_one(passes):
    settings = {"cache_prefix": True, "dev_fraction": 0.2, "steps": 20, **GENTLE}
    one, history = run(mixture=tiny_task.mixture(**TWO_BLOCKS), **settings)
    several, again = run(mixture=tiny_task.mixture(**TWO_BLOCKS), cached_passes=passes, **settings)
    assert difference(one, several) <= close.TRAINED.share
    close.assert_close(again.best["dev"]["loss"], history.best["dev"]["loss"])


def test_cached_passes_are_a_function_of_the_seed():
    def trained(passes=2):
        return run(mixture=tiny_task.mixture(0.3, **TWO_BLOCKS), cache_prefix=True, cached_passes=passes)[0]

    first = trained()
    torch.manual_seed(5)
    assert difference(first, trained()) == 0
    assert difference(first, trained(passes=3)) > 1e-5


def test_cached_passes_beyond_the_memory_are_refused_with_how_many_fit(monkeypatch):
    settings = {"mixture": tiny_task.mixture(0.1, **TWO_BLOCKS), "cache_prefix": True}
    _, made, _, _ = prepare_data(settings["mixture"], TASK, TOKENIZER, tiny_task.recipe(cache_prefix=True))
    monkeypatch.setattr(batches, "CACHED", 5 * sum(example["inputs_embeds"].nbytes for example in made))
    with pytest.raises(ValueError, match=r"cached_passes = 6 of .* Take 5 or fewer"):
        run(cached_passes=6, **settings)
    run(cached_passes=5, **settings)


def test_cached_passes_ask_for_a_cache():
    with pytest.raises(ValueError, match="cached_passes = 4 with cache_prefix = False"):
        tiny_task.recipe(cached_passes=4)
    with pytest.raises(ValueError, match="cached_passes = 0"):
        tiny_task.recipe(cache_prefix=True, cached_passes=0)


def test_bfloat16_on_the_cpu_and_another_precision_after_it():
    mixture, history = run(precision="bf16", steps=100, batch_size=16, lr=5e-2, log_every=1)
    assert sum(history.losses[-8:]) < 0.8 * sum(history.losses[:8])
    assert all(p.dtype == torch.float32 for _, p in mixture.expert_parameters())
    halved, _ = run(precision="bf16")
    exact, _ = run()  # float32 again, in the same process
    assert difference(halved, exact) > 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where fp16 works")
def test_float16_needs_a_gpu():
    with pytest.raises(ValueError, match='expected "no" or "bf16" on a CPU'):
        run(precision="fp16")


@pytest.mark.parametrize("settings", [{"per": "example"}, {"per": "token"}, {"off_route": "freeze"}])
def test_other_routings_train(settings):
    mixture, history = run(log_every=1, **settings, **GENTLE)
    assert all(map(math.isfinite, history.losses))
    assert (history.rows[0]["route"] is None) == (settings.get("per", "batch") != "batch")
    pieces, _ = run(accumulate=3, **settings, **GENTLE)
    assert difference(mixture, pieces) <= close.TRAINED.share


def test_weight_zero_means_one_view():
    _, history = run(consistency=Consistency(0.0), log_every=1)
    assert len(history.rows[0]["route"]) == 1 and history.rows[0]["consistency"] == 0


def test_looking_on_while_it_trains():
    seen = []
    train(tiny_task.mixture(), TASK, TOKENIZER, tiny_task.recipe(steps=3), progress=False, on_step=seen.append)
    assert seen == [1, 2, 3]


def test_a_loss_of_ones_own():
    def smoothed(logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)

    mixture = tiny_task.mixture()
    train(mixture, TASK, TOKENIZER, tiny_task.recipe(), task_loss=smoothed, progress=False)
    assert difference(mixture, run()[0]) > 0


def test_regression_selects_by_loss():
    from adamix_lab.core.adaptations import Bottleneck
    from adamix_lab.models.model import attach
    from adamix_lab.tasks.tasks import Task

    rows = [{**row, "label": float(row["label"])} for row in TASK.train]
    task = Task("numbers", rows, rows[:10], ("sentence",))
    mixture = attach(_one_number(), Bottleneck(4), experts=2)
    _, history = run(mixture=mixture, task=task, steps=40, lr=1e-2, dev_fraction=0.2, evaluate_every=5,
                     consistency=Consistency(1.0, kind="mse"))  # fmt: skip
    assert set(history.best["dev"]) == {"loss"}
    assert history.best["dev"]["loss"] == min(row["dev"]["loss"] for row in history.looks)
    assert history.best["dev"]["loss"] < history.looks[0]["dev"]["loss"]


def _one_number():
    import tiny

    model = tiny.bert()
    model.classifier = torch.nn.Linear(tiny.WIDTH, 1)
    model.num_labels = model.config.num_labels = 1
    return model


def test_a_loss_that_is_not_finite_stops_the_run():
    def broken(logits, labels):
        return logits.sum() * float("nan")

    with pytest.raises(FloatingPointError, match=r"loss at step 1 is nan: expected a finite number. Lower lr"):
        train(tiny_task.mixture(), TASK, TOKENIZER, tiny_task.recipe(), task_loss=broken, progress=False)


def test_a_head_that_does_not_fit_the_task():
    from adamix_lab.tasks.tasks import Task

    two = Task("two", TASK.train, TASK.evaluation, ("sentence",), "label", ("a", "b"))
    with pytest.raises(ValueError, match=r"head answers 3 labels: expected 2 for task 'two'.*num_labels=2"):
        run(task=two)


def test_a_label_outside_the_classes():
    from dataclasses import replace

    rows = [{"sentence": "w1", "label": 7}] * 8
    with pytest.raises(ValueError, match="Label 7 is outside the 3 classes"):
        run(task=replace(TASK, train=rows))


def test_empty_sentences_train():
    from dataclasses import replace

    rows = [{"sentence": "", "label": n % 3} for n in range(16)]
    assert all(map(math.isfinite, run(task=replace(TASK, train=rows))[1].losses))


def test_the_loop_loads_few_modules():
    code = "import sys, adamix_lab; adamix_lab.train; print(*(n for n in sys.modules if n.startswith('adamix_lab')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = done.stdout.split()
    assert len(loaded) <= 25, sorted(loaded)
    assert not [name for name in loaded if name.startswith("adamix_lab.fast")]


def test_the_training_code_needs_no_datasets_and_no_jupyter():
    tests = ROOT / "tests"
    code = (
        "import sys\n"
        "for name in ('datasets', 'IPython', 'ipywidgets', 'matplotlib', 'sklearn', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path[:0] = [{str(tests)!r}, {str(ROOT)!r}]\n"
        "import torch, tiny_task\ntorch.set_num_threads(1)\nfrom adamix_lab.training.train import train\n"
        "recipe = tiny_task.recipe(steps=2)\n"
        "train(tiny_task.mixture(), tiny_task.task(), tiny_task.tokenizer(), recipe, progress=False)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
