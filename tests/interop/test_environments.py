"""Stock libraries in environments of their own load the exports; some of the tests run on the oldest versions.

The first run makes the environments under runs/ and needs a package registry; without one these tests are skipped.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = sorted(path.stem for path in (ROOT / "tests" / "environments").glob("*.txt"))
PROXIES = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]


def checked(name: str) -> dict:
    environment = {key: value for key, value in os.environ.items() if key not in PROXIES}
    command = [sys.executable, ROOT / "tests" / "environments" / "check.py", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    record = json.loads(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, (record["wrong"], record.get("tests"), done.stdout[-3000:])
    return record


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_stock_adapters_and_peft_load_every_export(record_property):
    record = checked("adapters")
    assert record["versions"]["adapters"] == "1.3.0"
    for row in record["exports"]:
        record_property(f"{row['architecture']} {row['library']} {row['adaptation']}", row["difference"])
    found = {(row["architecture"], row["library"]) for row in record["exports"]}
    names = ("BERT", "RoBERTa", "GPT-2", "DistilBERT", "Llama")
    assert found == {(name, library) for name in names for library in ("peft", "adapters", "transformers")}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_oldest_versions(record_property):
    record = checked("oldest")
    record_property("versions", record["versions"])
    assert "passed" in record["tests"] and "failed" not in record["tests"]


def test_the_tests_that_run_on_other_versions_are_there():
    wanted = runpy.run_path(str(ROOT / "tests" / "environments" / "check.py"))["TESTS"]
    assert set(wanted) <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_environment_pins_torch_and_the_ranges_admit_the_oldest():
    import tomllib

    from packaging.requirements import Requirement

    for name in PINNED:
        lines = (ROOT / "tests" / "environments" / f"{name}.txt").read_text().splitlines()
        needs = {Requirement(line).name: Requirement(line) for line in lines if line and not line.startswith("#")}
        assert "torch" in needs and all(str(need.specifier).startswith("==") for need in needs.values()), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    admitted = [*project["dependencies"], *project["optional-dependencies"]["peft"]]
    oldest = (ROOT / "tests" / "environments" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in oldest if "==" in line)
    for requirement in map(Requirement, admitted):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
