"""What is measured of a forced text, against plain forwards of transformers and sums written out."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics.divergence import bins, divergence, means
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_row, write_row
from kvpress_eval.runs import continuation, runner
from kvpress_eval.runs.baselines import Bases
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.forcing import Head, States, compare, force
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.sources import Passages
from kvpress_eval.sources.passages import Passage
from transformers import Gemma2Config, Gemma2ForCausalLM

from kvpress import Press


@pytest.fixture(scope="module")
def loaded(text_model: str) -> Loaded:
    return load(text_model)


@pytest.fixture
def story(tmp_path: Path) -> str:
    path = tmp_path / "story.txt"
    path.write_text(
        "".join(f"In year {i} the {i * 7919 % 997}th ship left for port {i * 31 % 53}.\n" for i in range(60))
    )
    return str(path)


def config(story: str, **changes: Any) -> RunConfig:
    sizes = {"task": "lm_text", "text": [story], "length": 203, "forced": 37, "sessions": 3}
    return RunConfig(**{**sizes, **changes})


def passages(cell_config: RunConfig, loaded: Loaded) -> Passages:
    source = prepare(cell_config, loaded).source
    assert isinstance(source, Passages)
    return source


def run(cell_config: RunConfig, loaded: Loaded) -> Row:
    row = run_cell(prepare(cell_config, loaded))
    assert row.status == "ok", row.error
    return row


def values(row: Row, name: str) -> list[float]:
    return [value for session in row.measures[name] for value in session if value is not None]


@torch.no_grad()
def plain(model: Any, passage: Passage) -> torch.Tensor:
    """(n, V) logits of the forced tokens by one forward without a press and without a cache."""
    ids = torch.tensor([[*passage.prefix, *passage.ids]])
    return model(input_ids=ids, use_cache=False).logits[0, len(passage.prefix) - 1 : -1]


def test_of_the_full_cache_it_is_what_transformers_predicts(loaded: Loaded, story: str) -> None:
    row = run(config(story), loaded)
    for passage, nll in zip(passages(config(story), loaded).found, values(row, "nll"), strict=True):
        wanted = torch.nn.functional.cross_entropy(plain(loaded.model, passage), torch.tensor(passage.ids))
        assert nll == pytest.approx(float(wanted), abs=2e-5)
    assert set(values(row, "kl")) == {0.0}
    assert row.score == 1.0
    assert row.measures.keys() == {
        *("nll", "kl", "agree", "nll@1", "kl@1", "agree@1", "nll@2-16", "kl@2-16", "agree@2-16"),
        *("nll@17-37", "kl@17-37", "agree@17-37"),
    }


def test_a_press_is_compared_with_the_full_cache_token_by_token(loaded: Loaded, story: str) -> None:
    press = Press.parse("snapkv(keep=0.25, window=5)")
    passage = passages(config(story), loaded).found[0]
    with press(loaded.model) as session, torch.no_grad():
        cache = session.prefill(torch.tensor([passage.prefix]))
        out = loaded.model(input_ids=torch.tensor([passage.ids]), past_key_values=cache).logits[0, :-1]
        assert cache.next_logits is not None
    ours = torch.log_softmax(torch.cat([plain(loaded.model, passage)[:1], out]).double(), -1)
    theirs = torch.log_softmax(plain(loaded.model, passage).double(), -1)
    kl = (theirs.exp() * (theirs - ours)).sum(-1)
    row = run(config(story, press=str(press), sessions=1), loaded)
    assert values(row, "kl")[0] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert values(row, "kl")[0] > 1e-3
    assert values(row, "kl@2-16")[0] == pytest.approx(float(kl[1:16].mean()), rel=1e-3)
    assert values(row, "nll")[0] == pytest.approx(-float(ours[range(37), list(passage.ids)].mean()), rel=1e-4)
    assert row.score == pytest.approx(float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()))
    assert values(row, "kl@1") == [0.0]  # the prefix predicts it before the press fires


def test_full_against_full_is_nothing_and_8_bits_are_seen(loaded: Loaded, story: str) -> None:
    passage, head, full = passages(config(story), loaded).found[0], Head(loaded.model), Press.parse("full")
    states = []
    for press in (full, full, Press.parse("knorm(keep=1.0)"), Press.parse("int8(residual=0)")):
        with press(loaded.model) as session:
            states.append(force(head, session, passage, 0, 0)[0])
    assert head.plain
    for same in states[1:3]:
        found = compare(head, states[0], same, passage.ids)
        assert set(found.kl) == {0.0}
        assert set(found.agree) == {1.0}
    found = compare(head, states[0], states[3], passage.ids)
    assert found.kl[0] == 0.0
    assert 1e-9 < sum(found.kl) / 37 < 1e-2


def test_a_cap_after_the_output_embedding_is_kept(loaded: Loaded, story: str) -> None:
    torch.manual_seed(3)
    shape = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 32, "vocab_size": 259, "attn_implementation": "eager"}
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **heads, final_logit_softcapping=3.0, initializer_range=0.3)).eval()
    passage, head = passages(config(story), loaded).found[0], Head(model)
    with Press.parse("full")(model) as session:
        states, _ = force(head, session, passage, 0, 0)
    assert not head.plain
    assert states.rest.shape == (36, 259)
    torch.testing.assert_close(torch.cat([states.first[None], states.rest]), plain(model, passage), atol=1e-4, rtol=0)
    assert set(compare(head, states, states, passage.ids).kl) == {0.0}


def test_step_by_step_is_the_same_text_and_lets_presses_evict(loaded: Loaded, story: str) -> None:
    whole, steps = (run(config(story, forced_step=step), loaded) for step in (0, 1))
    assert values(steps, "nll") == pytest.approx(values(whole, "nll"), abs=1e-5)
    assert (whole.tpot_s, steps.tpot_s is not None and steps.tpot_s > 0) == (None, True)
    press = "h2o(keep=0.2)"
    once, often, pieces = (run(config(story, press=press, forced_step=step), loaded) for step in (0, 1, 9))
    # what is forced at once is not evicted meanwhile: the others predict with fewer slots
    assert len({tuple(values(row, "kl")) for row in (once, often, pieces)}) == 3
    assert pieces.fired == 1 + 4  # after the prefix and after each whole or partial piece of 36 tokens
    press = "snapkv(keep=0.2, window=5)"
    kept = [values(run(config(story, press=press, forced_step=step), loaded), "kl") for step in (0, 1, 9)]
    assert kept[1] == pytest.approx(kept[0], rel=1e-3)
    assert kept[2] == pytest.approx(kept[0], rel=1e-3)
    assert set(values(once, "kl@1")) == set(values(often, "kl@1")) == {0.0}
    assert len({row.run_id for row in (once, often, pieces)}) == 3


def test_one_forced_token_is_predicted_by_the_prefix_alone(loaded: Loaded, story: str) -> None:
    row = run(config(story, forced=1, press="random(keep=0.3)"), loaded)
    assert set(values(row, "kl")) == {0.0}
    assert row.measures.keys() == {"nll", "kl", "agree", "nll@1", "kl@1", "agree@1"}


def test_the_full_cache_is_read_once_for_all_presses(
    loaded: Loaded, story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(head: Head, session: Any, *rest: Any) -> Any:
        read.append(str(session.press))
        return force(head, session, *rest)

    monkeypatch.setattr(continuation, "force", counted)
    fresh = replace(loaded, bases=Bases())
    for press in ("knorm(keep=0.5)", "full", "int8", "random(keep=0.5)"):
        run(config(story, press=press), fresh)
    assert read.count("full") == 3 + 3  # for the first press, and the full cache's own row
    held = sum(one.nbytes for one in fresh.bases.kept.values())
    assert len(fresh.bases.kept) == 3
    small = replace(loaded, bases=Bases(limit=held // 2))
    wanted = run(config(story, press="int8"), fresh)
    again = run(config(story, press="int8"), small)
    assert values(again, "kl") == values(wanted, "kl")
    assert len(small.bases.kept) == 1


def test_a_row_says_what_was_measured_and_how(loaded: Loaded, story: str) -> None:
    row = run(config(story, press="snapkv(window=5)", bytes="25%"), loaded)
    assert row.press.startswith("snapkv(keep=0.")
    assert 0.245 <= row.bytes_ratio <= 0.25
    assert row.bytes_dense == 2 * 2 * 2 * 32 * 203 * 4
    assert (row.suite, row.mode, row.length, row.forced, row.chat) == ("lm", "continuation", 203, 37, False)
    assert (row.source, row.chance, row.fired) == ("story.txt", None, 1.0)
    assert row.logical_length == 203
    assert row.prefill_s > 0
    parsed = parse_row(row.to_dict(), "x/y.json")
    assert parsed.variant == ""  # given by the reader of a folder
    assert len(parsed.measures["kl"]) == len(row.session_ids)
    assert len(set(row.session_ids)) == 3
    assert "--forced 37" in row.command
    assert "--text" in row.command


def test_fewer_passages_than_asked_for_are_said(loaded: Loaded, story: str) -> None:
    row = run(config(story, sessions=99), loaded)
    assert row.sessions == len(row.session_ids) < 99
    assert f"{99 - row.sessions} of 99 passages: the text has no more" in row.not_measured
    assert "passages" not in run(config(story), loaded).not_measured


def test_what_cannot_be_forced_is_refused(loaded: Loaded, story: str) -> None:
    with pytest.raises(UsageError, match="700"):
        prepare(config(story, length=680), loaded)
    with pytest.raises(UsageError, match="evidence"):
        prepare(config(story, press="evidence(keep=0.5)"), loaded)
    with pytest.raises(UsageError, match="lm_dialect"):
        prepare(config(story, task="lm_reference", text=[]), load("tiny"))
    with pytest.raises(UsageError, match="lm_reference"):
        prepare(config(story, task="lm_dialect", text=[]), loaded)


def test_bins_and_means() -> None:
    assert [name for name, _ in bins(256)] == ["1", "2-16", "17-64", "65-256"]
    assert [name for name, _ in bins(300)] == ["1", "2-16", "17-64", "65-256", "257-300"]
    assert [name for name, _ in bins(2)] == ["1", "2"]
    covered = [i for _, part in bins(1500) for i in range(1500)[part]]
    assert covered == list(range(1500))
    found = means({"kl": [float(i) for i in range(20)]})
    assert found == {"kl": 9.5, "kl@1": 0.0, "kl@2-16": 8.0, "kl@17-20": 17.5}
    with pytest.raises(ValueError, match="tokens"):
        means({"kl": [1.0], "nll": []})


def test_divergence_is_resolved_where_single_precision_is_not() -> None:
    torch.manual_seed(0)
    full = torch.randn(4, 4999)
    press = full + 1e-5 * torch.randn(4, 4999)
    found = divergence(full, press, torch.tensor([0, 1, 2, 3]))
    p, q = torch.softmax(full.double(), -1), torch.softmax(press.double(), -1)
    assert found.kl == pytest.approx((p * (p / q).log()).sum(-1).tolist(), rel=1e-4)
    assert max(found.kl) < 1e-9  # of the order of the noise squared
    assert divergence(full, full, torch.tensor([0, 1, 2, 3])).kl == (0.0,) * 4
    ruled_out = full.clone()
    ruled_out[:, 7] = -torch.inf
    assert divergence(ruled_out, ruled_out, torch.tensor([0, 1, 2, 3])).kl == (0.0,) * 4


def test_bases_hold_a_bounded_number_of_bytes() -> None:
    made: list[str] = []
    bases: Bases[States] = Bases(limit=3 * 40)

    def get(key: str) -> States:
        def make() -> States:
            made.append(key)
            return States(torch.zeros(5), torch.zeros(5))

        return bases.get(key, make)

    for key in ("a", "b", "c", "a", "d", "b", "a"):
        get(key)
    assert made == ["a", "b", "c", "d", "b"]  # b was used longest ago when d came
    bases.limit = 10
    get("e")
    assert not bases.kept


def test_predictions_that_are_no_numbers_are_a_failed_row(story: str, loaded: Loaded, tmp_path: Path) -> None:
    """As of a model that overflows in half precision: the cell fails, and its row can be written."""
    broken = replace(loaded, model=deepcopy(loaded.model), bases=Bases())
    with torch.no_grad():
        broken.model.lm_head.weight[3] = torch.inf
    for press in ("full", "knorm(keep=0.5)"):
        row = run_cell(prepare(config(story, press=press), broken))
        assert row.status == "failed" and "predicts what is no number in float32" in str(row.error)
        assert load_row(write_row(row, tmp_path)) == row


def test_no_number_of_a_row_is_infinite(story: str, loaded: Loaded, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(runner, "quiet", lambda found: found.update(waited=float("nan")))
    row = run_cell(prepare(config(story), loaded))
    assert (row.status, row.error) == ("failed", "ValueError: disturbance[...]: expected a number from -2^63 to 2^63")
    assert load_row(write_row(row, tmp_path)) == row
