"""Zip files and folders as they come: roots around all, bad entries, missing dates, twins, several files a person."""

import datetime
import io
import struct
import zipfile

import pytest

from adamix_lab.classroom import submissions
from adamix_lab.classroom.submissions import collect, found

NOON = datetime.datetime(2026, 1, 1, 12)


def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def patched(path, name, offset, value):
    """The zip file with two bytes of an entry's record in its directory changed."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name.encode():
        at = data.index(b"PK\x01\x02", at + 1)
    data[at + offset : at + offset + 2] = struct.pack("<H", value)
    path.write_bytes(bytes(data))


def people(source, **more):
    odd = []
    return {s.name: s for s in collect(source, tell=odd.append, **more)}, " ".join(odd)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("submissions/ada/x.ipynb", "submissions/bob/x.ipynb"), {"ada", "bob"}),
        (("all/again/ada/x.ipynb", "all/again/bob/x.ipynb", "all/README.txt", "__MACOSX/all/x.ipynb"), {"ada", "bob"}),
        (("submissions/ada.ipynb", "submissions/bob.ipynb"), {"ada", "bob"}),
        (("handed/ada/x.ipynb",), {"ada"}),  # a folder that was zipped has the zip file's name
        (
            ("d/Ada Ek_7_assignsubmission_file_/x.ipynb", "d/Bo Ek_8_assignsubmission_file_/x.ipynb"),
            {"Ada Ek", "Bo Ek"},
        ),
        (("ada/x.ipynb", "ada/x-old.ipynb"), {"ada"}),  # one person's folder is nobody's root
        (("ada/week 1/x.ipynb",), {"ada"}),
    ],
)
def test_a_folder_around_all_is_nobody(tmp_path, files, names):
    assert set(people(zipped(tmp_path / "handed.zip", dict.fromkeys(files, "{}")))[0]) == names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("ada_2024_11_30.ipynb", "bob_2024_11_30.ipynb"), {"ada_2024_11_30", "bob_2024_11_30"}),  # a date
        (("ada_30_11_2024.ipynb", "bob_29_11_2024.ipynb"), {"ada_30_11_2024", "bob_29_11_2024"}),
        (("ada_1_01_routing.ipynb", "bob_2_01_routing.ipynb"), {"ada_1_01_routing", "bob_2_01_routing"}),  # a group
        (("ada/hw_2024_11_30.ipynb", "bob/hw_2024_11_29.ipynb", "eve/x.ipynb"), {"ada", "bob", "eve"}),
        (("ada_2024_11_30.ipynb", "turing_345_678_x.ipynb", "noether_346_679_x.ipynb", "bob_2024_11_30.ipynb"), None),
    ],
)
def test_a_number_that_two_people_share_is_no_id_of_canvas(tmp_path, files, names):
    handed, _ = people(zipped(tmp_path / "z.zip", dict.fromkeys(files, "{}")))
    assert set(handed) == (names or {"ada_2024_11_30", "bob_2024_11_30", "turing", "noether"})
    assert {s.platform for name, s in handed.items() if name in ("turing", "noether")} <= {"canvas"}


def test_whoever_zipped_a_file_with_a_date_is_who_the_zip_file_names(tmp_path):
    for name in ("ada", "bob"):
        zipped(tmp_path / f"{name}.zip", {"hw_2024_11_30.ipynb": name})
    handed, _ = people(tmp_path)
    assert {name: [*s.read().values()] for name, s in handed.items()} == {"ada": [b"ada"], "bob": [b"bob"]}


def test_a_bad_entry_costs_nobody_else(tmp_path):
    path = zipped(tmp_path / "z.zip", {f"{name}/x.ipynb": f"of {name}" for name in ("crc", "locked", "odd", "good")})
    patched(path, "crc/x.ipynb", 16, 0xDEAD)
    patched(path, "locked/x.ipynb", 8, 1)
    patched(path, "odd/x.ipynb", 10, 77)
    handed, _ = people(path)
    assert handed["good"].read() == {"x.ipynb": b"of good"}
    for name in ("crc", "locked", "odd"):
        with pytest.raises(ValueError, match="could not be read"):
            handed[name].read()


def test_one_broken_zip_among_good_ones_is_told(tmp_path):
    zipped(tmp_path / "ada.zip", {"x.ipynb": "a", "my_adamix.py": "b"})
    zipped(tmp_path / "bo.zip", {"hw1/x.ipynb": "c"})
    zipped(tmp_path / "cy.zip", {"x.ipynb": "d"})
    (tmp_path / "cy.zip").write_bytes((tmp_path / "cy.zip").read_bytes()[:40])
    handed, odd = people(tmp_path)
    assert handed["ada"].read() == {"x.ipynb": b"a", "my_adamix.py": b"b"} and handed["bo"].read() == {"x.ipynb": b"c"}
    assert set(handed) == {"ada", "bo", "cy"} and "cy.zip is no zip file" in odd


def test_what_one_person_zipped_is_looked_into_where_the_platform_hands_it_out(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("mine/x.ipynb", "a")
        archive.writestr("mine/my_adamix.py", "b")
    names = ("Ada Ek_7_assignsubmission_file_/hw.zip", "boek_12_99_hw-1.zip", "Cy Ek_9_assignsubmission_file_/x.ipynb")
    handed, _ = people(zipped(tmp_path / "z.zip", dict.fromkeys(names, inner.getvalue())))
    assert {n: (s.platform, s.number) for n, s in handed.items()} == {
        "Ada Ek": ("moodle", "7"),
        "boek": ("canvas", "12"),
        "Cy Ek": ("moodle", "9"),
    }
    assert handed["Ada Ek"].read() == handed["boek"].read() == {"x.ipynb": b"a", "my_adamix.py": b"b"}


def test_a_date_that_is_none_is_not_late_and_told_where_it_matters(tmp_path):
    path = zipped(tmp_path / "z.zip", {"ada/x.ipynb": "{}"})
    patched(path, "ada/x.ipynb", 14, 0)
    handed, _ = people(path, due=NOON)
    assert not handed["ada"].late and "has no date" in handed["ada"].remarks[0]
    assert not people(path)[0]["ada"].remarks


def test_twins_stay_apart_and_are_told(tmp_path):
    for name in (
        *("Ada Ek_1_assignsubmission_file_/x.ipynb", "Ada Ek_2_assignsubmission_file_/x.ipynb"),
        *("Bo/x.ipynb", "bo/x.ipynb", "adaek_1_5_x.ipynb"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    odd = []
    handed = collect(tmp_path, tell=odd.append)
    assert len({s.person.casefold() for s in handed}) == len(handed) == 5
    assert "2 people are called Ada Ek" in " ".join(odd) and "2 people are called" in odd[-1]


def test_one_name_in_two_forms_of_unicode_is_one_person(tmp_path):
    path = zipped(tmp_path / "z.zip", {"gro\u0308\u00dfe/x.ipynb": "old", "gr\u00f6\u00dfe/y.ipynb": "new"})
    assert len(people(path)[0]) == 1


def test_what_would_unpack_to_too_much_is_refused_and_nothing_is_unpacked_early(tmp_path, monkeypatch):
    path = zipped(tmp_path / "z.zip", {f"p{n}/x.ipynb": bytes(2_000_000) for n in range(6)})
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked before anybody is graded"))
    assert len(people(path)[0]) == 6
    monkeypatch.setattr(submissions, "TOTAL", 10_000_000)
    with pytest.raises(ValueError, match="would unpack to more than"):
        collect(path)
    monkeypatch.setattr(submissions, "LARGEST", 1_000_000)
    monkeypatch.setattr(submissions, "TOTAL", 100_000_000)
    with pytest.raises(ValueError, match="is larger than 1 MB"):
        people(path)[0]["p1"].read()


def test_files_beside_the_notebook_go_with_it(tmp_path):
    for name in ("ada/x.ipynb", "ada/my_adamix.py", "ada/no-name.py", "ada/photo.png", "ada/deep/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in ("boek_12_99_x-1.ipynb", "boek_12_98_my_adamix-1.py", "boek_12_97_my_adamix.py", "notes.txt"):
        (tmp_path / name).write_text(name)
    handed, odd = people(tmp_path)
    assert handed["ada"].read() == {"x.ipynb": b"ada/x.ipynb", "my_adamix.py": b"ada/my_adamix.py"}
    assert "no-name.py" in handed["ada"].remarks[0] and "my_adamix.py" not in handed["ada"].remarks[0]
    assert handed["boek"].read() == {"x.ipynb": b"boek_12_99_x-1.ipynb", "my_adamix.py": b"boek_12_98_my_adamix-1.py"}
    assert odd == "notes.txt belongs to nobody: it was left aside."
    shown = found(list(handed.values()))
    assert shown.startswith("Found 2 people (1 canvas, 1 plain):") and "ada/x.ipynb + my_adamix.py" in shown
