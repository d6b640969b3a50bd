"""Merging, soups, folding and the merge gap."""

import close
import pytest
import tiny
import torch

from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.core.merging import (
    REORDERED,
    fold,
    merge,
    merge_gap,
    merge_products,
    relative_difference,
    stack_experts,
    weighted,
)
from adamix_lab.core.mixture import noting
from adamix_lab.models.model import attach, detach, load_trained, trained_tensors

ADAPTATIONS = [(Bottleneck(4), "up"), (LoRA(2), "B"), (LoRA(2), None), (IA3(), None), (IA3(True), None), (Bias(), None)]


def logits(model, **more):
    with torch.no_grad():
        return model(**tiny.inputs(getattr(model, "model", model)), **more).logits


@pytest.mark.parametrize(("adaptation", "share"), ADAPTATIONS)
def test_merge_is_the_mean_of_the_weights_and_leaves_one_expert(adaptation, share):
    mixture = tiny.mixed(tiny.bert(), adaptation, experts=4, share=share)
    merged = merge(mixture)
    assert torch.equal(logits(merged), logits(mixture))
    for (name, stacked), (_, one) in zip(mixture.expert_parameters(), merged.expert_parameters(), strict=True):
        assert one.shape[0] == 1, name
        close.assert_close(one[0], stacked.mean(0), close.ROUNDED)
    assert merged.space.number == 1 and (merged.mixture.experts, merged.mixture.share) == (1, ())


def test_merge_shares_the_frozen_weights_and_leaves_the_mixture_alone():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=4, share="up")
    before = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}
    merged = merge(mixture)
    theirs = dict(merged.model.named_parameters())
    frozen = {name: p for name, p in mixture.model.named_parameters() if not p.requires_grad}
    assert all(theirs[name].data_ptr() == p.data_ptr() for name, p in frozen.items())
    with torch.no_grad():
        for _, parameter in [*merged.expert_parameters(), *merged.head_parameters()]:
            parameter.zero_()
    after = trained_tensors(mixture)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_weight_of_the_merged_model_is_the_mixtures():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=4, share="up")
    theirs = {p.data_ptr() for _, p in [*mixture.expert_parameters(), *mixture.head_parameters()]}
    for point in (None, mixture.space.fixed(1), mixture.space.barycentre()):
        merged = merge(mixture, point)
        assert theirs.isdisjoint(p.data_ptr() for _, p in [*merged.expert_parameters(), *merged.head_parameters()])


def test_detaching_the_merged_model_leaves_the_mixture_frozen():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=4, share="up")
    before = {name: p.requires_grad for name, p in mixture.named_parameters()}
    bare = detach(merge(mixture))
    assert {name: p.requires_grad for name, p in mixture.named_parameters()} == before
    assert all(p.requires_grad for p in bare.parameters())  # as the base was
    embeddings = mixture.model.bert.embeddings.word_embeddings
    assert bare.bert.embeddings.word_embeddings.weight.data_ptr() == embeddings.weight.data_ptr()


def test_merge_keeps_tied_weights_tied_and_the_class_of_quantised_ones():
    class Packed(torch.nn.Parameter):
        pass

    model = tiny.gpt2()
    norm = model.transformer.ln_f
    norm.bias = Packed(norm.bias.data, requires_grad=False)
    norm.bias.scale = 3
    mixture = tiny.mixed(model, Bottleneck(4))
    merged = merge(mixture).model
    assert merged.lm_head.weight is merged.transformer.wte.weight is not mixture.model.lm_head.weight
    bias = merged.transformer.ln_f.bias
    assert type(bias) is Packed and bias.scale == 3 and bias is not norm.bias
    assert bias.data_ptr() == norm.bias.data_ptr()


def test_a_narrow_merge_rounds_after_averaging():
    mixture = tiny.mixed(tiny.bert().bfloat16(), Bottleneck(4), experts=4, share="up")
    narrow = merge(mixture, dtype=torch.bfloat16)
    for (_, stacked), (_, one) in zip(mixture.expert_parameters(), narrow.expert_parameters(), strict=True):
        assert torch.equal(one[0], stacked.mean(0).bfloat16())
    close.assert_close(logits(narrow), logits(mixture), close.BFLOAT)


def test_merge_at_a_vertex_is_that_route():
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=3)
    route = mixture.space.draw(torch.Generator().manual_seed(3))
    for point in (route, mixture.space.vertices(route)):
        close.assert_close(logits(merge(mixture, point)), logits(mixture, selection=route))


@pytest.mark.parametrize("make", [merge, fold])
def test_several_points_and_weights_by_site_are_not_merged(make):
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=3)
    routes = mixture.space.draw(torch.Generator().manual_seed(3), (2,))
    for several in (routes, mixture.space.vertices(routes)):
        with pytest.raises(ValueError, match=r"cannot be merged: expected one point.*one route"):
            make(mixture, several)
    weights = {path: layer.weights(None) for path, layer in mixture.sites.items()}
    with pytest.raises(ValueError, match="dict cannot be merged: expected a point or a route"):
        make(mixture, weights)


def test_merge_keeps_the_task_in_place_alone():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    mixture.add_task("second")
    assert merge(mixture).tasks == ["second"] and mixture.tasks == ["default", "second"]


@pytest.mark.parametrize(("adaptation", "share"), ADAPTATIONS[1:])
@pytest.mark.parametrize("build", [tiny.bert, tiny.gpt2], ids=["bert", "gpt2"])
def test_folding_gives_a_plain_model_with_equal_logits(build, adaptation, share):
    mixture = tiny.mixed(build(), adaptation, experts=4, share=share)
    with torch.no_grad():
        for layer in mixture.sites.values():  # a fresh model's biases are 0, and nothing is lost with them
            layer.base.bias.normal_(generator=torch.Generator().manual_seed(0))
    plain = fold(mixture)
    close.assert_close(logits(plain), logits(mixture))
    assert not [name for name in plain.state_dict() if "experts" in name or ".base." in name]


def test_what_was_folded_is_frozen_and_the_head_is_the_plain_models_own():
    mixture = tiny.mixed(tiny.bert(), LoRA(4), experts=2, share="B")
    plain = fold(mixture)
    folded = [p for path in mixture.sites for p in plain.get_submodule(path).parameters()]
    assert len(folded) == 2 * len(mixture.sites) and not any(p.requires_grad for p in folded)
    theirs = {p.data_ptr() for p in mixture.parameters() if p.requires_grad}
    assert theirs.isdisjoint(p.data_ptr() for p in plain.parameters())


def test_a_folded_model_is_saved_by_the_base_library(tmp_path):
    from transformers.models.bert.modeling_bert import BertForSequenceClassification

    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=2)
    fold(mixture).save_pretrained(tmp_path)
    back = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    close.assert_close(logits(back), logits(mixture))
    with pytest.raises(RuntimeError, match="save_pretrained"):
        mixture.model.save_pretrained(tmp_path)


def test_folding_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"bottleneck cannot be folded.*not linear"):
        fold(tiny.mixed(tiny.bert(), Bottleneck(4), experts=2))
    model = tiny.bert()
    layers = model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.query is tied.*layer\.1"):
        fold(attach(model, LoRA(2)))


def test_soups_are_points_of_the_simplex():
    space = attach(tiny.bert(), Bottleneck(4), experts=4, share="up").space
    assert torch.equal(weighted(space, [0.25] * 4), space.barycentre())
    with pytest.raises(ValueError, match="3 weights were given: expected 4"):
        weighted(space, [1, 0, 0])
    with pytest.raises(ValueError, match="no mixture"):
        weighted(space, [0.5, 0.5, 0.5, -0.5])


def test_the_merge_gap_is_nil_where_averaging_is_exact_and_only_there():
    def gaps(adaptation, share):
        mixture = tiny.mixed(tiny.bert(), adaptation, experts=3, share=share)
        return merge_gap(mixture, tiny.batch()).values()

    assert max(gaps(LoRA(2), "B")) < 1e-5  # one side shared
    assert max(gaps(LoRA(2), None)) < 1e-5  # sides independent: E[B A] = E[B] E[A]
    assert max(gaps(Bias(), None)) < 1e-5
    tied = tiny.mixed(tiny.bert(), LoRA(2), experts=3, tied=True)
    assert min(merge_gap(tied, tiny.batch()).values()) > 0.1  # the mean of products is no product of means
    assert min(gaps(Bottleneck(4), "up")) > 1e-3  # GELU
    with pytest.raises(ValueError, match="9 routes are too many"):
        merge_gap(tiny.mixed(tiny.bert(), LoRA(2), experts=3), tiny.batch(), limit=4)


def test_adapters_trained_apart_stand_side_by_side():
    singles = [tiny.mixed(tiny.bert(), Bottleneck(4), experts=1, seed=n) for n in range(3)]
    tensors = [trained_tensors(single) for single in singles]
    together = attach(tiny.bert(), Bottleneck(4), experts=3)
    load_trained(together, stack_experts(tensors))
    for n in range(3):
        route = together.space.fixed(n)
        close.assert_close(logits(together, selection=route), logits(singles[n]))


def test_weights_are_rounded_no_further_than_to_four_digits():
    space = attach(tiny.bert(), Bottleneck(4), experts=4, share="up").space
    assert weighted(space, [0.24999] * 4).shape == (*space.shape, 4)
    for wrong in (0.24, 0.2495, 0.2505, 0.26):
        with pytest.raises(ValueError, match="no mixture"):
            weighted(space, [wrong] * 4)


def test_the_merge_gap_is_a_share_of_what_the_experts_change_together():
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up"), tiny.batch()
    gaps = merge_gap(mixture, batch)

    def output(layer, x, route):
        return layer.adaptation.apply(layer.base, x, layer.weights(route), False)

    with torch.no_grad(), noting(mixture.sites) as inputs:
        mixture(selection="merge", **batch)
        for path, layer in mixture.sites.items():
            x = inputs[path][0][0]
            expected = sum(output(layer, x, torch.tensor([n, 0])) for n in range(3)) / 3
            by_hand = (output(layer, x, None) - expected).norm() / (expected - layer.base(x)).norm()
            close.assert_close(gaps[path], by_hand, close.TRAINED)  # a small difference of large outputs
    assert set(merge_gap(attach(tiny.bert(), LoRA(2)), batch).values()) == {0.0}  # B is 0: nothing is changed yet
    with mixture.select(mixture.space.fixed(2)):
        assert merge_gap(mixture, batch) == gaps  # in the merged pass, whatever is around it


def test_the_merge_gap_of_a_small_change_is_as_large_a_share():
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(4, "relu", 0.5), experts=3, share="up").double(), tiny.batch()
    gaps = merge_gap(mixture.train(), batch)  # without dropout: expert outputs are compared
    with torch.no_grad():
        for layer in mixture.sites.values():
            layer.experts["up"] *= 1e-2
            layer.experts["up_bias"] *= 1e-2
    first, *_ = mixture.sites  # whose inputs stay as they were
    assert gaps[first] > 0.01
    close.assert_close(merge_gap(mixture, batch)[first], gaps[first], close.TRAINED)


def test_the_merge_gap_goes_over_256_routes_a_site_at_most():
    batch = tiny.batch(rows=1, tokens=3)
    most = attach(tiny.bert(), LoRA(1), experts=256, tied=True, targets="layer.0.attention.self.query")
    assert list(merge_gap(most, batch).values()) == [0.0]
    more = attach(tiny.bert(), LoRA(1), experts=257, tied=True, targets="layer.0.attention.self.query")
    with pytest.raises(ValueError, match="257 routes are too many"):
        merge_gap(more, batch)


def test_rounding_is_told_from_another_answer_in_every_dtype():
    for dtype, share in REORDERED.items():
        assert 10 * torch.finfo(dtype).eps < share < 0.2, dtype


def test_a_difference_is_relative_to_the_largest_finite_value():
    infinite = float("inf")
    assert relative_difference([infinite, 0.1], [infinite, 0.2]) == pytest.approx(0.5)
    assert relative_difference([infinite], [infinite]) == 0 and relative_difference(0.25, 0.0) == 0.25
    assert relative_difference([float("nan"), 4.0], [float("nan"), 4.0]) == 0
    assert relative_difference([infinite, 0.2], [0.1, 0.2]) == relative_difference([float("nan")], [1.0]) == infinite


def test_merged_products_are_the_mean_of_the_products():
    mixture = tiny.mixed(tiny.bert(), LoRA(8, alpha=4.0), experts=3, tied=True)  # 24 is more than the width, 16
    merged = merge_products(mixture)
    assert merged.mixture.adaptation == LoRA(24, alpha=12.0) and merged.space.experts == 1
    assert mixture.mixture.tied and not merged.mixture.tied  # one expert a side has nothing to tie
    for path, layer in mixture.sites.items():
        mean = torch.einsum("mor,mri->oi", layer.experts["B"], layer.experts["A"]).detach().double() / 3
        one = merged.sites[path]
        close.assert_close(one.experts["B"][0].double() @ one.experts["A"][0].double(), mean)
        assert [len(one.experts["A"][0]), one.experts["B"].shape[-1], one.adaptation.rank] == [24] * 3


def test_products_without_pairs_are_refused():
    with pytest.raises(ValueError, match="no A belongs to a B: expected tied experts or a shared side"):
        merge_products(tiny.mixed(tiny.bert(), LoRA(2), experts=2))


def test_the_products_of_one_expert_are_its_own():
    mixture, batch = tiny.mixed(tiny.bert(), LoRA(2), experts=1), tiny.batch()
    close.assert_close(merge_products(mixture)(**batch).logits, mixture(**batch).logits)


def test_one_adapter_trained_apart_stacks_to_itself():
    single = trained_tensors(tiny.mixed(tiny.bert(), Bottleneck(4), experts=1))
    stacked = stack_experts([single])
    assert single.keys() == stacked.keys() and all(torch.equal(single[name], stacked[name]) for name in single)


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [float("nan")] * 2, [float("inf"), float("-inf")]])
def test_weights_that_are_no_numbers_are_no_mixture(weights):
    with pytest.raises(ValueError, match="no mixture"):
        weighted(attach(tiny.bert(), Bias(), experts=2).space, weights)


@pytest.mark.parametrize("name", ["full", "bitfit"])
def test_a_fold_keeps_what_was_trained_when_the_mixture_comes_off(name):
    mixture = baseline(name, tiny.bert())
    with torch.no_grad():
        for _, parameter in mixture.own_parameters():
            parameter.add_(0.1)
    trained, plain = logits(mixture), fold(mixture)
    detach(mixture)
    assert torch.equal(logits(plain), trained)


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("first", [LoRA(2), Bias(), IA3(True)], ids=["lora", "bias", "ia3"])
def test_what_was_folded_is_frozen_in_the_next_mixture(first, read, tmp_path):
    """transformers marks what it read from files; a weight without its mark is taken for a drawn one, which trains."""
    model = tiny.bert()
    if read:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    again = attach(fold(tiny.mixed(model, first, experts=2)), Bottleneck(4))
    assert again.head_paths == ("classifier",) and len(again.sites) == tiny.LAYERS


def test_what_no_file_held_trains_on_in_the_next_mixture(tmp_path):
    tiny.bert(cls="BertForMaskedLM").save_pretrained(tmp_path)
    folded, plain = (type(tiny.bert()).from_pretrained(tmp_path, num_labels=tiny.LABELS) for _ in range(2))
    heads = attach(plain, Bottleneck(4)).head_paths  # transformers 5 marks the pooler, which the files lack
    assert attach(fold(tiny.mixed(folded, LoRA(2))), Bottleneck(4)).head_paths == heads and "classifier" in heads
