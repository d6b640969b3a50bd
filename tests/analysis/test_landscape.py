"""Landscapes: equal to one model after another, exact resume, nothing changed by looking."""

import json

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.analysis import landscape as ls
from adamix_lab.analysis import points as p
from adamix_lab.analysis.landscape import read_landscape, save_landscape
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import merge
from adamix_lab.core.objective import symmetric_kl
from adamix_lab.models.model import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread
CASES = [
    ("bert", Bottleneck(4), None),
    ("bert", Bottleneck(4), (-2, -1)),
    ("bert", LoRA(2), (1, 2)),
    ("roberta", Bottleneck(4), (2,)),
    ("distilbert", LoRA(2), None),
    ("deberta-v2", Bottleneck(4), None),
]


def model(family="bert", adaptation=None, blocks=(-2, -1), dropout=0.1, **more):
    made = tiny.FAMILIES[family](dropout)
    return tiny.mixed(made, adaptation or Bottleneck(4), experts=3, blocks=blocks, **more)


def batches(number=2, rows=4):
    made = [tiny.batch(rows, seed=seed) for seed in range(number)]
    for batch in made:
        batch["labels"] = tiny.labels(rows)
    return made


def corners(mixture, number=3):
    return {f"expert {n}": p.point_of(mixture, mixture.space.fixed(n)) for n in range(number)}


def one_by_one(mixture, points, many):
    """Loss, accuracy and entropy at each point: weights copied into a merged model, plain passes."""
    single, found = merge(mixture).eval(), []
    for n in range(len(points)):
        weights = {name: w[0] for name, w in points.weights(n, n + 1).items()}
        load_trained(single, {k: w if k.startswith("head.") else w[None] for k, w in weights.items()})
        rows, sums = 0, torch.zeros(3).double()
        for batch in many:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            labels = batch["labels"]
            with torch.no_grad():
                log_p = single(**inputs).logits.double().log_softmax(-1)
            loss = -log_p[torch.arange(len(labels)), labels]
            right = (log_p.argmax(-1) == labels).double()
            sums += torch.stack([loss.sum(), right.sum(), -(log_p.exp() * log_p).sum()])
            rows += len(labels)
        found.append(sums / rows)
    return torch.stack(found, -1)


@pytest.mark.parametrize(("family", "adaptation", "blocks"), CASES)
def test_points_at_once_equal_weights_copied_into_the_model_one_by_one(family, adaptation, blocks):
    mixture = model(family, adaptation, blocks).eval()
    many = batches()
    plane = p.plane(corners(mixture), 3)
    landscape = ls.evaluate_points(mixture, plane, many, at_once=4)
    for n, metric in enumerate(("loss", "accuracy", "entropy")):
        close.assert_close(landscape.values(metric).flatten(), one_by_one(mixture, plane, many)[n])


def test_looking_changes_nothing_not_even_when_it_fails(monkeypatch):
    mixture = model().train()
    mixture.model.bert.embeddings.eval()  # modes that differ from module to module
    simplex, many = p.simplex(corners(mixture), 2), batches()
    before = tiny.state(mixture), tiny.modes(mixture), tiny.classes(mixture)

    def unchanged():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mixture.modules()]
        rest = all(layer.selection is None and layer.fan_out == "none" for layer in mixture.sites.values())
        return (
            tiny.same(before[0], tiny.state(mixture))
            and (before[1], before[2]) == (tiny.modes(mixture), tiny.classes(mixture))
            and sum(hooks) == 0
            and rest
        )

    ls.evaluate_points(mixture, simplex, many)
    assert unchanged()
    monkeypatch.setattr(Bottleneck, "apply", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ls.evaluate_points(mixture, simplex, many)
    assert unchanged()


def test_consistency_is_the_distance_of_eq_5_to_the_marks():
    mixture = model().eval()
    line, many = p.line(corners(mixture, 2), 3), batches(1)
    found = ls.evaluate_points(mixture, line, many).values("consistency")
    inputs = {name: value for name, value in many[0].items() if name != "labels"}
    with torch.no_grad():
        ends = [mixture(selection=mixture.space.fixed(n), **inputs).logits for n in range(2)]
    expected, scale = float(symmetric_kl(*ends)) / 2, float(ends[0].log_softmax(-1).abs().max())  # of differences
    close.assert_close(found[[0, 2]], [expected] * 2, scale=scale)
    random = p.random_plane({"merged": p.point_of(mixture)}, torch.Generator().manual_seed(0), 3)
    at_merge = ls.evaluate_points(mixture, random, many).values("consistency")[1, 1]
    close.assert_close(float(at_merge), 0.0, close.ROUNDED, scale=scale)


def test_how_many_points_go_at_once_does_not_matter():
    mixture, many = model().eval(), batches()
    plane = p.plane(corners(mixture), 4)
    first = ls.evaluate_points(mixture, plane, many, at_once=1)
    for at_once in (3, 100, None):
        again = ls.evaluate_points(mixture, plane, many, at_once=at_once)
        close.assert_close(first.sums, again.sums)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    mixture, many = model().eval(), batches(4)
    plane, store = p.plane(corners(mixture), 3), tmp_path / "plane.safetensors"
    whole = ls.evaluate_points(mixture, plane, many)
    real, seen = ls._one_batch, []

    def one_batch(*args, deadline=None):
        if len(seen) == deadline:
            raise Killed
        seen.append(args[2])
        return real(*args)

    monkeypatch.setattr(ls, "_one_batch", lambda *args: one_batch(*args, deadline=2))
    monkeypatch.setattr(ls, "SAVE_EVERY", 0)
    with pytest.raises(Killed):
        ls.evaluate_points(mixture, plane, many, store)
    begun = read_landscape(store)
    assert begun.batches == (2, 4) and not begun.finished and begun.rows == 8
    said = []
    monkeypatch.setattr(ls, "_one_batch", one_batch)
    done = ls.evaluate_points(mixture, plane, many, store, say=said.append)
    assert len(seen) == 4 and said == [f"{store}: 2 of 4 batches are done"]
    assert torch.equal(done.sums, whole.sums) and read_landscape(store).finished
    assert torch.equal(ls.evaluate_points(mixture, plane, many, store, say=said.append).sums, whole.sums)
    assert len(seen) == 4  # finished: nothing was computed again
    with pytest.raises(ValueError, match=r"holds another landscape"):
        ls.evaluate_points(mixture, p.plane(corners(mixture), 4), many, store)


def test_the_file_keeps_axes_configuration_versions_and_seed(tmp_path):
    mixture = model().eval()
    line = p.line(corners(mixture, 2), 4)
    landscape = ls.evaluate_points(mixture, line, batches(), seed=7)
    again = read_landscape(save_landscape(landscape, tmp_path / "line.safetensors"))
    assert again.notes["seed"] == 7 and again.notes["versions"]["torch"] == torch.__version__
    assert again.notes["config"]["adaptation"]["size"] == 4 and again.notes["dtype"] == "torch.float32"
    assert torch.equal(again.axes["t"], line.axes["t"]) and torch.equal(again.values(), landscape.values())
    assert again.at("expert 1") == landscape.at("expert 1") and again.axes["t"][-1] == 1
    json.dumps(again.notes)
    torch.save({}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"not a whole safetensors file"):
        read_landscape(tmp_path / "other.safetensors")


def test_barriers_stand_above_the_chord():
    mixture, many = model().eval(), batches()
    beyond = ls.evaluate_points(mixture, p.line(corners(mixture, 2), 7, beyond=0.25), many)
    assert beyond.barrier() == pytest.approx(max(0.0, float(beyond.above_chord()[1:-1].max())))
    with pytest.raises(ValueError, match=r"None of the 2 points lies between the marks"):
        ls.evaluate_points(mixture, p.line(corners(mixture, 2), 2, beyond=0.25), many).barrier()
    line = ls.evaluate_points(mixture, p.line(corners(mixture, 2), 5), many)
    chord = torch.linspace(0, 1, 5).double() * (line.at("expert 1") - line.at("expert 0")) + line.at("expert 0")
    close.assert_close(line.above_chord(), line.values() - chord, close.DOUBLE, scale=float(line.values().max()))
    assert line.barrier() == pytest.approx(max(0.0, float((line.values() - chord).max())))
    piece = ls.evaluate_points(mixture, p.simplex(corners(mixture), 4), many)
    corner, scale = float(piece.above_chord()[0]), float(piece.values().max())
    close.assert_close(corner, 0.0, close.DOUBLE, scale=scale)
    with pytest.raises(ValueError, match=r"A plane has no chord"):
        ls.evaluate_points(mixture, p.plane(corners(mixture), 3), many).above_chord()
    with pytest.raises(ValueError, match=r"Metric 'los' is not known.*'loss'"):
        line.values("los")
    with pytest.raises(ValueError, match=r"Mark 'expert 9' is not known"):
        line.at("expert 9")


def test_out_of_memory_takes_fewer_points_a_pass(monkeypatch):
    mixture, many = model().eval(), batches()
    plane = p.plane(corners(mixture), 4)
    whole = ls.evaluate_points(mixture, plane, many, at_once=4)
    real, limit = ls.logits_at, 3

    def crowded(mixture, batch, points):
        if len(points["head.classifier.bias"]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(mixture, batch, points)

    monkeypatch.setattr(ls, "logits_at", crowded)
    close.assert_close(ls.evaluate_points(mixture, plane, many, at_once=16).sums, whole.sums)
    limit = 0
    with pytest.raises(LabError, match=r"batch_size = \d+: a single point.*Take a smaller batch_size"):
        ls.evaluate_points(mixture, plane, many, at_once=2)


def test_bfloat16_is_the_same_call():
    mixture, many = model().eval(), batches()
    line = p.line(corners(mixture, 2), 3)
    exact = ls.evaluate_points(mixture, line, many).values()
    rough = ls.evaluate_points(mixture.to(torch.bfloat16), line, many)
    assert rough.notes["dtype"] == "torch.bfloat16"
    close.assert_close(rough.values(), exact, close.BFLOAT)


def test_what_does_not_fit_is_refused():
    mixture = model()
    line = p.line(corners(mixture, 2), 3)
    with pytest.raises(ValueError, match=r"no batches.*Is the validation set empty"):
        ls.evaluate_points(mixture, line, [])
    with pytest.raises(ValueError, match=r"Batch 0 has no labels"):
        ls.evaluate_points(mixture, line, [tiny.batch()])
    with pytest.raises(ValueError, match=r"at_once = 0"):
        ls.evaluate_points(mixture, line, batches(), at_once=0)
    with pytest.raises(ValueError, match=r"do not fit the model: experts\..*down is \[4, 16\], in the model \[5, 16\]"):
        ls.evaluate_points(model(adaptation=Bottleneck(5)), line, batches())
    number = tiny.mixed(_regression(), Bottleneck(4), experts=3, blocks=(-2, -1))
    with pytest.raises(ValueError, match=r"answers with numbers"):
        ls.evaluate_points(number, p.line(corners(number, 2), 3), batches())
    decoder = tiny.mixed(tiny.gpt2(), Bottleneck(4), experts=3)
    with pytest.raises(ValueError, match=r"answers with texts: expected classes"):
        ls.evaluate_points(decoder, p.line(corners(decoder, 2), 3), batches())


def _regression():
    made = tiny.bert()
    made.num_labels = 1
    return made
