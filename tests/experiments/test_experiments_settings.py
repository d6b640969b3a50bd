"""A run's key follows from what decides its numbers, and from nothing else."""

from dataclasses import replace

import pytest

from adamix_lab.experiments.settings import Run, label, with_side


def test_names_and_places_are_no_part_of_the_key():
    run = Run(task="rte", seed=1)
    assert replace(run, folder="elsewhere", variant="mine").key == run.key
    assert replace(run, lr=1e-3).key != run.key and replace(run, judged_on="slice").key != run.key


def test_every_setting_is_part_of_the_key():
    changes = ({}, {"swa": 0.5}, {"label_smoothing": 0.1}, {"sample": None}, {"part": "x"}, {"pooling": "mean"})
    assert len({Run(**more).key for more in changes}) == len(changes)


def test_numbers_as_yaml_writes_them_are_the_same_run():
    assert Run(lr="1e-3", consistency=1).key == Run(lr=0.001, consistency=1.0).key


def test_what_a_method_has_not_tells_no_runs_apart():
    assert Run(method="single", experts=8, share="none", consistency=0, routing="token").key == Run(method="single").key
    assert Run(method="full", size=4, experts=2).key == Run(method="full").key
    assert Run(method="head", top_blocks=2).key == Run(method="head").key
    assert Run(method="probe", top_blocks=2, steps=9, lr=1e-2, head_lr=1).key == Run(method="probe").key
    assert Run(method="single", size=4).key != Run(method="single").key
    assert Run(method="r-drop", consistency=2).key != Run(method="r-drop").key
    assert Run(experts=8).key != Run().key != Run(routing="token").key


def test_a_rate_that_is_left_to_the_method_is_its_own():
    assert [Run(method=method, lr=None).lr for method in ("adamix", "full", "prompt")] == [3e-3, 2e-4, 3e-2]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "AdaMix"),
        ({"consistency": 0}, "no consistency"),
        ({"share": "none"}, "no sharing"),
        ({"share": "down"}, "share down"),
        ({"routing": "token"}, "a route a token"),
        ({"experts": 8}, "AdaMix M=8"),
        ({"size": 4}, "AdaMix r=4"),
        ({"size": 4, "consistency": 0}, "AdaMix no consistency r=4"),
        ({"method": "single"}, "single"),
        ({"method": "lora", "size": 8}, "lora r=8"),
        ({"method": "r-drop"}, "r-drop"),
        ({"method": "slow"}, "single, lr/M"),
        ({"method": "slow", "experts": 8, "share": "down"}, "single, lr/M M=8 share down"),
        ({"method": "slow-swa"}, "single, lr/M + SWA"),
        ({"method": "swa"}, "single + SWA"),
        ({"method": "swa", "swa": 0.5}, "single + SWA swa=0.5"),
        ({"method": "ema"}, "single + EMA"),
        ({"swa": 0.75}, "AdaMix swa=0.75"),
        ({"method": "single", "label_smoothing": 0.1}, "single label smoothing=0.1"),
        ({"method": "probe"}, "linear probe"),
    ],
)
def test_labels(settings, name):
    assert label(Run(**settings)) == Run(**settings).variant == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lorra"}, "method 'lorra' is not known.*Did you mean 'lora'"),
        ({"share": "pu"}, "share 'pu' is not known.*'up'"),
        ({"routing": "sentence"}, "routing 'sentence'"),
        ({"compute": "time"}, "compute 'time'"),
        ({"judged_on": "test"}, "judged_on 'test'"),
        ({"lr": "fast"}, "lr = 'fast': expected a number"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"consistency": -1}, "consistency = -1"),
        ({"consistency": True}, "consistency = True: expected a number"),
        ({"lr": True}, "lr = True: expected a number"),
        ({"dropout": False}, "dropout = False: expected a number"),
        ({"swa": True}, "swa = True: expected a number"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"experts": 0}, "experts = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"examples": True}, "examples = True"),
        ({"rows": 0}, "rows = 0"),
        ({"swa": 0.0}, r"swa = 0\.0: .*window of no steps"),
        ({"swa": 0.001}, r"swa = 0\.001 of 300 steps is a window of no steps"),
        ({"swa": 0.5, "ema": 0.9}, "expected one of them"),
        ({"label_smoothing": 1}, "label_smoothing = 1"),
        ({"label_noise": 0.6}, r"label_noise = 0\.6: expected a share of labels from 0 to 0\.5"),
        ({"compute": "oracle"}, 'compute = "oracle" without label_noise'),
        ({"method": "full", "top_blocks": 2}, "top_blocks = 2 with method 'full'.*Leave top_blocks out"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Run(**settings)


def test_adamix_names_the_side_that_it_shares():
    shown = [with_side(run.variant, run.method, run.share) for run in map(lambda each: Run(**each), (
        {}, {"share": "down"}, {"share": "down", "variant": "AdaMix, down"}, {"share": "none"}, {"method": "slow"},
        {"consistency": 0},
    ))]  # fmt: skip
    assert shown == [
        "AdaMix (up shared)", "share down", "AdaMix, down", "no sharing", "single, lr/M", "no consistency (up shared)",
    ]  # fmt: skip


def test_an_unknown_setting_names_its_near_misses():
    with pytest.raises(ValueError, match=r"Setting of a run 'expert' is not known.*Did you mean 'experts'"):
        Run.of({"expert": 4})
