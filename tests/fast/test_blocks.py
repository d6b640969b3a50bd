"""Work block by block: what is skipped changes nothing."""

import close
import pytest
import tiny
import torch
from torch.overrides import TorchFunctionMode

from adamix_lab.core.adaptations import IA3, Bottleneck, LoRA
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import WAYS, cut_last_block, fan_out, plan_blocks, routed_logits
from adamix_lab.fast.prefix import cached_prefix, prefix_states

CUT = {"bert": tiny.bert, "roberta": tiny.roberta, "distilbert": tiny.distilbert, "electra": tiny.electra}
every_cut = pytest.mark.parametrize("name", CUT)


def count_rows(module, seen):
    module.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape)))


# -- plans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "adaptation", "more", "first", "tail_only"),
    [
        (tiny.bert, Bottleneck(4), {}, 0, True),
        (tiny.bert, Bottleneck(4), {"blocks": [1, 2]}, 1, True),
        (tiny.bert, LoRA(2), {"blocks": [2]}, 2, False),
        (tiny.bert, IA3(feedforward=True), {}, 0, False),
        (tiny.bert, Bottleneck(4), {"targets": "output.dense"}, 0, False),  # also after attention
        (tiny.distilbert, Bottleneck(4), {"blocks": [1]}, 1, True),
        (tiny.gpt2, Bottleneck(4), {}, 0, True),
        (tiny.llama, LoRA(2), {}, 0, False),
    ],
)
def test_plans(build, adaptation, more, first, tail_only):
    plan = plan_blocks(tiny.mixed(build(), adaptation, **more))
    assert (plan.first, plan.tail_only, len(plan.blocks)) == (first, tail_only, 3)


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (tiny.albert, None), (tiny.deberta, None), (tiny.t5, None), (tiny.bert, "pooler.dense"),
        (lambda: tiny.bert(cls="BertModel"), None),
    ],
)  # fmt: skip
def test_no_plan_is_no_error(build, targets):
    mixture = tiny.mixed(build(), Bottleneck(4), targets=targets)
    assert plan_blocks(mixture) is None
    with pytest.raises(ValueError, match=r"prefix of .* cannot be cached: expected one of bert"):
        cached_prefix(mixture)
    with cut_last_block(mixture.model):
        mixture(**tiny.inputs(mixture.model))


@pytest.mark.parametrize(
    "build",
    [
        lambda: tiny.gpt2(cls="GPT2ForSequenceClassification"),
        lambda: tiny.llama(cls="LlamaForSequenceClassification"),
    ],
    ids=["gpt2", "llama"],
)
def test_what_is_proposed_and_not_permitted_runs_plain_passes(build):
    """These heads count rows by `input_ids`, or fold them: the table proposes to fan out, the check does not permit."""
    mixture = tiny.mixed(build(), Bottleneck(4))
    batch, routes = tiny.batch(pad=False), Router(mixture.space).views(0)
    assert plan_blocks(mixture) is not None
    with pytest.warns(UserWarning, match=r"Views of \w+ share no work, with equal results"):
        shared = routed_logits(mixture, batch, routes, "shared_prefix")
    close.assert_close(shared, routed_logits(mixture, batch, routes, "same_dropout"))


def test_a_head_that_folds_its_rows_is_asked_like_any_other():
    mixture = tiny.mixed(tiny.bert(cls="BertForMultipleChoice"), Bottleneck(4))
    batch = {name: torch.stack([value, value.flip(1)], 1) for name, value in tiny.batch(pad=False).items()}
    routes = Router(mixture.space).views(0)
    expected = routed_logits(mixture, batch, routes, "same_dropout")
    for way in ("independent", "shared_prefix"):
        close.assert_close(routed_logits(mixture, batch, routes, way), expected)


def test_no_plan_under_gradient_checkpointing():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    mixture.model.bert.encoder.layer[0].gradient_checkpointing = True
    assert plan_blocks(mixture) is None


# -- fan-out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adaptation", "shared_blocks"), [(Bottleneck(4), 2), (LoRA(2), 1)], ids=["tail", "inside"])
def test_the_prefix_runs_once(adaptation, shared_blocks):
    """Sites at a block's end share the block among the views; sites inside it share up to the block."""
    mixture = tiny.mixed(tiny.bert(), adaptation, blocks=[1, 2])
    seen = []
    for block in mixture.model.bert.encoder.layer:
        count_rows(block.intermediate, seen)
    routed_logits(mixture, tiny.batch(rows=4), Router(mixture.space).views(0, 3), "shared_prefix")
    assert [shape[0] for shape in seen] == [4] * shared_blocks + [12] * (3 - shared_blocks)
    assert seen[-1][1] == 1 and seen[0][1] == 7  # the last block is cut to the position that is read


def test_one_view_needs_no_hooks():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    with fan_out(mixture, plan_blocks(mixture), 1, 4):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in mixture.modules())


# -- the last block, cut ---------------------------------------------------------------------------------


@every_cut
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_cut_is_exact(name, adaptation):
    mixture = tiny.mixed(CUT[name](), adaptation).train()
    route, seen = Router(mixture.space).route(0), []
    count_rows(mixture.sites[mixture.mixture.sites[-1]], seen)
    whole = mixture(selection=route, **tiny.batch()).logits
    whole.square().sum().backward()
    gradients = tiny.gradients(mixture)
    with cut_last_block(mixture.model):
        cut = mixture(selection=route, **tiny.batch()).logits
    cut.square().sum().backward()
    close.assert_close(cut, whole)
    close.assert_all_close(tiny.gradients(mixture), gradients, close.REORDERED)
    if isinstance(adaptation, Bottleneck):
        assert [shape[1] for shape in seen] == [7, 1]
    assert torch.equal(mixture(selection=route, **tiny.batch()).logits, whole)  # the hook is gone


@every_cut
@pytest.mark.parametrize("mask", [None, "padded"])
def test_the_last_block_asks_once(name, mask):
    """Keys of all positions, the query of one: with and without padding the logits stay, only the work is less."""
    queries = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.scaled_dot_product_attention:
                queries.append((args[0].shape[-2], args[1].shape[-2]))
            return function(*args, **kwargs or {})

    model, batch = CUT[name](), tiny.batch()
    if model.config._attn_implementation != "sdpa":  # ELECTRA before transformers 5
        pytest.skip(f"{name} has no SDPA here, whose calls are watched")
    if mask:
        batch["attention_mask"][0, 4:] = 0
    whole = model(**batch).logits
    with cut_last_block(model):  # the check of a first use has queries of its own
        pass
    with Watch(), cut_last_block(model):
        close.assert_close(model(**batch).logits, whole)
    assert queries == [(7, 7)] * (len(queries) - 1) + [(1, 7)]


@every_cut
def test_an_attention_that_fails_leaves_nothing_behind(name):
    """Ctrl-C or a full GPU inside the last attention: later passes must not be cut."""
    model, batch = CUT[name](), tiny.batch()
    whole = model(**batch).logits
    values = [m for n, m in model.named_modules() if n.endswith((".value", "v_lin"))][-1]

    def fail(*args):
        raise KeyboardInterrupt

    handle = values.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt), cut_last_block(model):
        model(**batch)
    handle.remove()
    q = torch.randn(1, 1, 3, 2)
    attended = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert not torch.equal(attended[0, 0, 0], attended[0, 0, 1])
    close.assert_close(model(**batch).logits, whole)


@every_cut
def test_cut_works_on_plain_models(name):
    model = CUT[name]()
    whole = model(**tiny.batch()).logits
    with cut_last_block(model), cut_last_block(model):
        close.assert_close(model(**tiny.batch()).logits, whole)


@pytest.mark.parametrize("cls", ["BertForMaskedLM", "BertForTokenClassification", "BertModel"])
def test_nothing_is_cut_where_all_positions_are_read(cls):
    model = tiny.bert(cls=cls)
    with cut_last_block(model):
        assert model(**tiny.batch())[0].shape[1] == 7


# -- above the frozen prefix -----------------------------------------------------------------------------


@every_cut
@pytest.mark.parametrize("blocks", [[0, 1, 2], [1, 2], [-1]], ids=str)
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_the_cached_prefix_equals_the_whole_model(name, blocks, adaptation):
    mixture = tiny.mixed(CUT[name](), adaptation, blocks=blocks).train()
    top, cache = cached_prefix(mixture)
    batch, routes = {**tiny.batch(), "labels": tiny.labels()}, Router(mixture.space).views(0)
    cached = cache(batch)
    assert set(cached) == {"inputs_embeds", "attention_mask", "labels"} and not cached["inputs_embeds"].requires_grad
    for way in ("independent", "shared_prefix", "same_dropout"):
        whole = Objective(mixture, Consistency(views=way), ways=WAYS)(batch, routes)
        whole.total.backward()
        gradients = tiny.gradients(mixture)
        part = Objective(top, Consistency(views=way), ways=WAYS)(cached, routes)
        part.total.backward()
        close.assert_close(part.total, whole.total)
        close.assert_close(part.logits, whole.logits)
        close.assert_all_close(tiny.gradients(mixture), gradients, close.GRADIENTS)  # they land in the mixture
    close.assert_close(
        top(selection="merge", **without(cached)).logits, mixture(selection="merge", **without(batch)).logits
    )


def without(batch):
    return {key: value for key, value in batch.items() if key != "labels"}


@every_cut
def test_caching_leaves_the_mixture_alone(name):
    mixture = tiny.mixed(CUT[name](), Bottleneck(4), blocks=[-1])
    before = mixture(**tiny.batch()).logits
    top, cache = cached_prefix(mixture)
    calls = []
    prefix = mixture.model.get_submodule(plan_blocks(mixture).path)[0]
    cached = cache(tiny.batch())
    prefix.register_forward_pre_hook(lambda *_: calls.append(1))
    top(**cached)
    assert not calls  # the prefix is skipped
    assert torch.equal(mixture(**tiny.batch()).logits, before) and calls
    assert {id(p) for p in top.parameters()} <= {id(p) for p in mixture.parameters()}
    assert mixture.model.get_input_embeddings() is not None


@every_cut
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_a_prefix_with_dropout_is_what_a_training_step_computes_there(name, adaptation):
    mixture = tiny.mixed(CUT[name](dropout=0.3), adaptation, blocks=[-2, -1])
    _, cache = cached_prefix(mixture)
    first = plan_blocks(mixture).blocks[plan_blocks(mixture).first]
    entering = []
    first.register_forward_pre_hook(
        lambda module, args, kwargs: entering.append([*args, *kwargs.values()][0]), with_kwargs=True
    )
    torch.manual_seed(3)
    mixture.train()(selection="merge", **tiny.batch())
    noted = len(entering)
    torch.manual_seed(3)
    mixture.eval()
    states = cache(tiny.batch(), dropout=True)["inputs_embeds"]
    torch.manual_seed(4)
    other = cache(tiny.batch(), dropout=True)["inputs_embeds"]
    plain = cache(tiny.batch())["inputs_embeds"]
    assert not mixture.training and not torch.equal(states, other) and not torch.equal(states, plain)
    close.assert_close(entering[noted], entering[0])  # what enters the first adapted block, under the same masks
    if states.shape[-1] == tiny.WIDTH:  # cached up to that block
        close.assert_close(states, entering[0])
    assert not states.requires_grad


def test_the_prefix_runs_without_dropout_and_modes_come_back():
    mixture = tiny.mixed(tiny.bert(dropout=0.5), Bottleneck(4), blocks=[-1]).train()
    mixture.model.bert.embeddings.eval()
    before = {name: module.training for name, module in mixture.named_modules()}
    plan = plan_blocks(mixture)
    first, second = (prefix_states(mixture, plan, tiny.batch()) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (4, 7, 2 * tiny.WIDTH)  # frozen output, residual
    assert {name: module.training for name, module in mixture.named_modules()} == before
    assert not any(m._forward_pre_hooks for m in mixture.modules())
