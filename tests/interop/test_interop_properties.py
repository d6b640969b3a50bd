"""Round trips over random shapes, sharing, M and dtypes."""

import tempfile
from pathlib import Path

import close
import pytest
import tiny
import torch
from authors_writer import authors_state_dict

from adamix_lab import import_authors, import_peft, load, merge, save
from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.interop.peft import write_peft
from adamix_lab.models.model import trained_tensors

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FEW = settings(max_examples=10)
sizes = st.integers(1, 6)
loras = st.builds(LoRA, rank=sizes, alpha=st.sampled_from([1.0, 16.0, 3.5]))
bottlenecks = st.builds(Bottleneck, size=sizes, activation=st.sampled_from(["gelu", "relu"]))
adaptations = st.one_of(loras, bottlenecks, st.builds(IA3, feedforward=st.booleans()), st.just(Bias()))


@st.composite
def mixtures(draw, of=adaptations, build=tiny.bert):
    adaptation = draw(of)
    share = draw(st.sampled_from([None, *adaptation.sides]))
    blocks = draw(st.sampled_from([None, [0], [0, 2]]))
    settings = {"experts": draw(st.integers(1, 5)), "share": share, "blocks": blocks, "tied": draw(st.booleans())}
    return tiny.mixed(build(), adaptation, **settings)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@FEW
@given(mixtures(), st.sampled_from([None, torch.float16, torch.bfloat16]))
def test_save_load_save_gives_the_same_bytes(mixture, dtype):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        save(mixture, first, {"task": "x"}, dtype)
        save(load(tiny.bert(), first), second, {"task": "x"}, dtype)
        assert files(first) == files(second)


@FEW
@given(mixtures())
def test_merging_and_saving_commute(mixture):
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as merged:
        save(mixture, whole)
        save(merge(mixture), merged)
        one, other = trained_tensors(merge(load(tiny.bert(), whole))), trained_tensors(load(tiny.bert(), merged))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@FEW
@given(mixtures(loras))
def test_a_merged_lora_written_for_peft_and_imported_answers_alike(mixture):
    merged = merge(mixture)
    with tempfile.TemporaryDirectory() as folder:
        write_peft(merged, Path(folder))
        back = import_peft(tiny.bert(), [folder])
    assert torch.equal(tiny.logits(back), tiny.logits(merged))
    assert back.mixture.adaptation == merged.mixture.adaptation


@FEW
@given(mixtures(loras, tiny.gpt2))
def test_a_fused_lora_comes_back_as_one_of_k_times_the_rank(mixture):
    merged = merge(mixture)
    with tempfile.TemporaryDirectory() as folder:
        write_peft(merged, Path(folder))
        back = import_peft(tiny.gpt2(), [folder])
    close.assert_close(tiny.logits(back), tiny.logits(merged))
    assert back.mixture.adaptation.rank == 2 * merged.mixture.adaptation.rank


@FEW
@given(mixtures(bottlenecks.map(lambda b: Bottleneck(b.size))))
def test_the_authors_names_and_back(mixture):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(authors_state_dict(mixture), Path(folder) / "x.bin")
        back = import_authors(tiny.bert(), Path(folder) / "x.bin")
    assert torch.equal(tiny.logits(back), tiny.logits(mixture))
    assert back.space.counts == mixture.space.counts
