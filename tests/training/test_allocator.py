import platform
import subprocess
import sys

import pytest

from adamix_lab.training.train import keep_freed_memory

CHURN = """
import resource, sys
import torch
from adamix_lab.training.train import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
for _ in range(3):
    torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)  # 48 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library here is not glibc")


@glibc
def test_large_blocks_are_reused():
    """48 MB tensors made and dropped: the system's pages are asked for each time, or once."""
    environment = {"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}

    def faults(mode):
        run = subprocess.run([sys.executable, "-c", CHURN, mode], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert faults("keep") * 2 < faults("leave")


def test_an_environment_that_sets_the_allocator_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
