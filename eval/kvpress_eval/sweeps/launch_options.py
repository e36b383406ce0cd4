"""What ``--launcher``, ``--jobs`` and the like ask for.

Imports the standard library only: it is looked at before anything slow is imported.
"""

from __future__ import annotations

from ..machine.threads import choose

__all__ = ["LAUNCHERS", "mistake", "worker_threads"]

LAUNCHERS = ("auto", "local", "ray")


def mistake(name: str, jobs: int | None, cpus: int, gpus: float, address: str | None) -> str:
    """What cannot be right, in one line; "" where everything can."""
    if name not in LAUNCHERS:
        return f"unknown launcher {name!r}; choose from {', '.join(LAUNCHERS)}"
    for option, value, least in (("--jobs", jobs, 1), ("--cpus-per-cell", cpus, 0), ("--gpus-per-cell", gpus, 0)):
        if value is not None and not value >= least:
            return f"{option} must be at least {least}, got {value}"
    if address and name != "ray":
        return "--address names a Ray cluster; add --launcher ray, or leave it out"
    return ""


def worker_threads(name: str, jobs: int | None, cpus: int, gpus: float) -> int:
    """Threads of each worker process of this machine; 0 where none is asked for."""
    if name == "local" or (name == "auto" and ((jobs or 1) > 1 or cpus or gpus)):
        return choose(cpus, jobs or 1)
    return 0
