"""Where cells run: in this process, in worker processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from ..errors import UsageError
from .inline import Inline
from .launch_options import mistake, worker_threads
from .work import Died, Done, Launcher, Prepared, Work, model_key

__all__ = [
    "Died",
    "Done",
    "Inline",
    "Launcher",
    "Prepared",
    "Work",
    "launcher",
    "model_key",
]


def launcher(
    name: str = "auto", jobs: int | None = None, cpus: int = 0, gpus: float = 0.0, address: str | None = None
) -> Launcher:
    """The launcher of a name.

    Args:
        name: ``local`` (worker processes), ``ray``, or ``auto``: worker processes for more than one job, else this
            process.
        jobs: cells at the same time; None: one, or with Ray as many as the cluster has room for.
        cpus: cores of a cell; 0: an equal share of this machine's, or with Ray one.
        gpus: GPUs of a cell; a fraction shares one.
        address: of the Ray cluster; None: the one that is running here, else one of this machine alone.

    Raises:
        UsageError: for what cannot be right, a cluster that does not answer, or GPUs that are not there.
    """
    problem = mistake(name, jobs, cpus, gpus, address)
    if problem:
        raise UsageError(problem)
    if name == "ray":
        from .ray_cluster import Ray

        return Ray(jobs, cpus or 1, gpus, address)
    threads = worker_threads(name, jobs, cpus, gpus)
    if threads:
        from .local_workers import Local

        return Local(jobs or 1, threads, gpus)
    return Inline()
