"""Two nodes on this machine; starting them and their workers' imports of torch is what takes the time (~30 s)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sweeps.launchers import launcher
from kvpress_eval.sweeps.merge import same_results
from kvpress_eval.sweeps.sweep import Watcher, run_sweep

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # before the import: let 127.0.0.1 be itself
ray = pytest.importorskip("ray", reason='needs the extra "ray"')


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")  # a dead node in seconds, a slow one never
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "10000")
    small = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    made.second = made.add_node(**small)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_node_killed_in_the_middle_costs_no_cell(dialect_model: str, tmp_path: Path, cluster: Any) -> None:
    presses = ("full", "kivi(bits=4)", "random(keep=0.5)")
    cells = [
        RunConfig(model=dialect_model, press=press, task=task, length=300, sessions=9, turns=2)
        for press in presses
        for task in ("kv", "vt")
    ]
    run_sweep(cells, tmp_path / "here")
    ended: list[Path] = []
    killed = threading.Event()

    def kill_a_busy_node() -> None:
        raylet = cluster.second.all_processes["raylet"][0].process.pid
        while not (workers := _at_work(raylet)):
            time.sleep(0.01)
        for pid in (raylet, *workers):  # by themselves workers end a second later, and some with a result
            os.kill(pid, signal.SIGKILL)
        cluster.remove_node(cluster.second, allow_graceful=False)
        killed.set()

    def end(config: RunConfig, row: object, path: Path, ran: bool) -> None:
        ended.append(path)
        if len(ended) == 1:  # what works from now on works on a cell: all of them were prepared before
            threading.Thread(target=kill_a_busy_node, daemon=True).start()

    with launcher("ray", jobs=2, address=cluster.address) as where:
        outcome = run_sweep(cells, tmp_path / "ray", watcher=Watcher(end=end), where=where)
        assert killed.is_set(), "the second node never worked"
        assert _alive_soon(1), "the killed node is still there"
    assert (outcome.ran, outcome.failed, len(ended)) == (6, 0, 6)
    assert same_results(tmp_path / "here", tmp_path / "ray") == []


def _at_work(raylet: int) -> list[int]:
    """Workers of a node that do a task: they are then called by the task's name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and (folder / "cmdline").read_bytes().startswith(b"ray::_do"):
                found.append(int(folder.name))
    return found


def _alive_soon(nodes: int, seconds: float = 60) -> bool:
    """Whether the cluster comes to know that so many of its nodes live; a dead one is noticed after a while."""
    deadline = time.monotonic() + seconds
    while len([node for node in ray.nodes() if node["Alive"]]) != nodes:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_what_a_cluster_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, words in (
        (f"127.0.0.1:{port}", "no Ray cluster answers at 127.0.0.1"),
        (f"ray://127.0.0.1:{port}", "start one with `ray start --head`"),
        ("somewhere", "write host:port"),
    ):
        with pytest.raises(UsageError, match=words):
            launcher("ray", address=address)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install -e "\.\[ray\]"'):
        launcher("ray")
