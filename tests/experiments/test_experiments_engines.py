"""The same grid here, in several processes, and on a dask cluster whose workers share no memory."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
import tiny_grid
from tiny_task import one_thread  # noqa: F401

from adamix_lab.experiments import performing, running
from adamix_lab.experiments.ablation import ablate
from adamix_lab.experiments.grids import grid_of
from adamix_lab.experiments.results import begin
from adamix_lab.experiments.settings import Engine
from adamix_lab.training.run import read_log


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_grid.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def serial(base, tmp_path_factory):
    results, _ = ablate(grid_of(tiny_grid.table(base)), tmp_path_factory.mktemp("serial"), Engine(threads=1), print)
    return tiny_grid.measured(results)


@pytest.fixture(autouse=True)
def _no_idle_workers():
    """joblib keeps its processes for the next call: the next test counts, and kills, its own only."""
    yield
    reusable = sys.modules.get("joblib.externals.loky.reusable_executor")
    if reusable is not None and reusable._executor is not None:
        reusable._executor.shutdown(wait=True, kill_workers=True)


@pytest.fixture
def cluster():
    """Two worker processes on this machine, each with its own memory."""
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as started:
        yield started


@pytest.mark.slow
def test_several_processes_give_the_table_of_one(base, serial, tmp_path):
    lines: list[str] = []
    results, _ = ablate(grid_of(tiny_grid.table(base)), tmp_path, Engine(workers=2, threads=1), lines.append)
    pd.testing.assert_frame_equal(tiny_grid.measured(results), serial)
    assert "[1 of 6 done" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("shared_disk", [True, False])
def test_a_dask_cluster_gives_the_table_of_one_process(base, serial, tmp_path, cluster, shared_disk, monkeypatch):
    if not shared_disk:  # the driver's folder is not what a worker sees under its path
        monkeypatch.setattr(performing, "perform", not_here)
    engine = Engine(threads=1, cluster=cluster.scheduler_address)
    results, failed = ablate(grid_of(tiny_grid.table(base)), tmp_path, engine, print)
    assert failed == 0
    pd.testing.assert_frame_equal(tiny_grid.measured(results), serial)
    assert not list(tmp_path.glob("*/work"))


perform = performing.perform


def not_here(job):
    return perform(replace(job, out=job.out + "-elsewhere"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_killed_worker_costs_its_unfinished_part(base, tmp_path, request, kind):
    """The run that it had under way goes on from its checkpoint; the others do not notice."""
    steps = running.EVERY * 8
    grid = grid_of(tiny_grid.table(base, seeds=1, steps=steps))
    calm, _ = ablate(grid, tmp_path / "calm", Engine(threads=1), print)
    out, killed = tmp_path / "rough", []
    log = out / grid.runs[0].key / "work" / "log.jsonl"
    if kind == "dask":
        engine = Engine(threads=1, cluster=request.getfixturevalue("cluster").scheduler_address)
    else:
        engine = Engine(workers=2, threads=1)

    def kill():
        """Both workers, when the first run has written its second checkpoint."""
        while not (rows := read_log(log)) or rows[-1]["step"] < running.EVERY * 2 + 10:
            time.sleep(0.005)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    lines: list[str] = []
    results, failed = ablate(grid, out, engine, lines.append)
    assert len(killed) == 2 and failed == 0
    (resumed,) = (line for line in lines if f"{grid.runs[0]}: " in line)
    assert int(resumed.removesuffix(")").partition("went on from step ")[2]) >= 2 * running.EVERY
    pd.testing.assert_frame_equal(tiny_grid.measured(results), tiny_grid.measured(calm))


def fatal(job):
    if job.runs[0].method == "single":
        os.kill(os.getpid(), signal.SIGKILL)
    return perform(job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_that_kills_its_worker_fails_and_the_others_go_on(base, tmp_path, monkeypatch):
    monkeypatch.setattr(performing, "perform", fatal)
    grid = grid_of(tiny_grid.table(base, seeds=1))
    results, failed = ablate(grid, tmp_path, Engine(workers=2, threads=1), print)
    assert failed == 1 and set(results["variant"]) == {"AdaMix", "no sharing"}


def workers() -> list[int]:
    """The processes below this one that perform runs: joblib's, or dask's below their nannies."""
    import psutil

    found = psutil.Process().children(recursive=True)
    return [p.pid for p in found if _performs(p)]


def _performs(process) -> bool:
    import psutil

    try:
        if any(word in " ".join(process.cmdline()) for word in ("resource_tracker", "forkserver")):
            return False
        return any("torch" in part.path for part in process.memory_maps())
    except psutil.Error:
        return False


def test_a_cluster_that_does_not_answer_is_told_in_time(base, tmp_path, monkeypatch):
    pytest.importorskip("dask.distributed")
    monkeypatch.setattr(performing, "TIMEOUT", 1)
    grid = grid_of(tiny_grid.table(base, seeds=1))
    start = time.perf_counter()
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ConnectionError, match=r"does not answer .*expected the address of a dask scheduler"):
            ablate(grid, tmp_path, Engine(cluster=address), print)
    assert time.perf_counter() - start < 60
    begin(tmp_path, grid.runs[0])  # the folder is as usable as before


def test_a_cluster_without_workers_is_told_in_time(base, tmp_path, monkeypatch):
    distributed = pytest.importorskip("dask.distributed")
    monkeypatch.setattr(performing, "TIMEOUT", 1)
    with distributed.LocalCluster(n_workers=0, protocol="tcp", dashboard_address=None, host="127.0.0.1") as empty:
        engine = Engine(cluster=empty.scheduler_address)
        with pytest.raises(ConnectionError, match=r"has no worker after 1 s.*dask worker"):
            ablate(grid_of(tiny_grid.table(base, seeds=1)), tmp_path, engine, print)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ImportError, match=r"adamix-lab\[cluster\]"), performing.connected("tcp://127.0.0.1:9"):
        pass
