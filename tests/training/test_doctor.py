"""What the doctor finds."""

from adamix_lab.training import doctor


def test_a_cpu_torch_beside_an_nvidia_driver_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "_nvidia_driver", lambda: True)
    monkeypatch.setattr(doctor, "device_name", lambda: "cpu: 2 threads")
    assert any("CPU build" in line and "install a CUDA build" in line for _, line in doctor.diagnose())


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    assert any(not fine and "adamix-lab[peft]" in line for fine, line in doctor.diagnose())


def test_missing_assets_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAMIX_LAB_DATA", str(tmp_path))
    lines = [line for fine, line in doctor.diagnose() if not fine]
    assert any("aspects" in line for line in lines) and any("data/experts/make.py" in line for line in lines)


def test_versions_go_with_every_result():
    assert {"python", "torch", "transformers", "device"} <= doctor.versions().keys()


def test_the_class_line_is_one_line_that_names_no_folder(monkeypatch, tmp_path):
    fine, line = doctor.class_line()
    assert "\n" not in line and "torch" in line and "Python" in line
    assert line.startswith("OK | " if fine else "MISSING ")
    monkeypatch.setenv("ADAMIX_LAB_DATA", str(tmp_path))
    fine, line = doctor.class_line()
    assert not fine and "'aspects'; " in line and str(tmp_path) not in line
