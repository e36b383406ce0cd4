"""Two nodes on this machine; starting them and their workers' imports of torch is what takes the time (~30 s)."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.config import RunConfig
from kvpress_eval.errors import UsageError
from kvpress_eval.launch import launcher
from kvpress_eval.merge import same_results
from kvpress_eval.sweep import Watcher, run_sweep

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


def test_a_node_killed_in_the_middle_costs_no_cell(dialect_model: str, tmp_path: Path, cluster: Any) -> None:
    presses = ("full", "kivi(bits=4)", "random(keep=0.5)")
    cells = [
        RunConfig(model=dialect_model, press=press, task=task, length=300, sessions=9, turns=2)
        for press in presses
        for task in ("kv", "vt")
    ]
    run_sweep(cells, tmp_path / "here")
    ended: list[Path] = []

    def end(config: RunConfig, row: object, path: Path, ran: bool) -> None:
        ended.append(path)
        if len(ended) == 1:
            cluster.remove_node(cluster.second, allow_graceful=False)

    with launcher("ray", jobs=2, address=cluster.address) as where:
        outcome = run_sweep(cells, tmp_path / "ray", watcher=Watcher(end=end), where=where)
        assert _alive_soon(1), "the killed node is still there"
    assert (outcome.ran, outcome.failed, len(ended)) == (6, 0, 6)
    assert same_results(tmp_path / "here", tmp_path / "ray") == []


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
    with pytest.raises(UsageError, match=r'pip install "kvpress-lab\[ray\]"'):
        launcher("ray")
