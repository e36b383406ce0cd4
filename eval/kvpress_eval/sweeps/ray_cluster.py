"""Cells as tasks of a Ray cluster, placed by the CPUs and GPUs they need.

When a worker or a whole node dies, Ray gives its cells to another one. Results come back to the driver, which writes
the rows: nodes share no disk, but each needs kvpress-lab of this version and the models by the same names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvpress.errors import extra

from ..errors import UsageError
from ..machine.signals import kept
from ..runs.config import RunConfig
from .work import RETRIES, Died, Done, Launcher, Take, Work

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Ray"]

_worker: Worker | None = None


class Ray(Launcher):
    """Tasks on the cluster of ``address``: the one that runs here if None, else one of this machine alone.

    Args:
        jobs: tasks handed over at the same time; None: as many as the cluster has room for.
        cpus, gpus: what a cell needs. Ray shows a task these GPUs only, and without any none.

    Raises:
        UsageError: where Ray is not installed, no cluster answers, or none of its nodes is large enough.
    """

    def __init__(self, jobs: int | None, cpus: int = 1, gpus: float = 0.0, address: str | None = None) -> None:
        if address and _only_here(address):
            # Ray reads 127.0.0.1 as this machine's outward address, unless it is told before it is imported that
            # clusters are of one machine
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            with kept():
                self._ray: Any = import_module("ray")
        except ImportError:
            raise UsageError(f"ray is not installed; use --launcher local, or {extra('ray')}") from None
        self._jobs, self._cpus, self._gpus = jobs, cpus, gpus
        self._refs: dict[Any, Work] = {}
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, address)
        self._check_size()
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_do)

    def _check_size(self) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in nodes):
            sizes = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            self.close()
            raise UsageError(
                f"no node of the Ray cluster has {self._cpus} CPUs and {self._gpus:g} GPUs for a cell; there are: "
                f"{sizes or 'none'}. Lower --cpus-per-cell or --gpus-per-cell"
            )

    def told(self) -> str:
        threads = f"{self._cpus} CPU thread{'s' if self._cpus > 1 else ''}"
        return f"{threads} for each of {self.slots} cells at a time, on the nodes of the cluster"

    @property
    def slots(self) -> int:  # type: ignore[override]  # nodes come and go
        """Cells that the cluster has room for, or the jobs asked for."""
        if self._jobs is not None:
            return self._jobs
        total = self._ray.cluster_resources()
        places = total.get("CPU", 0) // self._cpus
        return max(1, int(min(places, total.get("GPU", 0) // self._gpus) if self._gpus else places))

    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        last: RunConfig | None = None
        while True:
            while len(self._refs) < self.slots and (work := take(last)) is not None:
                self._refs[self._task.remote(work, self._cpus)] = work
            if not self._refs:
                return
            # now and then nodes that joined are looked for
            for ref in self._ray.wait(list(self._refs), timeout=10)[0]:
                work = self._refs.pop(ref)
                last = work.config
                yield Done(work, self._result(ref))

    def _result(self, ref: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:  # the work returns its own errors: this is from before it could begin
            cause = str(error).strip().splitlines()[-1]
            return UsageError(
                f"a node cannot do the work ({cause}); install this kvpress-lab with [eval] on every node"
            )
        except errors.RayError as error:
            return Died(f"its workers died on every try: {' '.join(str(error).split())[:300]}")

    def close(self) -> None:
        for ref in self._refs:
            self._ray.cancel(ref, force=True)
        self._refs.clear()
        if self._ours:
            self._ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    if address and address != "auto":
        _knock(address)
    options = {} if address else {"include_dashboard": False}
    try:
        with kept():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (Exception, SystemExit) as error:  # Ray leaves the process when a cluster does not answer
        raise UsageError(
            f"cannot connect to Ray at {address or 'this machine'}: {' '.join(str(error).split())[:300]}; "
            "start a cluster (`ray start --head`) and give its host:port"
        ) from None


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def _only_here(address: str) -> bool:
    """Whether a cluster listens at a loopback address and not at the one by which others know this machine."""
    host, port = _split(address)
    if host not in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the address that would be sent from
            outward = probe.getsockname()[0]
        socket.create_connection((outward, port), timeout=2).close()
    except OSError:
        return True
    return False


def _knock(address: str) -> None:
    """Raise UsageError at once where nothing listens; Ray itself would try for minutes."""
    host, port = _split(address)
    if not host or not 0 < port < 1 << 16:
        raise UsageError(f"--address {address!r} is no address; write host:port, ray://host:port or auto")
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, and give its host:port"
        ) from None


def _do(work: Work, threads: int) -> Any:
    """The task: a worker process of Ray keeps its model for the next one."""
    global _worker
    from ..models.quiet import be_quiet
    from .worker import Worker, for_transport, pin_threads

    if _worker is None:
        pin_threads(threads)
        be_quiet()
        _worker = Worker()
    return for_transport(_worker, work)
