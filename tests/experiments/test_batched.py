import close
import pytest
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.analysis.gate import attach_gates
from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.merging import relative_difference
from adamix_lab.core.objective import Consistency
from adamix_lab.experiments.batched import incompatibilities, train_batched
from adamix_lab.fast.blocks import FirstQuery
from adamix_lab.models.model import attach
from adamix_lab.training.train import prepare_data, train

TASK, TOKENIZER = tiny_task.task(rows=93), tiny_task.tokenizer()  # 93 rows: an epoch's last batch is smaller
# Settings in which runs may differ. Rates stay gentle: Adam turns rounding of gradients near 0 into parts of a step.
APART = (
    {"seed": 0, "lr": 4e-4, "consistency": Consistency(1.0)},
    {"seed": 1, "lr": 1e-3, "head_lr": 2e-3, "weight_decay": 0.3, "consistency": Consistency(0.3, "symmetric")},
    {"seed": 2, "lr": 2e-4, "clip": 0.05, "warmup": 0.5, "bucket": 1, "consistency": Consistency(0.0)},
)
AVERAGED = (
    {"seed": 0, "swa": 0.5},
    {"seed": 1, "ema": 0.8, "side_rates": {"down": 0.25}},
    {"seed": 2, "side_rates": {"up": 0.5}, "label_smoothing": 0.2},
)


def recipes(apart=APART, **common):
    return [tiny_task.recipe(**{"steps": 14, "log_every": 1, **common, **own}) for own in apart]


def fresh(seed, dropout=0.0, **more):
    model = tiny_task.mixture(dropout, seed=seed, **more)
    with torch.no_grad():  # heads apart, too, as a backbone loaded with the run's seed has them
        for _, parameter in model.head_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def together(mixture, starts, tasks, recipes, **more):
    """`train_batched` from tasks, one for all or one a run."""
    tasks = tasks if isinstance(tasks, list) else [tasks] * len(recipes)
    made = {id(task): prepare_data(mixture, task, TOKENIZER, recipes[0]) for task in tasks}
    student = made[id(tasks[0])][0]
    return train_batched(student, starts, [made[id(task)][1] for task in tasks], recipes, progress=False, **more)


def compare(apart=APART, make=fresh, task=TASK, **common):
    """(difference of weights, of logged losses), relative to the largest, of runs batched and the same runs alone."""
    made = recipes(apart, **common)
    starts = [tiny_task.weights(make(recipe.seed)) for recipe in made]
    mixture = make(99)
    own = tiny_task.weights(mixture)
    results = together(mixture, starts, task, made)
    assert tiny_task.apart(own, tiny_task.weights(mixture)) == 0  # only lent
    weights = losses = 0.0
    for recipe, result in zip(made, results, strict=True):
        alone = make(recipe.seed)
        history = train(alone, task, TOKENIZER, recipe, progress=False)
        assert result.failed is None and result.history.steps == history.steps
        weights = max(weights, tiny_task.apart(result.weights, tiny_task.weights(alone)))
        for row, other in zip(history.rows, result.history.rows, strict=True):
            assert (row["step"], row["route"]) == (other["step"], other["route"])
            assert row["lr"] == pytest.approx(other["lr"])
        logged, expected = (
            [[row[name] for name in ("loss", "task", "consistency")] for row in each.rows]
            for each in (result.history, history)
        )
        losses = max(losses, relative_difference(logged, expected))
    return weights, losses


def test_a_stack_makes_no_keys_and_values_in_its_last_block(monkeypatch):
    rows, attend = [], FirstQuery._attend
    monkeypatch.setattr(
        FirstQuery,
        "_attend",
        lambda self, query, *args, **more: (rows.append(len(query)), attend(self, query, *args, **more))[1],
    )
    made = recipes(steps=2, cache_prefix=True)
    together(fresh(0), [tiny_task.weights(fresh(n)) for n in range(3)], TASK, made)
    assert rows[-2:] == 2 * [5 * made[0].batch_size]  # two views, two and one


@pytest.mark.parametrize("common", [{}, {"cache_prefix": True}, {"cache_prefix": True, "cached_passes": 3}], ids=str)
def test_three_runs_that_differ_equal_the_same_runs_alone(common):
    weights, losses = compare(**common)
    assert max(weights, losses) <= close.TRAINED.share


def test_averages_rates_by_side_and_smoothing_are_each_runs_own():
    weights, losses = compare(AVERAGED, lr=4e-4)
    assert max(weights, losses) <= close.TRAINED.share
    made = recipes(({"seed": 0}, {"seed": 1, "swa": 0.01}))
    with pytest.raises(ValueError, match="window of no steps"):
        together(fresh(0), [tiny_task.weights(fresh(n)) for n in (0, 1)], TASK, made)
    made = recipes(({"seed": 0}, {"seed": 1, "side_rates": {"B": 1.0}}))
    with pytest.raises(ValueError, match="Side of bottleneck in side_rates"):
        together(fresh(0), [tiny_task.weights(fresh(n)) for n in (0, 1)], TASK, made)


def test_averages_go_through_a_kill(tmp_path):
    made = recipes(AVERAGED, checkpoint_every=4)
    starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]

    def die(step):
        if step == kills[0]:
            raise KeyboardInterrupt

    expected = together(fresh(0, 0.1), starts, TASK, made)
    kills = [6, 14, 0]
    while kills[0]:
        with pytest.raises(KeyboardInterrupt):
            together(fresh(0, 0.1), starts, TASK, made, folder=tmp_path, on_step=die)
        kills.pop(0)
    found = together(fresh(0, 0.1), starts, TASK, made, folder=tmp_path)
    for one, other in zip(expected, found, strict=True):
        assert tiny_task.apart(one.weights, other.weights) == 0


def test_lora_without_sharing_in_the_upper_blocks_on_a_head_with_layers_of_its_own():
    def make(seed):
        return tiny.shake(attach(tiny.roberta(), LoRA(2), experts=2, blocks=(1, 2), seed=seed), seed=seed)

    weights, losses = compare(({"seed": 0}, {"seed": 1}), make, steps=8, lr=4e-4, cache_prefix=True)
    assert max(weights, losses) <= close.TRAINED.share


def test_each_run_may_have_few_examples_of_its_own():
    apart = ({"seed": 0}, {"seed": 1})
    tasks = [tiny_task.task(rows=10, seed=0), tiny_task.task(rows=13, seed=1)]
    made = recipes(apart, lr=4e-4, steps=6)
    starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]
    found = together(fresh(9), starts, tasks, made)
    for task, recipe, result in zip(tasks, made, found, strict=True):
        alone = fresh(recipe.seed)
        train(alone, task, TOKENIZER, recipe, progress=False)
        assert tiny_task.apart(result.weights, tiny_task.weights(alone)) <= close.TRAINED.share
    with pytest.raises(ValueError, match="give steps"):  # epochs of other rows are other steps
        together(fresh(9), starts, [tasks[0], tiny_task.task(rows=40)], recipes(apart, steps=None, epochs=3))


def test_a_run_does_not_depend_on_its_neighbours_and_learns():
    made = recipes(({"seed": 0}, {"seed": 1}), steps=60, batch_size=16, lr=3e-2)
    starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]
    both = together(fresh(0), starts, TASK, made)
    (alone,) = together(fresh(0), starts[:1], TASK, made[:1])
    first = [row["loss"] for row in both[0].history.rows]
    close.assert_close(first[:5], [row["loss"] for row in alone.history.rows[:5]], close.TRAINED)
    for each in both:
        assert sum(each.history.losses[-8:]) < 0.7 * sum(each.history.losses[:8])


def test_dropout_is_on_and_a_set_is_a_function_of_its_settings():
    made = recipes(({"seed": 0}, {"seed": 1}), steps=3)

    def run(dropout):
        mixture = fresh(0, dropout)
        starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]
        return together(mixture, starts, TASK, made)[1].weights

    assert tiny_task.apart(run(0.2), run(0.2)) == 0
    assert tiny_task.apart(run(0.2), run(0.0)) > 0


def test_a_run_that_diverges_is_named_and_leaves_the_others_alone():
    made = recipes(({"seed": 0, "lr": 1e30, "warmup": 0.0}, {"seed": 1}), lr=4e-4)
    starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]
    broken, sound = together(fresh(0), starts, TASK, made)
    assert "nan" in broken.failed and "lower lr" in broken.failed
    assert sound.failed is None and all(bool(w.isfinite().all()) for w in sound.weights.values())


def test_a_folder_of_another_set_is_refused(tmp_path):
    made = recipes(steps=2, checkpoint_every=1)
    starts = [tiny_task.weights(fresh(recipe.seed)) for recipe in made]
    together(fresh(0), starts, TASK, made, folder=tmp_path)
    with pytest.raises(ValueError, match="belongs to another run: recipes"):
        together(fresh(0), starts[:2], TASK, made[:2], folder=tmp_path)


def test_what_cannot_batch_is_said():
    mixture, made = tiny_task.mixture(), recipes()
    start = tiny_task.weights(mixture)
    starts = [start] * 3
    assert incompatibilities(mixture, starts, made) == []

    def only(recipes=made, starts=starts, mixture=mixture):
        (reason,) = incompatibilities(mixture, starts, recipes)
        return reason

    full = baseline("full", tiny.bert())
    assert "full fine-tuning" in only(made[:1], [tiny_task.weights(full)], full)
    other = tiny_task.weights(tiny_task.mixture(experts=4))
    for odd in (other, dict(list(start.items())[1:])):
        assert "differ in shape" in only(starts=[start, odd, start])
    assert "differ in steps, batch_size" in only([*made[:2], *recipes(APART[2:], steps=5, batch_size=9)])
    assert "dev slice" in only(recipes(dev_fraction=0.1))
    assert "a route a token" in only(recipes(per="token")) and "rest" in only(recipes(off_route="freeze"))
    assert "pieces" in only(recipes(accumulate=2))
    assert "dropout mask" in only([*made[:2], *recipes([{"consistency": Consistency(views="same_dropout")}])])
    assert "2 starts and 3 recipes" in only(starts=starts[:2])
    with pytest.raises(ValueError, match="one by one"):
        together(mixture, starts[:2], TASK, made)
    mixture.model.gradient_checkpointing_enable()
    assert "checkpointing" in only()
    mixture.model.gradient_checkpointing_disable()
    attach_gates(mixture)
    assert "gates" in only()
