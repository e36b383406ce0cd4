"""Where cells run: in this process, in worker processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from ..errors import UsageError, choose
from .base import Died, Done, Inline, Launcher, Prepared, Work, model_key

__all__ = [
    "LAUNCHERS",
    "Died",
    "Done",
    "Inline",
    "Launcher",
    "Prepared",
    "Work",
    "check_options",
    "launcher",
    "model_key",
]

LAUNCHERS = ("auto", "local", "ray")


def check_options(
    name: str = "auto", jobs: int | None = None, cpus: int = 0, gpus: float = 0.0, address: str | None = None
) -> None:
    """Check what :func:`launcher` is to be given, without starting anything.

    Raises:
        UsageError: for a name, number or address that cannot be right.
    """
    choose("launcher", name, LAUNCHERS)
    for option, value, least in (("--jobs", jobs, 1), ("--cpus-per-cell", cpus, 0), ("--gpus-per-cell", gpus, 0)):
        if value is not None and not value >= least:
            raise UsageError(f"{option} must be at least {least}, got {value}")
    if address and name != "ray":
        raise UsageError("--address names a Ray cluster; add --launcher ray, or leave it out")


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
    check_options(name, jobs, cpus, gpus, address)
    if name == "ray":
        from .ray import Ray

        return Ray(jobs, cpus or 1, gpus, address)
    if name == "local" or (jobs or 1) > 1 or cpus or gpus:
        from .local import Local

        return Local(jobs or 1, cpus, gpus)
    return Inline()
