from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from kvpress_eval.cli import main
from kvpress_eval.cli.parser import build_parser
from kvpress_eval.errors import UsageError
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.suites import TASKS
from kvpress_eval.sweeps.grid import SweepConfig, load_sweep
from kvpress_eval.sweeps.sweep import check_presses

CONFIGS = Path(__file__).parents[3] / "eval" / "configs"


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "presses: ['snapkv(keep={keep})', 'kivi(bits=2)']\n"
        "tasks: [kv, vt]\nvary: {keep: [0.5, 0.25]}\nsessions: 3\nlengths: [512]\n"
    )
    return path


def test_the_grid_has_every_cell_once_and_the_full_cache_first(sweep_file: Path) -> None:
    cells = load_sweep(sweep_file).cells()
    assert len(cells) == len(set(cells)) == 4 * 2 * 2
    presses = list(dict.fromkeys(c.press for c in cells))
    assert presses[0] == "full"
    assert [c.press for c in cells] == presses * 4, "presses are asked the same sessions one after the other"
    assert {c.press for c in cells} == {"full", "snapkv(keep=0.5)", "snapkv(keep=0.25)", "kivi(bits=2)"}
    assert {(c.mode, c.schedule) for c in cells} == {
        ("multi-turn", "after_turn1_prompt"),
        ("multi-request", "after_context"),
    }


def test_overrides_replace_values(sweep_file: Path) -> None:
    sweep = load_sweep(sweep_file, ["sessions=10", "lengths=[128,256]", "tasks=needle", "vary.keep=[0.1]"])
    assert (sweep.sessions, sweep.lengths, sweep.tasks) == (10, (128, 256), ("needle",))
    assert {c.press for c in sweep.cells()} == {"full", "snapkv(keep=0.1)", "kivi(bits=2)"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sesions=3", "unknown key 'sesions'; did you mean 'sessions'"),
        ("foo=3", "unknown key 'foo'; none of the 24 names is near. `kvpress sweep --help` lists all"),
        ("sessions=many", "sessions must be a whole number, got 'many'"),
        ("sessions=true", "sessions must be a whole number"),
        ("sessions=0", "sessions must be at least 1, got 0"),
        ("lengths=[512,long]", "lengths must be a whole number, got 'long'"),
        ("lengths=[]", "lengths must not be empty"),
        ("tasks=[kvv]", "unknown task 'kvv'; did you mean 'kv'"),
        ("modes=multiturn", "unknown mode 'multiturn'; did you mean 'multi-turn'"),
        ("presses=['snapkv(keep={kep})']", "unknown vary name 'kep'; did you mean 'keep'"),
        ("vary=3", "vary must map names to lists"),
        ("sessions", "'sessions' is no override; write key=value"),
        ("schedule=sometimes", "unknown schedule 'sometimes'"),
        ("tasks=[kv", "cannot read"),
        ("=3", "'=3' is no override"),
        ("sessions=-3", "sessions must be at least 1, got -3"),
        ("sessions=null", "sessions must be a whole number, got None"),
        ("turns=0", "turns must be at least 1, got 0"),
        ("turns=-1", "turns must be at least 1, got -1"),
        ("turns=null", "turns must be a whole number, got None"),
        ("lengths=0", "length must be at least 1, got 0"),
        ("lengths=1e3", "lengths must be a whole number, got 1000.0"),
        ("lengths=.inf", "lengths must be a whole number, got inf"),
        ("lengths=[512,512]", "lengths lists 512 twice; leave one out"),
        ("seeds=[.nan]", "seeds must be a whole number, got nan"),
        ("seeds=[1.5]", "seeds must be a whole number, got 1.5"),
        ("tasks=[kv,kv]", "tasks lists 'kv' twice"),
        ("tasks=['']", "tasks lists an empty text"),
        ("tasks=[[kv]]", "tasks must be text, got ['kv']"),
        ("tasks={a: 1}", "cannot read"),
        ("models=[1]", "models must be text, got 1"),
        ("models=[' ']", "model must name something"),
        ("presses=[full,full]", "presses lists 'full' twice"),
        ("vary.kep=[1]", "vary lists values for 'kep', which no press holds: there are {keep}"),
        ("vary.keep=[]", "vary.keep must not be empty"),
        ("vary.keep=[0.5,0.5]", "vary.keep lists 0.5 twice"),
        ("vary.keep=[.nan]", "vary.keep must list numbers or texts, got nan"),
        ("vary.keep=[[1]]", "vary.keep must list numbers or texts, got [1]"),
        ("bytes=banana", 'bytes \'banana\' is no amount; write "12.5%" of the dense cache, or "512MiB"'),
        ("bytes=512MB", "bytes '512MB' is no amount"),
        ("bytes=0%", "bytes '0%' leaves no room for a cache"),
        ("bytes=25", "bytes must be text, got 25"),
        ("bytes=['25%','25.0 %']", "bytes lists '25%' twice"),
        ("depths=[101]", "depth is in percent"),
        ("depths=[-2]", "depth must be at least -1, got -2"),
        ("chunk=true", "chunk must be a whole number, got True"),
        ("batch=-1", "batch must be at least 0, got -1"),
        ("chat=1", "chat must be text, got 1"),
        ("device=cuda:x", "device 'cuda:x' has no number after its colon"),
        ("attn=''", "attn must name something"),
        ("source=''", "source must name something"),
    ],
)
def test_a_mistake_is_one_line_that_helps(sweep_file: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_sweep(sweep_file, [override]).cells()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_one_without_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such sweep file"):
        load_sweep(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    with pytest.raises(UsageError, match="no such sweep file"):
        load_sweep(tmp_path)
    for text, words in (
        ("", "is empty; write key: value lines"),
        ("# only a comment\n---\n", "is empty"),
        ("null\n", "is empty"),
        ("{}\n", "is empty"),
        ("42\n", "holds a single value"),
        ("tasks\n", "holds a single value"),
        ("- a\n", "holds a list"),
        ("tasks: [kv]\ntasks: [vt]\n", "cannot read .* duplicate key tasks"),
        ("a: [\n", "cannot read"),
        ("tasks: ${nowhere}\n", "cannot read"),
        ("tasks: [kv]\n---\ntasks: [vt]\n", "cannot read"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words) as error:
            load_sweep(path, ["sessions=3"])
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300 + len(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        load_sweep(path)


def test_other_presses_leave_names_of_the_file_without_a_use(sweep_file: Path) -> None:
    assert {c.press for c in load_sweep(sweep_file, ["presses=[kivi(bits=4)]"]).cells()} == {"full", "kivi(bits=4)"}
    with pytest.raises(UsageError, match="vary lists values for 'bits', which no press holds"):
        load_sweep(sweep_file, ["presses=[kivi(bits=4)]", "vary.bits=[2]"])
    sweep = load_sweep(sweep_file, ["presses=['kivi(bits={bits})']", "vary.bits=[2]"])
    assert {c.press for c in sweep.cells()} == {"full", "kivi(bits=2)"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turns": 0}, "turns must be at least 1, got 0"),
        ({"length": "512"}, "length must be a whole number, got '512'"),
        ({"seed": float("nan")}, "seed must be a whole number, got nan"),
        ({"sessions": True}, "sessions must be a whole number, got True"),
        ({"task": None}, "task must be text, got None"),
        ({"press": ""}, "press must name something"),
        ({"bytes": "banana"}, "bytes 'banana' is no amount"),
    ],
)
def test_a_cell_checks_its_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RunConfig(**changes)  # type: ignore[arg-type]


def test_turns_are_five_of_generated_sessions_and_all_of_data(tmp_path: Path) -> None:
    (tmp_path / "kv.jsonl").write_text("")
    assert RunConfig().turns == SweepConfig().cells()[0].turns == 5
    for given in ({}, {"turns": 0}):
        data = RunConfig(source=str(tmp_path), **given)
        assert data.turns == 0
        assert "--turns 0" in data.command(), "rows of before keep their command and their id"


def test_own_history_and_schedules_belong_to_multi_turn() -> None:
    with pytest.raises(UsageError, match="needs mode 'multi-turn'"):
        RunConfig(mode="multi-request", schedule="every_turn_prompt")
    with pytest.raises(UsageError, match="have no history"):
        RunConfig(mode="multi-request", history="own")
    # in a sweep over both modes they apply to the one they belong to
    cells = SweepConfig(history="own", schedule="every_turn_prompt").cells()
    assert {(c.mode, c.history, c.schedule) for c in cells} == {
        ("multi-turn", "own", "every_turn_prompt"),
        ("multi-request", "gold", "after_context"),
    }


@pytest.mark.parametrize("schedule", ["default", "after_context", "after_turn1_prompt", "every_turn_prompt"])
def test_whether_the_press_sees_a_question(schedule: str) -> None:
    assert RunConfig(schedule=schedule).question_visible == (schedule != "after_context")


def test_the_command_of_a_cell_runs_that_cell() -> None:
    cells = [
        RunConfig(press='kivi(bits=2, keys="token")', task="vt", mode="multi-request", length=77, sessions=3),
        RunConfig(schedule="after_context", history="own", chunk=64, dtype="bfloat16", chat="off", seed=9),
    ]
    for config in cells:
        words = shlex.split(config.command())
        assert words[0] == "kvpress"
        options = build_parser().parse_args(words[1:])
        given = {k: v for k, v in vars(options).items() if v is not None and hasattr(config, k)}
        assert RunConfig(**given) == config


@pytest.mark.parametrize("name", ["smoke.yaml", "science.yaml", "outliers.yaml"])
def test_the_configurations_in_the_tree_are_right(name: str) -> None:
    cells = load_sweep(CONFIGS / name).cells()
    check_presses(cells)
    assert {c.task for c in cells} >= {"kv", "prefix_suffix", "vt", "needle"}
    assert {c.model for c in cells} == {"tiny-outlier" if name == "outliers.yaml" else "tiny"}
    assert all(c.sessions >= (20 if name == "smoke.yaml" else 40) for c in cells)


@pytest.mark.parametrize("name", ["needles.yaml", "ruler.yaml", "longgen.yaml"])
def test_the_sweeps_of_the_other_suites_ask_for_what_their_models_read(name: str) -> None:
    cells = load_sweep(CONFIGS / name).cells()
    check_presses(cells)
    assert {TASKS[c.task].suite for c in cells} == {name.removesuffix(".yaml")}
    for cell in cells:
        rendering = "dialect" if cell.model == "tiny" else "natural"
        assert rendering in TASKS[cell.task].build
    if name == "needles.yaml":
        assert {c.depth for c in cells} == {0, 25, 50, 75, 100}
        assert len({(c.depth, c.length) for c in cells}) == 15


def test_the_help_of_a_sweep_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    said = capsys.readouterr().out.partition("keys of the file")[2]
    assert {f.name for f in fields(SweepConfig)} <= set(said.split())
