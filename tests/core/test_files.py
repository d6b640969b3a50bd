"""Writes that survive, names that stay inside."""

import os

import pytest
import torch

from adamix_lab.core.files import read_tensors, safe_join, write_atomically, write_tensors, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device.*is whole"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["note.txt"]


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
