"""The authors' checkpoints through the public importer: conformance vectors, round trips, and what is refused."""

import pickle
import zipfile

import close
import pytest
import reference
import tiny
import torch
from authors_writer import authors_state_dict

from adamix_lab import import_authors
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import relative_difference
from adamix_lab.interop.authors import read_pickle


@pytest.mark.parametrize("name", reference.NAMES)
def test_conformance_vectors_by_the_public_importer(shared, tmp_path, record_property, name):
    from test_reference import unshared

    vector = reference.load(shared, name)  # for its settings and expected logits
    given = {key.removeprefix("model."): t for key, t in vector.tensors.items() if key.startswith("model.")}
    path = tmp_path / f"pytorch_model_{name}_expert_soup.bin"
    torch.save({"model_state_dict": given} if vector.kind == "gpt2" else given, path)
    alpha = float(vector.settings["lora_alpha"]) if "lora" in name else None
    mixture = import_authors(reference.model_of(vector.settings), path, alpha)
    assert mixture.space == vector.mixture.space
    with torch.no_grad():
        merged = mixture(**vector.inputs()).logits
        figures = {"merged": relative_difference(merged, vector.tensors["merged_logits"])}
        routes = unshared(mixture, vector.tensors["routes"])
        for n, (route, logits) in enumerate(zip(routes, vector.tensors["routed_logits"], strict=True)):
            figures[f"route {n}"] = relative_difference(mixture(selection=route, **vector.inputs()).logits, logits)
    worst = max(figures.values())
    record_property("difference", worst)
    print(f"\n{name}: {worst:.2g}")
    assert worst <= close.REORDERED.share


CASES = [
    (tiny.bert, Bottleneck(5), "up", None),
    (tiny.roberta, Bottleneck(3), "down", None),
    (tiny.gpt2, Bottleneck(4, activation="gelu_new"), None, None),
    (tiny.gpt2, LoRA(2, alpha=32), "B", 32.0),
]


@pytest.mark.parametrize(("build", "adaptation", "share", "alpha"), CASES)
def test_what_is_written_in_their_names_comes_back(tmp_path, build, adaptation, share, alpha):
    mixture = tiny.mixed(build(), adaptation, experts=3, share=share)
    torch.save({f"module.{key}": t for key, t in authors_state_dict(mixture).items()}, tmp_path / "x.bin")
    back = import_authors(build(), tmp_path / "x.bin", alpha)
    assert back.mixture == mixture.mixture and not back.training
    assert torch.equal(tiny.logits(back), tiny.logits(mixture))


def test_experts_and_head_in_two_files(tmp_path):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), share="up")
    state = authors_state_dict(mixture)
    torch.save({key: t for key, t in state.items() if "Expert" in key}, tmp_path / "experts.bin")
    torch.save({key: t for key, t in state.items() if "Expert" not in key}, tmp_path / "head.bin")
    back = import_authors(tiny.bert(), [tmp_path / "experts.bin", tmp_path / "head.bin"])
    assert torch.equal(tiny.logits(back), tiny.logits(mixture))
    with pytest.raises(ValueError, match="again: expected files that complete"):
        import_authors(tiny.bert(), [tmp_path / "experts.bin"] * 2)
    with pytest.raises(ValueError, match=r"missing .'head\.classifier"):
        import_authors(tiny.bert(), tmp_path / "experts.bin")


def broken(change):
    state = authors_state_dict(tiny.mixed(tiny.bert(), Bottleneck(4), share="up"))
    change(state)
    return state


ONE = "bert.encoder.layer.0.output.ExpertSoup.MoA_A.deepspeed_experts."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop(ONE + "1.weight"), r"has the experts \[0, 2, 3\] of down: expected 0 to M - 1"),
        (lambda s: s.update({ONE + "900000000.weight": s[ONE + "0.weight"]}), "expected 0 to M - 1"),
        (lambda s: s.update({ONE + "0.weight": torch.zeros(9, 16)}), "expected one shape"),
        (lambda s: s.update({"bert.nonsense": torch.zeros(3)}), "has no place for"),
        (lambda s: [s.pop(key) for key in list(s) if "MoA_B" in key], "both sides of one adaptation"),
        (lambda s: s.update({ONE.split("deep")[0] + "expert_score_weight": torch.arange(4.0)}), "was trained"),
        (lambda s: [s.pop(key) for key in list(s) if "Expert" in key], "No experts were found"),
        (lambda s: s.update({"classifier.weight": torch.zeros(9, 16)}), "has shape"),
    ],
)
def test_files_that_are_not_theirs(tmp_path, change, says):
    torch.save(broken(change), tmp_path / "x.bin")
    with pytest.raises(ValueError, match=says):
        import_authors(tiny.bert(), tmp_path / "x.bin")


def test_lora_asks_for_its_alpha(tmp_path):
    torch.save(authors_state_dict(tiny.mixed(tiny.gpt2(), LoRA(2))), tmp_path / "x.bin")
    with pytest.raises(ValueError, match="expected alpha="):
        import_authors(tiny.gpt2(), tmp_path / "x.bin")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    torch.save({"classifier.weight": torch.zeros(2), "x": Payload(tmp_path / "was-here")}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="would run code"):
        import_authors(tiny.bert(), tmp_path / "x.bin")
    (tmp_path / "y.bin").write_bytes(pickle.dumps(Payload(tmp_path / "was-here")))
    with pytest.raises(ValueError, match="not in PyTorch's zip format"):
        import_authors(tiny.bert(), tmp_path / "y.bin")
    assert not (tmp_path / "was-here").exists()


def rewritten(source, target, size, compress=False):
    """A copy of a checkpoint of one tensor that claims another size."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl") and size:
                data = data.replace((70_001).to_bytes(4, "little"), size.to_bytes(4, "little"))
            if entry.filename.endswith("data/0") and compress:
                data = bytes(10**7)
            new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)


@pytest.mark.parametrize(("size", "compress", "says"), [(2**31 - 1, False, "claims tensors of"), (0, True, "unpack")])
def test_sizes_are_not_believed(tmp_path, size, compress, says):
    import resource

    torch.save({"x": torch.zeros(70_001)}, tmp_path / "x.bin")
    assert read_pickle(tmp_path / "x.bin")["x"].shape == (70_001,)
    rewritten(tmp_path / "x.bin", tmp_path / "y.bin", size, compress)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=says):
        read_pickle(tmp_path / "y.bin")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize("what", [[1, 2], {"x": 3}, {}, {1: torch.zeros(1)}])
def test_what_is_no_state_dict(tmp_path, what):
    torch.save(what, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="no state dict"):
        read_pickle(tmp_path / "x.bin")


def test_a_cut_file_and_a_missing_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_pickle(tmp_path / "x.bin")
    torch.save({"x": torch.zeros(1000)}, tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.bin").read_bytes()[:-200])
    with pytest.raises(ValueError, match="zip format"):
        read_pickle(tmp_path / "x.bin")
