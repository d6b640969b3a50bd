"""Averages of weights over steps: by hand from snapshots, on a dev slice, across a kill, and what is refused."""

import close
import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

TASK, TOKENIZER, STEPS = tiny_task.task(), tiny_task.tokenizer(), 12


class Killed(Exception):
    pass


def trained(folder=None, die_at=None, **settings):
    """(weights that were kept, weights behind each step, history) of a run on a tiny task with dropout."""
    snapshots = []

    def look(step):
        snapshots.append(tiny_task.weights(mixture))
        if step == die_at:
            raise Killed

    mixture, recipe = tiny_task.mixture(0.1), tiny_task.recipe(steps=STEPS, **settings)
    history = train(mixture, TASK, TOKENIZER, recipe, folder, progress=False, on_step=look)
    return tiny_task.weights(mixture), snapshots, history


def mean(snapshots, weights):
    return {
        name: sum(w * each[name].double() for w, each in zip(weights, snapshots, strict=True)).float() / sum(weights)
        for name in snapshots[0]
    }


def test_swa_is_the_mean_of_the_snapshots_of_its_window():
    kept, snapshots, _ = trained(swa=0.75)
    assert tiny_task.apart(kept, mean(snapshots[3:], [1.0] * 9)) <= close.ROUNDED.share
    assert tiny_task.apart(kept, snapshots[-1]) > 1e-3


def test_ema_is_the_mean_of_all_snapshots_that_fade():
    kept, snapshots, _ = trained(ema=0.8)
    fading = [0.8 ** (STEPS - 1 - n) for n in range(STEPS)]
    assert tiny_task.apart(kept, mean(snapshots, fading)) <= close.ROUNDED.share


def test_the_whole_run_and_its_last_step_are_windows():
    kept, snapshots, _ = trained(swa=1.0)
    assert tiny_task.apart(kept, mean(snapshots, [1.0] * STEPS)) <= close.ROUNDED.share
    kept, snapshots, _ = trained(swa=1 / STEPS)
    assert tiny_task.apart(kept, snapshots[-1]) == 0


def test_training_itself_does_not_know_of_the_average():
    (_, averaged, _), (_, plain, _) = trained(swa=0.5, dev_fraction=0.2, evaluate_every=2), trained(dev_fraction=0.2)
    assert all(tiny_task.apart(a, b) == 0 for a, b in zip(averaged, plain, strict=True))


def test_the_dev_slice_looks_at_the_average_and_the_best_one_is_kept():
    kept, snapshots, history = trained(swa=0.75, dev_fraction=0.2, evaluate_every=2, lr=3e-2)
    best = history.best["step"]
    expected = snapshots[best - 1] if best <= 3 else mean(snapshots[3:best], [1.0] * (best - 3))
    assert tiny_task.apart(kept, expected) <= close.ROUNDED.share
    assert [row["step"] for row in history.looks] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("average", [{"swa": 0.75}, {"ema": 0.9}, {"swa": 0.75, "dev_fraction": 0.2}], ids=str)
@pytest.mark.parametrize("die_at", [2, 7, 12])
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(tmp_path, average, die_at):
    settings = {**average, "checkpoint_every": 2, "evaluate_every": 4, "side_rates": {"down": 0.5}}
    expected, _, _ = trained(**settings)
    with pytest.raises(Killed):
        trained(tmp_path, die_at, **settings)
    found, _, history = trained(tmp_path, **settings)
    assert history.resumed_from == die_at - die_at % 2
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"swa": 0}, "swa = 0: .*window of no steps"),
        ({"swa": 1.5}, "swa = 1.5: expected a share"),
        ({"ema": 1.0}, "ema = 1.0: expected a factor"),
        ({"swa": 0.5, "ema": 0.9}, "expected one of them"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0: expected"),
        ({"label_smoothing": -0.1}, "label_smoothing = -0.1: expected"),
    ],
)
def test_what_is_no_average_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**settings)


def test_a_window_of_no_steps_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"swa = 0\.01 of 12 steps is a window of no steps"):
        trained(swa=0.01)


def test_smoothing_changes_training_and_not_how_the_dev_slice_is_judged():
    _, _, plain = trained(label_smoothing=0.0, lr=0.0, dev_fraction=0.2, log_every=1)
    _, _, smooth = trained(label_smoothing=0.3, lr=0.0, dev_fraction=0.2, log_every=1)
    assert smooth.rows[0]["task"] != plain.rows[0]["task"]
    assert smooth.looks[0]["dev"] == plain.looks[0]["dev"]
    own, recipe = torch.nn.functional.cross_entropy, tiny_task.recipe(label_smoothing=0.3)
    with pytest.raises(ValueError, match=r"label_smoothing = 0\.3 with a task_loss of your own"):
        train(tiny_task.mixture(), TASK, TOKENIZER, recipe, task_loss=own, progress=False)
