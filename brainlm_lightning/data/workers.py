"""Where `prepare` runs: processes of this machine, or a cluster that dask or ray spans."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import joblib

INSTALL = {"dask": "distributed", "ray": "ray"}  # backend -> what pip calls it


@contextmanager
def workers(backend: str, jobs: int) -> Iterator[joblib.Parallel]:
    """Joblib on one of its backends; results come as they are ready, in any order.

    Args:
        backend: ``loky``, ``threading`` or ``multiprocessing``; ``dask``: the cluster of $DASK_SCHEDULER_ADDRESS, else
            workers of this machine; ``ray``: the cluster of $RAY_ADDRESS, else this machine.
        jobs: processes.

    Raises:
        ValueError: the backend is unknown, or its package is not installed; or there would be no process.
    """
    known = ("loky", "threading", "multiprocessing", *INSTALL)
    if backend not in known:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(known)}")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; expected a number of processes from 1 on")
    # Ray's backend gives results when all are there: no progress is seen, nothing else differs.
    results = "list" if backend == "ray" else "generator_unordered"
    with _cluster(backend, jobs), joblib.parallel_config(backend=backend, n_jobs=jobs):
        yield joblib.Parallel(return_as=results)


@contextmanager
def _cluster(backend: str, jobs: int) -> Iterator[None]:
    """What a backend needs to be there while it is used."""
    if backend == "dask":
        distributed = _installed("distributed", backend)
        address = importlib.import_module("dask").config.get("scheduler-address", None)
        local = {} if address else {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
        with distributed.Client(address, **local):
            yield
    elif backend == "ray":
        ray = _installed("ray", backend)
        importlib.import_module("ray.util.joblib").register_ray()
        with ray.init(ignore_reinit_error=True):
            yield
    else:
        yield


def _installed(module: str, backend: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"--backend {backend} needs a package: pip install {INSTALL[backend]}") from error
