"""LoRA adapters that stock peft wrote, as experts: routed tied, merged by the mean of products, the traps shown."""

import copy
import json
import warnings

import close
import pytest
import tiny
import torch
import transformers

from adamix_lab import export, import_peft, merge, merge_gap, merge_products
from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.merging import relative_difference

peft = pytest.importorskip("peft")
M = 3


def stock(folder, seed, rank=4, alpha=8, targets=("query", "value"), head=True, **more):
    """A LoRA folder written by peft alone, its weights random."""
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="SEQ_CLS" if head else None, **more
    )
    model = peft.get_peft_model(tiny.bert(), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("loras")
    return [stock(place / f"lora{n}", n, head=False) for n in range(M)]


def by_peft(folders, names=None):
    model = peft.PeftModel.from_pretrained(tiny.bert(), str(folders[0]), adapter_name="a0")
    for n, folder in enumerate(folders[1:], 1):
        model.load_adapter(str(folder), f"a{n}")
    return model.eval()


def test_each_expert_answers_like_stock_peft(folders):
    mixture, model = import_peft(tiny.bert(), folders), by_peft(folders)
    assert mixture.mixture.tied and mixture.space.experts == M
    for n in range(M):
        model.set_adapter(f"a{n}")
        found = tiny.logits(mixture, selection=mixture.space.fixed(n))
        close.assert_close(found, tiny.logits(model))


def test_merges_against_add_weighted_adapter_and_the_trap(folders, record_property):
    mixture, model = import_peft(tiny.bert(), folders), by_peft(folders)
    names = [f"a{n}" for n in range(M)]

    def weighted(kind, weight):
        name = f"{kind}_{round(1 / weight)}"
        model.add_weighted_adapter(names, [weight] * M, name, combination_type=kind)
        model.set_adapter(name)
        return tiny.logits(model)

    products, factors = tiny.logits(merge_products(mixture)), tiny.logits(merge(mixture))
    figures = {
        "products, cat at 1/M": (products, weighted("cat", 1 / M)),
        "factors, linear at 1/M^2": (factors, weighted("linear", 1 / M**2)),
        "products, linear at 1/M": (products, weighted("linear", 1 / M)),
        "products, factors": (products, factors),
    }
    figures = {name: relative_difference(*two) for name, two in figures.items()}
    for name, value in figures.items():
        record_property(name, value)
        print(f"\n{name}: {value:.2g}")
    assert max(figures["products, cat at 1/M"], figures["factors, linear at 1/M^2"]) <= close.REORDERED.share
    assert figures["products, linear at 1/M"] > 0.1 and figures["products, factors"] > 0.1
    # the trap in the weights themselves: M times mean(B) mean(A)
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    trap, right = layer.get_delta_weight(f"linear_{M}"), layer.get_delta_weight(f"linear_{M**2}")
    close.assert_close(trap, M * right)


def test_the_mean_of_products_is_exact(folders):
    mixture = import_peft(tiny.bert(), folders)
    whole = merge_products(mixture)
    assert whole.mixture.adaptation == LoRA(rank=4 * M, alpha=8.0 * M)
    assert max(merge_gap(whole, tiny.batch()).values()) == 0
    path, layer = next(iter(mixture.sites.items()))
    layer.requires_grad_(False)
    mean = torch.einsum("mor,mri->oi", layer.experts["B"], layer.experts["A"]) / M * layer.adaptation.scale
    one = whole.sites[path]
    close.assert_close((one.experts["B"][0] @ one.experts["A"][0] * one.adaptation.scale).detach(), mean)


def test_what_was_imported_and_merged_leaves_again(folders, tmp_path):
    merged = merge_products(import_peft(tiny.bert(), folders))
    assert export(merged, tmp_path / "out").difference <= close.REORDERED.share
    back = import_peft(tiny.bert(), [tmp_path / "out"])
    assert torch.equal(tiny.logits(back), tiny.logits(merged))


def test_dropout_in_front_of_a_comes_along_as_the_mean_of_the_folders(tmp_path):
    rates = [0.1, 0.1, 0.4]
    folders = [stock(tmp_path / str(n), n, lora_dropout=rate) for n, rate in enumerate(rates)]
    assert import_peft(tiny.bert(), folders[:2]).mixture.adaptation.dropout == 0.1
    mixture = import_peft(tiny.bert(), folders)
    assert mixture.mixture.adaptation.dropout == pytest.approx(0.2)
    route = mixture.space.fixed(0)
    first, second = (mixture.train()(**tiny.batch(), selection=route).logits for _ in range(2))
    assert not torch.equal(first, second)  # masks of its own: the base has no dropout
    config = json.loads((folders[0] / "adapter_config.json").read_text())
    (folders[0] / "adapter_config.json").write_text(json.dumps(config | {"lora_dropout": 1.5}))
    with pytest.raises(ValueError, match=r"lora_dropout = 1.5"):
        import_peft(tiny.bert(), folders)


def test_heads_are_averaged_and_scales_may_differ(tmp_path):
    folders = [stock(tmp_path / "a", 0, alpha=8), stock(tmp_path / "b", 1, alpha=2, use_rslora=True)]
    mixture = import_peft(tiny.bert(), folders)
    with torch.no_grad():  # each with its own head
        for n, folder in enumerate(folders):
            model = peft.PeftModel.from_pretrained(tiny.bert(), str(folder)).eval()
            state = model.base_model.model.classifier.modules_to_save["default"].state_dict()
            mixture.model.classifier.load_state_dict(state)
            found = tiny.logits(mixture, selection=mixture.space.fixed(n))
            close.assert_close(found, tiny.logits(model))


def edited(source, target, **changes):
    import shutil

    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "expected a LoRA"),
        ({"use_dora": True}, "sets use_dora"),
        ({"rank_pattern": {"query": 2}}, "sets rank_pattern"),
        ({"bias": "all"}, "trained biases"),
        ({"r": 10**12}, r"expected A \[1000000000000, in\]"),
        ({"r": "4"}, "expected a rank"),
        ({"r": 2}, r"expected A \[2, in\]"),
    ],
)
def test_settings_that_are_not_understood_are_refused(folders, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        import_peft(tiny.bert(), [edited(folders[0], tmp_path / "x", **changes)])


def test_adapters_of_several_shapes_and_of_another_base(folders, tmp_path):
    with pytest.raises(ValueError, match="has rank 2: expected 4"):
        import_peft(tiny.bert(), [folders[0], stock(tmp_path / "a", 0, rank=2, head=False)])
    with pytest.raises(ValueError, match="has target modules"):
        import_peft(tiny.bert(), [folders[0], stock(tmp_path / "b", 0, targets=["query"], head=False)])
    with pytest.raises(ValueError, match="has heads"):
        import_peft(tiny.bert(), [folders[0], stock(tmp_path / "c", 0)])
    with pytest.raises(ValueError, match="has no module 'bert"):
        import_peft(tiny.roberta(), folders)
    with pytest.raises(ValueError, match="takes 32 to 32 features: expected 16 to 16"):
        import_peft(tiny.build(type(tiny.bert()), type(tiny.bert().config), hidden_size=32, num_attention_heads=2,
                               num_hidden_layers=3, intermediate_size=8, vocab_size=50), folders)  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is not there"):
        import_peft(tiny.bert(), [tmp_path])
    with pytest.raises(ValueError, match="0 folders"):
        import_peft(tiny.bert(), [])


def test_a_lying_header_is_refused(folders, tmp_path):
    place = edited(folders[0], tmp_path / "x")
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    (place / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        import_peft(tiny.bert(), [place])


def test_heads_on_a_drawn_module_and_another_base_are_told(tmp_path):
    for name, cls in (("masked", "BertForMaskedLM"), ("one", "BertForSequenceClassification")):
        tiny.bert(cls=cls).save_pretrained(tmp_path / name)
    folder = stock(tmp_path / "lora", 0)
    kind = type(tiny.bert())
    if int(transformers.__version__.split(".")[0]) >= 5:  # 4 leaves no marks on weights that it read
        with pytest.warns(UserWarning, match=r"lack bert\.pooler, and the adapters do not bring it"):
            import_peft(kind.from_pretrained(tmp_path / "masked", num_labels=tiny.bert().num_labels), [folder])
    config = json.loads((folder / "adapter_config.json").read_text())
    model = kind.from_pretrained(tmp_path / "one")
    for base, warned in ((str(tmp_path / "one"), False), ("owner/one", False), ("owner/two", True)):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            import_peft(copy.deepcopy(model), folder)  # one folder, no list
        assert any("trained on 'owner/two'" in str(w.message) for w in seen) is warned


def test_merging_products_needs_pairs():
    from adamix_lab.core.adaptations import Bottleneck

    with pytest.raises(ValueError, match="expected LoRA"):
        merge_products(tiny.mixed(tiny.bert(), Bottleneck(4)))
    with pytest.raises(ValueError, match="no A belongs to a B"):
        merge_products(tiny.mixed(tiny.bert(), LoRA(2)))
    shared = tiny.mixed(tiny.gpt2(), LoRA(2), share="B")
    close.assert_close(tiny.logits(merge_products(shared)), tiny.logits(merge(shared)))
