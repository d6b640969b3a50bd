"""Whose a file is and which one counts, by the names that platforms give."""

import datetime
import zipfile

import pytest

from adamix_lab.classroom.submissions import collect


def write(path, text="{}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_names_of_platforms(tmp_path):
    write(tmp_path / "Ada Lovelace_1234567_assignsubmission_file_" / "a.ipynb")
    write(tmp_path / "Bo Ek_22_assignsubmission_file_b.ipynb")
    write(tmp_path / "turingalan_LATE_345_678_01_routing.ipynb")
    write(tmp_path / "grace" / "01_routing.ipynb")
    write(tmp_path / "emmy.ipynb")
    write(tmp_path / ".DS_Store")
    found = {s.name: s for s in collect(tmp_path)}
    assert {n: (s.platform, s.number, s.late) for n, s in found.items()} == {
        "Ada Lovelace": ("moodle", "1234567", False),
        "Bo Ek": ("moodle", "22", False),
        "turingalan": ("canvas", "345", True),
        "grace": ("plain", "", False),
        "emmy": ("plain", "", False),
    }


def test_the_newest_of_several_counts_and_a_notebook_before_anything_else(tmp_path):
    write(tmp_path / "ada_1_10_x.ipynb", "first")
    write(tmp_path / "ada_1_11_x-2.ipynb", "third")
    write(tmp_path / "ada_1_12_x-1.ipynb", "second")
    write(tmp_path / "ada_1_13_photo-9.png", "picture")
    (only,) = collect(tmp_path)
    assert only.read() == {"x.ipynb": b"third"} and "Of 4 files" in only.remarks[-1]


def test_what_came_after_the_time_is_late(tmp_path):
    write(tmp_path / "ada" / "x.ipynb")
    before = datetime.datetime.now() - datetime.timedelta(hours=1)
    assert collect(tmp_path, before)[0].late and not collect(tmp_path, before + datetime.timedelta(hours=2))[0].late


def test_names_are_safe_folders_and_stay_apart(tmp_path):
    write(tmp_path / "größe (1)" / "x.ipynb")
    write(tmp_path / "größe [1]" / "x.ipynb")
    people = [s.person for s in collect(tmp_path)]
    assert len(set(people)) == 2 and all(p.replace("-", "").replace("_", "").isalnum() and p.isascii() for p in people)


def test_a_zip_that_leaves_its_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("../../evil.ipynb", "{}")
    with pytest.raises(ValueError, match="leaves the folder"):
        collect(tmp_path / "z.zip")


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no files"):
        collect(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        collect(tmp_path / "none")
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(ValueError, match="is no zip file"):
        collect(tmp_path)
