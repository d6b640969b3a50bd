"""Where runs are performed: here one by one, on the cores and GPUs of one machine, or on a cluster.

All three are one function of sets of jobs to outcomes, over joblib: its own processes, or its `dask` and `ray`
backends. What workers send back are bytes, so they need share neither memory nor disk with the driver; where they do
share its disk, checkpoints lie there and a run goes on on another worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

from adamix_lab.experiments.running import Job, Outcome
from adamix_lab.experiments.sets import perform_set

TIMEOUT = 15  # seconds that a cluster has to answer


class WorkersLost(RuntimeError):
    """A worker process ended without a word (killed, or out of memory); what it had under way can be done again."""


def outcomes(sets: Iterable[Sequence[Job]], workers: int = 1, cluster: str | None = None) -> Iterator[Outcome]:
    """What becomes of each job, in the order in which sets end. Sets are taken when a worker is free for them.

    Args:
        sets: jobs that are trained as one program; most are of one job. Taken lazily.
        workers: processes on this machine, or SLURM jobs; 1 performs the runs here.
        cluster: "tcp://HOST:PORT" or a scheduler file (dask), "ray" or "ray://HOST:PORT", "slurm"; None is this
            machine.

    Raises:
        WorkersLost: a worker process ended; whatever it had under way is no outcome.
        ConnectionError: the cluster does not answer.
        ImportError: the cluster's package is missing.
        OSError: the disk is full.
    """
    if workers == 1 and cluster is None:
        yield from chain.from_iterable(map(perform_set, sets))
        return
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError as error:
        raise ImportError("Several workers need joblib: run pip install 'adamix-lab[experiments]'.") from error

    with connected(cluster, workers) if cluster else nullcontext():
        parallel = Parallel(
            n_jobs=-1 if cluster else workers,
            return_as="generator_unordered",
            pre_dispatch=workers if cluster == "slurm" else "n_jobs",  # more of SLURM's jobs may begin later
            batch_size=1,
        )
        try:
            yield from chain.from_iterable(parallel(delayed(perform_set)(jobs) for jobs in sets))
        except Exception as error:
            if isinstance(error, TerminatedWorkerError) or type(error).__name__ == "KilledWorker":  # joblib's, dask's
                raise WorkersLost(" ".join(str(error).split())[:200]) from error
            raise


@contextmanager
def connected(cluster: str, workers: int) -> Iterator[None]:
    """Inside the block, joblib hands its tasks to the cluster. Raises as `outcomes` does."""
    from joblib import parallel_config

    kind, _, _ = cluster.partition(":")
    opened: dict[str, Callable[[str, int], Any]] = {"ray": _ray, "slurm": _slurm}
    with opened.get(kind, _dask)(cluster, workers), parallel_config(backend="ray" if kind == "ray" else "dask"):
        yield


def _distributed() -> Any:
    try:
        import dask.distributed as distributed
    except ImportError as error:
        raise ImportError("A dask cluster needs dask: run pip install 'adamix-lab[cluster]'.") from error
    return distributed


def _dask(cluster: str, workers: int) -> Any:
    distributed = _distributed()
    where = {"scheduler_file": cluster} if cluster.endswith(".json") else {"address": cluster}
    try:
        client = distributed.Client(**where, timeout=TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(
            f"The cluster {cluster!r} does not answer ({type(error).__name__}, {TIMEOUT} s): expected the address of a "
            'dask scheduler ("tcp://HOST:8786", as `dask scheduler` prints it), a scheduler file (.json), "ray", or '
            '"slurm". Finished runs are kept.'
        ) from error
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"The cluster {cluster!r} has no worker after {TIMEOUT} s: expected one at least. Start some with `dask "
            f"worker {cluster} --nthreads 1`. Finished runs are kept."
        ) from error
    return client


@contextmanager
def _slurm(cluster: str, workers: int) -> Iterator[None]:
    """SLURM jobs with a dask worker each; queue, cores and memory come from dask's configuration (jobqueue.slurm)."""
    distributed = _distributed()
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ImportError("SLURM needs dask-jobqueue: run pip install 'adamix-lab[slurm]'.") from error

    with SLURMCluster(processes=1) as jobs:
        jobs.scale(jobs=workers)
        with distributed.Client(jobs, timeout=TIMEOUT) as client:
            client.wait_for_workers(1)  # for as long as the queue takes
            yield


@contextmanager
def _ray(cluster: str, workers: int) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ImportError("A ray cluster needs ray, which no extra brings: run pip install ray.") from error

    try:
        ray.init(address="auto" if cluster == "ray" else cluster)
    except Exception as error:
        raise ConnectionError(f"The cluster {cluster!r} does not answer ({error}): expected a running ray.") from error
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()
