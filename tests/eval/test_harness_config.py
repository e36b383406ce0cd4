from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from kvpress_eval.config import RunConfig, SweepConfig, load_sweep
from kvpress_eval.errors import UsageError
from kvpress_eval.parser import build_parser
from kvpress_eval.sweep import check_presses
from kvpress_eval.tasks import TASKS

CONFIGS = Path(__file__).parents[2] / "eval" / "configs"


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
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UsageError):
        load_sweep(tmp_path / "list.yaml")


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
