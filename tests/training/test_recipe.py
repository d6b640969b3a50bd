import json

import pytest

from adamix_lab.core.objective import Consistency
from adamix_lab.training.recipe import STEPS, Recipe


def test_plain_values_and_back_through_json():
    recipe = Recipe(epochs=2, lr=1e-3, consistency=Consistency(0.5, "symmetric", "shared_prefix"))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(Recipe().to_dict()))) == Recipe()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps = 0: expected a whole number of at least 1"),
        ({"steps": 5, "epochs": 2}, "expected one of them"),
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"lr": -1.0}, "lr = -1.0: expected a number of at least 0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"head_lr": -1.0}, "head_lr = -1.0"),
        ({"warmup": 1.5}, "warmup = 1.5: expected a number from 0 up to, not including, 1"),
        ({"dev_fraction": 1.0}, "dev_fraction = 1.0"),
        ({"precision": "bfloat16"}, "Did you mean 'bf16'"),
        ({"per": "sentence"}, "per 'sentence' is not known"),
        ({"off_route": "frozen"}, "Did you mean 'freeze'"),
        ({"patience": 2, "dev_fraction": 0.0}, "expected a dev slice to stop on"),
        ({"accumulate": 9, "batch_size": 8}, "at most one piece a row"),
        *(
            ({name: None}, f"{name} = None: expected")
            for name in (
                *("batch_size", "lr", "weight_decay", "eps", "warmup", "clip", "seed", "accumulate", "bucket"),
                *("label_smoothing", "dev_fraction", "checkpoint_every", "log_every"),
            )
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, says):
    with pytest.raises(ValueError) as error:
        Recipe(**settings)
    assert says in str(error.value)


def test_unknown_settings_name_near_misses():
    with pytest.raises(ValueError, match="Did you mean 'batch_size'"):
        Recipe.from_dict({"batchsize": 3})
    with pytest.raises(ValueError, match="Did you mean 'weight'"):
        Recipe.from_dict({"consistency": {"wait": 3}})


def test_the_schedule_is_that_of_transformers():
    import torch
    from transformers import get_linear_schedule_with_warmup

    recipe, total = Recipe(steps=50, warmup=0.1), 50
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 5, total)
    for step in range(total):
        assert recipe.rate(step, total) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_steps_of_epochs():
    assert Recipe(epochs=2.5).total_steps(10) == 25
    assert Recipe(epochs=0.01).total_steps(10) == 1
    assert Recipe(steps=7).total_steps(10) == 7
    assert Recipe().total_steps(10) == STEPS
