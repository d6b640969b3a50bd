"""The tests notice what is wrong in the core: a hundred small changes to its source, one at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "mutation.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some minutes on two free cores
def test_of_a_hundred_wrong_cores_at_most_five_go_unnoticed(record_property):
    command = [sys.executable, str(SCRIPT), "--seed", "0", "--sample", "100"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    print(done.stdout)
    counts = json.loads(done.stdout.splitlines()[-1])
    for name, count in counts.items():
        record_property(name, count)
    assert counts["once alive"] == 0 and counts["equivalent"] <= 5, done.stdout
    assert counts["killed"] >= 0.95 * (counts["killed"] + counts["survived"]), done.stdout
