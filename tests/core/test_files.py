"""Writes that survive, names that stay inside."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adamix_lab.core.files import (
    CONFIG,
    MANIFEST,
    alone,
    check_weights,
    check_written,
    config_digest,
    digest_of,
    locked,
    parse_json,
    read_json,
    read_record,
    read_tensors,
    safe_join,
    told,
    write_atomically,
    write_record,
    write_tensors,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device.*is whole"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["note.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="opens no folders")
def test_a_new_name_is_synced_with_its_folder(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(stat.S_ISDIR(os.fstat(handle).st_mode)), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), replace(*paths)))
    write_text(tmp_path / "note.txt", "new")
    assert done == [False, "renamed", True]

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no folders here")

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "note.txt", "newer")
    assert (tmp_path / "note.txt").read_text() == "newer"


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes")
def test_a_file_is_written_beside_its_place_and_everybody_may_read_it(tmp_path):
    seen = []
    write_atomically(tmp_path / "note.txt", lambda temporary: (seen.append(temporary), temporary.write_text("new")))
    assert seen[0].parent == tmp_path and seen[0].name.startswith(".note.txt.")  # hidden, and known by its name
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o644


def test_a_write_leaves_no_file_open(tmp_path):
    def next_handle():  # the lowest that is free
        os.close(handle := os.dup(0))
        return handle

    free = next_handle()
    write_text(tmp_path / "note.txt", "new")
    assert next_handle() == free


def test_folders_are_made_and_text_is_utf_8(tmp_path):
    write_text(tmp_path / "a b" / "ü.txt", "λ")
    assert (tmp_path / "a b" / "ü.txt").read_bytes() == "λ".encode()


def test_tensors_come_back_and_equal_ones_give_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(4.0), "a": torch.eye(2, dtype=torch.float16)}
    write_tensors(tmp_path / "1", tensors)
    write_tensors(tmp_path / "2", dict(reversed(tensors.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    back = read_tensors(tmp_path / "1")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_garbage_is_no_safetensors_file(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"not a whole safetensors file.*copy it again"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "", ".", "..", "a\\b", 3, None])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leaves its folder"):
        safe_join(tmp_path, name)
    assert safe_join(tmp_path, "weights.safetensors") == tmp_path / "weights.safetensors"


def test_json_that_is_nested_without_end_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"here is not JSON .*expected a table"):
        parse_json("[" * 10_000, "here", "a table")
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"x is no UTF-8 text .*expected a table"):
        read_json(tmp_path / "x", "a table")


def test_a_record_comes_back_and_a_changed_one_is_refused(tmp_path):
    path, tensors = tmp_path / "r", {"b": torch.arange(4.0), "a": torch.eye(2)}
    write_record(path, "state", tensors, {"step": 3, "loss": float("nan"), "route": (1, 2)})
    back, facts = read_record(path, "state", "a state.")
    assert torch.equal(back["b"], tensors["b"]) and facts["step"] == 3 and facts["route"] == [1, 2]
    with pytest.raises(ValueError, match=r"holds no landscape: expected a landscape\."):
        read_record(path, "landscape", "a landscape.")
    write_tensors(path, {"b": tensors["b"] + 1, "a": tensors["a"]}, {"state": json.dumps(facts)})
    with pytest.raises(ValueError, match="was changed since it was written"):
        read_record(path, "state", "a state.")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [(torch.arange(3), "has a as torch.int64"), (torch.tensor([1.0, torch.inf]), "in a that are not finite")],
)
def test_what_cannot_be_a_weight_is_refused_by_name(tensor, said):
    with pytest.raises(ValueError, match=said):
        check_weights({"a": tensor}, "x")


def test_a_digest_tells_floats_of_equal_bytes_apart():
    half = torch.tensor([1.0, 2.0]).half()
    assert digest_of({"a": half}) != digest_of({"a": half.view(torch.bfloat16)})


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_a_folder_has_one_writer_at_a_time_in_whatever_process(tmp_path):
    @alone("out")
    def write(text, out):
        return (out / "a").write_text(text)

    code = "import sys; from pathlib import Path; from adamix_lab.core.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(ValueError, match="Another run writes into"):
        write("x", tmp_path)
    other.kill()  # and its lock with it
    with locked(tmp_path, wait=10):
        pass
    assert write("x", out=tmp_path) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
@pytest.mark.parametrize(("wait", "sleeps"), [({}, 0), ({"wait": 0.1}, 2), ({"wait": 0.12}, 3)])
def test_the_second_writer_waits_as_long_as_it_was_told_to(tmp_path, monkeypatch, wait, sleeps):
    slept = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    with locked(tmp_path), pytest.raises(ValueError, match="Another run"), locked(tmp_path, **wait):
        pass
    assert slept == [0.05] * sleeps


def test_a_system_without_locks_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / "new"):
        write_text(tmp_path / "new" / "note.txt", "there")


def test_json_is_read_as_utf_8_whatever_the_system_has(tmp_path, monkeypatch):
    plain, asked = Path.read_text, []
    monkeypatch.setattr(Path, "read_text", lambda path, **how: (asked.append(how), plain(path, **how))[1])
    write_text(tmp_path / "a.json", '{"a": "ü"}')
    assert read_json(tmp_path / "a.json", "") == {"a": "ü"} and asked == [{"encoding": "utf-8"}]


def test_the_order_of_settings_changes_no_digest():
    assert config_digest({"a": 1, "b": 2, "digest": "x"}) == config_digest({"b": 2, "a": 1})


def test_folders_of_folders_are_made_and_a_missing_file_is_said_to_be_missing(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "there")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "there"
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")


def test_what_neither_save_nor_export_wrote_and_a_damaged_configuration_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds no {CONFIG} or {MANIFEST}"):
        check_written(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    check_written(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        check_written(tmp_path)


def test_an_absolute_path_is_told_from_the_working_folder_or_by_its_last_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert told(str(tmp_path / "here" / "data" / "a.csv")) == os.path.join(".", "data", "a.csv")
    assert told(str(tmp_path / "a.csv")) == os.path.join("..", "a.csv")
    assert told(os.path.join(Path(os.sep).absolute(), "elsewhere", "a.csv")) == os.path.join(".", "a.csv")
    assert told("aspects") == "aspects" and told("owner/name") == "owner/name"
