from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kvpress_eval.cli import bench_command, command, main
from kvpress_eval.rows import parsing
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs import runner

SMALL = ["--length", "300", "--sessions", "2", "--turns", "2"]


def lines(text: str) -> str:
    return " ".join(text.split())


def test_run_writes_a_row_and_finds_it_again(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = ["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path)]
    assert main([*cell, "--press", "snapkv(keep=0.5)"]) == 0
    assert "not known; run it: kvpress run" in lines(capsys.readouterr().out)
    assert main(cell) == 0
    assert "this is the full cache" in lines(capsys.readouterr().out)
    assert main([*cell, "--press", "snapkv(keep=0.5)"]) == 0
    out = lines(capsys.readouterr().out)
    assert "already there" in out
    assert "paired with the full cache" in out or "too few sessions" in out
    assert len(load_rows(tmp_path)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--press", "snapkvv"], "snapkv"),
        (["run", "--press", "snapkv(keep=2.5)"], "keep"),
        (["run", "--press", "snapkv(keep=0.5"], "Cannot read"),
        (["run", "--task", "kvv"], "unknown task 'kvv'; did you mean 'kv'?"),
        (["run", "--mode", "multiturn"], "did you mean 'multi-turn'"),
        (["run", "--length", "long"], "invalid int value: 'long'"),
        (["run", "--sessions", "0"], "sessions must be at least 1, got 0"),
        (["run", "--model", "/no/such/folder"], "no such folder"),
        (["run", "--model", "MODEL", "--length", "9000"], "use --length 700 or less"),
        (["run", "--model", "MODEL", "--length", "60"], "needs a length of at least"),
        (["run", "--model", "MODEL", "--length", "300", "--bytes", "a lot", "--press", "knorm"], 'write "12.5%"'),
        (["run", "--model", "MODEL", "--length", "300", "--bytes", "9%", "--press", "full"], "leaves nothing to solve"),
        (["run", "--bytes", "banana"], "bytes 'banana' is no amount"),
        (["run", "--turns", "0"], "turns must be at least 1, got 0"),
        (["show", "--press", "full", "--turns", "0"], "turns must be at least 1, got 0"),
        (["compare", "full", "knorm", "--bytes", "banana", "--results", "RESULTS"], "bytes 'banana' is no amount"),
        (["bench", "--only", "x"], "invalid choice: 'x'"),
        (["bench", "--steps", "0"], "'0' is not a positive whole number"),
        (["run", "--device", "tpu"], "unknown device 'tpu'"),
        (["run", "--colour", "red"], "unrecognized arguments: --colour"),
        (["sweep", "none.yaml"], "no such sweep file"),
        (["sweep", "SWEEP", "sesions=1"], "did you mean 'sessions'"),
        (["sweep", "SWEEP", "--jobs", "0"], "--jobs must be at least 1"),
        (["sweep", "SWEEP", "--launcher", "slurm"], "unknown launcher 'slurm'; choose from auto, local, ray"),
        (["sweep", "SWEEP", "--launcher", "raay", "--jobs", "2"], "unknown launcher 'raay'; choose from"),
        (["sweep", "SWEEP", "--address", "10.0.0.1:6379"], "add --launcher ray"),
        (["sweep", "SWEEP", "--gpus-per-cell", "-1", "--dry-run"], "--gpus-per-cell must be at least 0"),
        (["merge", "/no/such/folder", "--into", "RESULTS"], "no such folder"),
        (["diff", "/no/such/folder", "RESULTS"], "no such folder"),
        (["report", "--results", "/no/such/folder"], "no such folder"),
        (["compare", "full", "h2o", "--results", "RESULTS"], "no finished row of full; there is none of any press"),
        (["compare", "full", "h2o", "--results", "/no/such/folder"], "no such folder"),
        (["report", "--results", "RESULTS"], "no rows in"),
        (["bench", "--presses", "snapkvv"], "did you mean 'snapkv'"),
        (["list", "colours"], "invalid choice"),
        (["answers", "knorm", "--limit", "-1"], "'-1' is not a whole number, 0 or more"),
        (["data", "--task", "kv", "--forced", "-3", "--out", "RESULTS"], "--forced is for the tasks of suite lm"),
        (["data", "--task", "kv", "--text", "SWEEP", "--out", "RESULTS"], "--text is for the tasks of suite lm"),
        (["fit", "--model", "MODEL", "--length", "701", "--memory", "1GiB"], "use --length 700 or less"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    dialect_model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "warm_up", lambda threads: pytest.fail("workers are started"))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("presses: [full]\n")
    named = {"MODEL": dialect_model, "SWEEP": str(sweep), "RESULTS": str(tmp_path)}
    assert main([named.get(word, word) for word in words]) == 2
    captured = capsys.readouterr()
    assert message in lines(captured.err)
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_failed_cell_is_exit_code_1(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ask", lambda *args: 1 / 0)
    cell = ["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path)]
    assert main(cell) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    (row,) = load_rows(tmp_path)
    assert row.status == "failed"


def test_an_interrupt_is_exit_code_130(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "ask", stop)
    assert main(["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path)]) == 130
    assert "goes on from here" in lines(capsys.readouterr().err)
    assert load_rows(tmp_path) == []
    monkeypatch.setattr(bench_command, "main", stop)
    assert main(["bench"]) == 130
    assert capsys.readouterr().err == "interrupted\n", "it begins anew"


@pytest.mark.parametrize("name", ["run", "sweep", "merge", "diff", "report", "answers", "list", "doctor", "check"])
def test_help_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"  kvpress {name}" in out
    assert "exit codes:" in out


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("snapkv", "kivi", "prefix_suffix", "many_shot", "tiny-outlier"):
        assert name in out


def test_a_dry_run_runs_nothing(dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"models: ['{dialect_model}']\npresses: ['kivi(bits=2)']\nlengths: [300]\n")
    words = ["sweep", str(sweep), "--dry-run", "sessions=2", "--results", str(tmp_path / "rows")]
    assert main(words) == 0
    out = lines(capsys.readouterr().out)
    assert "4 cells, 0 finished" in out and "no estimate: no finished row to judge by" in out
    assert not (tmp_path / "rows").exists()


def test_a_dry_run_for_ray_does_not_say_how_many_at_once(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path / "rows")]) == 0
    (tmp_path / "sweep.yaml").write_text(
        f"models: ['{dialect_model}']\ntasks: [vt]\nmodes: [multi-turn]\nlengths: [300]\n"
    )
    words = [
        "sweep",
        str(tmp_path / "sweep.yaml"),
        "--dry-run",
        "--launcher",
        "ray",
        "--results",
        str(tmp_path / "rows"),
    ]
    assert main(words) == 0
    assert "for 1 cells one at a time, judged by the finished rows; Ray runs as many at once" in lines(
        capsys.readouterr().out
    )


def test_a_sweep_in_two_processes_is_the_sweep(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"models: ['{dialect_model}']\npresses: ['kivi(bits=4)']\ntasks: [kv]\nlengths: [300]\n")
    words = ["sweep", str(sweep), "sessions=2", "turns=2", "--results"]
    assert main([*words, str(tmp_path / "two"), "--jobs", "2"]) == 0
    assert "4 run, 0 already there, 0 failed, 0 taken by another sweep" in lines(capsys.readouterr().out)
    assert main([*words, str(tmp_path / "one")]) == 0
    both = [{r.run_id: (r.session_ids, r.session_scores) for r in load_rows(tmp_path / n)} for n in ("one", "two")]
    assert both[0] == both[1]
    assert len(both[0]) == 4
    capsys.readouterr()
    assert main([*words, str(tmp_path / "one"), "--dry-run", "--jobs", "2", "seeds=[0,1]"]) == 0
    assert "for 4 cells with 2 jobs, judged by the finished rows" in lines(capsys.readouterr().out)

    report = ["report", "--results", str(tmp_path / "one"), "--out", str(tmp_path / "out")]
    assert main([*report, "--check"]) == 1
    assert main(report) == 0
    assert (tmp_path / "out" / "README.md").is_file()
    assert main([*report, "--check"]) == 0


def test_killed_in_the_middle_a_sweep_keeps_what_is_done(dialect_model: str, tmp_path: Path) -> None:
    sweep, rows = tmp_path / "sweep.yaml", tmp_path / "rows"
    sweep.write_text(
        f"models: ['{dialect_model}']\npresses: ['kivi(bits=4)', 'h2o(keep=0.5)']\ntasks: [kv, vt]\n"
        "lengths: [300]\nsessions: 2\nturns: 2\n"
    )
    code = (
        "import os, signal, sys\n"
        "from kvpress_eval import cli\n"
        "from kvpress_eval.runs import runner\n"
        "whole, asked = runner.ask, []\n"
        "def ask(*args):\n"
        "    asked.append(1)\n"
        "    if len(asked) == 6: os.kill(os.getpid(), signal.SIGKILL)\n"  # the second session of the third cell
        "    return whole(*args)\n"
        "runner.ask = ask\n"
        "cli.main(sys.argv[1:])\n"
    )
    words = ["sweep", str(sweep), "--results", str(rows)]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    kept = {path: path.read_bytes() for path in rows.rglob("*.json")}
    assert len(kept) == 2
    assert main(words) == 0
    after = list(rows.rglob("*.json"))
    assert len(after) == 12
    assert all(path.read_bytes() == text for path, text in kept.items())
    assert all(json.loads(path.read_text())["status"] == "ok" for path in after)


@pytest.mark.parametrize("missing", ["omegaconf", "rich"])
def test_an_extra_that_is_not_installed(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text("models: [tiny]\n")
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith(("kvpress_eval.cli.actions", f"{missing}."))]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--dry-run"]) == 2
    assert 'pip install -e ".[eval]" in the checkout' in capsys.readouterr().err


def test_compare_says_by_how_much_on_the_same_sessions(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for press, mode in (("full", "multi-turn"), ("full", "multi-request"), ("random(keep=0.3)", "multi-turn")):
        cell = ["run", "--model", dialect_model, *SMALL, "--press", press, "--mode", mode, "--results", str(tmp_path)]
        assert main(cell) == 0
    capsys.readouterr()
    assert main(["compare", "random( keep=0.3 )", "full", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = {row.press: row for row in load_rows(tmp_path) if row.mode == "multi-turn"}
    scores = [100 * rows[press].score for press in ("random(keep=0.3)", "full")]
    first = next(line for line in out.splitlines() if line.startswith("multi-turn, all")).split()
    assert [float(word) for word in first[2:4]] == [round(score, 1) for score in scores]
    assert float(first[4].replace("\u2212", "-")) == pytest.approx(scores[0] - scores[1], abs=0.06)
    assert "multi-turn, later" in out and "multi-request" not in out
    assert main(["compare", "full", "full", "--tasks", "kvv", "--results", str(tmp_path)]) == 2


def test_presses_are_solved_for_the_bytes_of_a_sweep(dialect_model: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        f"models: [{dialect_model}]\nmodes: [multi-request]\nlengths: [400]\nsessions: 1\nturns: 1\n"
        "presses: [random, knorm]\nbytes: [50%, 80%]\n"
    )
    for _ in range(2):  # the second time finds them
        assert main(["sweep", str(tmp_path / "sweep.yaml"), "--results", str(tmp_path / "rows")]) == 0
    rows = load_rows(tmp_path / "rows")
    assert len(rows) == 5 and sum(row.press == "full" for row in rows) == 1
    for row in rows:
        if row.press != "full":
            share = 0.5 if "--bytes 50%" in row.command else 0.8
            assert row.bytes_ratio == pytest.approx(share, rel=0.05) and "(keep=" in row.press
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--results", str(tmp_path / "two"), "--jobs", "2"]
    assert main(words) == 0
    assert {row.run_id for row in load_rows(tmp_path / "two")} == {row.run_id for row in rows}


def test_compare_takes_presses_as_asked_for_bytes(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = ["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path), "--mode", "multi-request"]
    for press in ("random", "knorm"):
        assert main([*cell, "--press", press, "--bytes", "50%"]) == 0
    assert main([*cell, "--press", "knorm | kivi(bits=2)", "--bytes", "90%"]) == 1
    assert main(cell) == 0
    capsys.readouterr()
    for second in ("knorm", "full"):
        words = ["compare", "random", second, "--bytes", "50 %", "--results", str(tmp_path)]
        assert main(words) == 0
        out = lines(capsys.readouterr().out)
        assert f"random at 50 % minus {'full' if second == 'full' else 'knorm at 50 %'}" in out
        assert "multi-request, all" in out
    for words, message in (
        (["random", "knorm"], "no finished row of random; it was solved for --bytes 50%"),
        (["random", "knorm", "--bytes", "12%"], "no finished row of random at 12 %; it was solved for --bytes 50%"),
        (["h2o", "knorm", "--bytes", "50%"], "no finished row of h2o at 50 %; there are: full, knorm at 50 %, random"),
        (["knorm | kivi(bits=2)", "knorm", "--bytes", "90%"], "cannot hold"),
    ):
        assert main(["compare", *words, "--results", str(tmp_path)]) == 2
        assert message in lines(capsys.readouterr().err)


def test_a_report_reads_the_rows_once(
    dialect_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--model", dialect_model, *SMALL, "--results", str(tmp_path / "rows")]) == 0
    whole, read = parsing.parse_row, []
    monkeypatch.setattr(parsing, "parse_row", lambda data, path: read.append(path) or whole(data, path))
    for check in ([], ["--check"]):
        read.clear()
        assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path), *check]) == 0
        assert len(read) == 1
