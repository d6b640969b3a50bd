"""Mixtures on the Hub, against the small one on loopback; each client is a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tiny_task
import torch
from hub_server import serve

from adamix_lab import from_pretrained, save
from adamix_lab.core.adaptations import Bottleneck, LoRA

ROOT = Path(__file__).resolve().parents[2]

CLIENT = """
import json, sys, torch, tiny
from adamix_lab import from_pretrained, merge, push_to_hub
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.tasks.backbones import load_backbone
asked = json.loads(sys.argv[1])
try:
    if asked["what"] == "push":
        from adamix_lab import attach
        model, _ = load_backbone("tiny/bert", num_labels=3)
        mixture = tiny.shake(attach(model, Bottleneck(4), experts=3, share="up"))
        out = {"commit": push_to_hub(mixture, asked["name"], {"task": "films"}, token=asked["token"])}
    else:
        mixture = from_pretrained(asked["name"])
        out = {"experts": mixture.space.experts}
    with torch.no_grad():
        out["logits"] = mixture(**tiny.batch()).logits.tolist()
except Exception as error:
    out = {"error": type(error).__name__, "says": str(error)}
print("RESULT" + json.dumps(out))
"""


def client(hub, home, offline=False, **asked):
    proxies = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in proxies},
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    command = [sys.executable, "-c", CLIENT, json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    lines = [line.removeprefix("RESULT") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0])


@pytest.mark.slow
def test_pushed_downloaded_and_found_offline(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "base")
    tiny_task.tokenizer().save_pretrained(tmp_path / "base")
    base = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    with serve({"models/tiny/bert": base}) as hub:
        hub.token = "secret"
        refused = client(hub, tmp_path / "home", what="push", name="me/films", token="wrong")
        assert refused["error"] == "OSError" and "may write to" in refused["says"]
        pushed = client(hub, tmp_path / "home", what="push", name="me/films", token="secret")
        assert "/me/films/commit/" in pushed["commit"], pushed
        stored = hub.repositories["models/me/films"]
        assert {Path(name).suffix for name in stored} == {".json", ".md", ".safetensors"} and len(stored) == 3
        card = stored["README.md"].decode()
        assert card.startswith("---\n") and "base_model: tiny/bert" in card and "task:films" in card
        stored["evil.py"] = b"raise SystemExit"
        back = client(hub, tmp_path / "other", what="load", name="me/films")
        assert back.get("logits") == pushed["logits"] and back["experts"] == 3, back
        assert not list((tmp_path / "other").rglob("evil.py"))  # not even fetched
        hub.asked.clear()
        assert client(hub, tmp_path / "other", offline=True, what="load", name="me/films") == back and not hub.asked
        typo = client(hub, tmp_path / "other", what="load", name="me/flims")
        assert typo["error"] == "OSError" and "me/flims" in typo["says"] and "Check the name" in typo["says"]


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)])
def test_a_folder_with_a_base_at_hand(tmp_path, adaptation):
    mixture = tiny.mixed(tiny.bert(), adaptation)
    save(mixture, tmp_path)
    assert torch.equal(tiny.logits(from_pretrained(tmp_path, tiny.bert())), tiny.logits(mixture))
    tiny.bert().save_pretrained(tmp_path / "base")
    tiny_task.tokenizer().save_pretrained(tmp_path / "base")
    assert torch.equal(tiny.logits(from_pretrained(tmp_path, str(tmp_path / "base"))), tiny.logits(mixture))
    with pytest.raises(ValueError, match=r"names '' as its base: expected a model on the Hub"):
        from_pretrained(tmp_path)
    save(mixture, tmp_path, {"backbone": "a-folder-of-mine"})
    with pytest.raises(OSError, match=r"a-folder-of-mine.*Or give the base itself: from_pretrained\(..., model="):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["../../secret", "/etc", "a/../../b", "C:\\models", ".ssh", "tests/nowhere/x"])
def test_a_configuration_may_not_name_a_path_as_its_base(tmp_path, name):
    save(tiny.mixed(tiny.bert(), Bottleneck(4)), tmp_path, {"backbone": name})
    with pytest.raises(ValueError, match="as its base: expected a model on the Hub"):
        from_pretrained(tmp_path)


def test_neither_a_folder_nor_a_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="or owner/name"):
        from_pretrained(tmp_path / "nowhere" / "at" / "all")
    from adamix_lab.interop.hub import push_folder

    with pytest.raises(ValueError, match="no repository's name"):
        push_folder(tmp_path, "films")
