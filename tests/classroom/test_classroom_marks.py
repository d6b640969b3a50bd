"""Tables that platforms import."""

import csv
import io

import pytest

from adamix_lab.classroom.marks import Marked, canvas, moodle, table, write_marks


def marked(name, points, platform="moodle", number="7", remarks=()):
    about = {"person": name.lower(), "name": name, "platform": platform, "number": number, "late": False}
    return Marked(**about, points={"a": points, "b": 0.0}, maximum={"a": 3.0, "b": 1.0}, remarks=remarks)


def rows(text):
    return list(csv.reader(io.StringIO(text)))


def test_the_table_has_a_column_for_each_check_and_the_remarks():
    head, ada = rows(table([marked("Ada", 2.5, remarks=("It came late.", "Cell 3 did not end."))]))
    assert head == ["person", "name", "points", "of", "late", "a", "b", "remarks"]
    assert ada == ["ada", "Ada", "2.5", "4", "", "2.5", "0", "It came late. Cell 3 did not end."]


def test_platforms_find_people_by_their_numbers():
    assert rows(moodle([marked("Ada", 3)], "x"))[1][:4] == ["Participant 7", "Ada", "3", "4"]
    head, best, ada = rows(canvas([marked("Ada", 3, "canvas", "12")], "01_routing"))
    assert head[:2] == ["Student", "ID"] and head[-1] == "01_routing" and best[-1] == "4"
    assert ada[1] == "12" and ada[-1] == "3"


def test_a_name_is_no_formula():
    assert rows(table([marked("=1+1", 0)]))[1][1] == "'=1+1"


@pytest.mark.parametrize("name", ["=1+1", "\t=1+1", "\r=1+1", " -1", "\n@x", "\uff1d1+1"])
def test_a_name_that_hides_a_formula_is_escaped_and_still_the_name(name):
    for text in (table([marked(name, 0)]), moodle([marked(name, 0)], "x"), canvas([marked(name, 0, "canvas")], "x")):
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        assert "'" + name in cells and name not in cells
    assert rows(moodle([marked(name, 3)], "x"))[-1][0] == "Participant 7"  # by which platforms know people


def test_only_the_platforms_that_people_came_from_get_a_file(tmp_path):
    written = write_marks([marked("Ada", 1), marked("Bo", 2, "plain", "")], "x", tmp_path)
    assert [path.name for path in written] == ["x.csv", "x-moodle.csv"]
