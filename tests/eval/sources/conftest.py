"""A folder of small data, and episodes of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sources import sessions
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS, record
from kvpress_eval.suites.episode import Episode
from kvpress_eval.suites.prompt import Prompter
from transformers import AutoTokenizer

from tests.eval.sources.scbench_rows import Row, make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two rows of every task as JSONL, half of the files with the release's prefix."""
    folder = tmp_path_factory.mktemp("data")
    for number, task in enumerate(SCBENCH_TASKS):
        name = f"scbench_{task}.jsonl" if number % 2 else f"{task}.jsonl"
        text = "\n".join(json.dumps(make(task, i), ensure_ascii=False) for i in range(2))
        (folder / name).write_text(text + "\n\n", encoding="utf-8")
    return folder


@pytest.fixture
def prompter(text_model: str, request: pytest.FixtureRequest) -> Prompter:
    """Of the byte tokenizer; parametrized with ``on`` or ``off`` for its chat template."""
    return Prompter(AutoTokenizer.from_pretrained(text_model), "natural", getattr(request, "param", "off"))


@pytest.fixture
def ask(data: Path) -> Callable[..., Episode]:
    """``ask(prompter, task, rows=..., **config)``: the episode of the first row."""

    def asked(prompter: Prompter, task: str, rows: list[Row] | None = None, **changes: Any) -> Episode:
        # of its own task a configuration only says where rows are read from: here they are given
        config = RunConfig(**{"length": 9000, "source": str(data), **changes})
        given = rows or [make(task, i) for i in range(2)]
        records = [record(task, row, i, f"row {i}", config.turns) for i, row in enumerate(given)]
        return sessions.episode(config, prompter, records, 0, sessions.pools(records))

    return asked
