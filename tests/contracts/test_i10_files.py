"""I10: a saved cache reads back exactly, and a file that does not match is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kvpress import Press, PressCache, full
from kvpress.errors import CacheFileError, SessionError
from tests.helpers import ALL, decode, kept, over, rollout
from tests.models import build, left_padded, shared, tokens


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "mimo_v2_flash"])
def test_round_trip(family: str, press: Press, tmp_path: Path) -> None:
    model, (ids, mask) = shared(family), left_padded([tokens(1, 37)[0], tokens(1, 19)[0]])
    path, follow = tmp_path / "cache.safetensors", tokens(2, 13, 2)
    with press(model) as session:
        cache = rollout(session, ids, tokens(2, 6, 1), mask)[1]
        cache.save(path, model)
        other = PressCache.load(path, model)
        assert other.press == press and kept(other) == kept(cache)
        assert other.get_seq_length() == cache.get_seq_length() == 43
        assert other.ledger().by_kind() == {**cache.ledger().by_kind(), **_own(other)}
        seen = torch.cat([mask, torch.ones(2, 6, dtype=torch.long)], 1)
        wanted = decode(model, cache, follow, seen)
        assert torch.equal(decode(model, other, follow, seen), wanted)
        assert torch.equal(
            session.prefill(ids[:, :5], cache=other).next_logits,  # type: ignore[arg-type]
            session.prefill(ids[:, :5], cache=cache).next_logits,  # type: ignore[arg-type]
        )


def _own(cache: PressCache) -> dict[str, int]:
    """Sliding layers may shrink: what was a view of the prompt is a tensor of its own when it comes back."""
    return {kind: count for kind, count in cache.ledger().by_kind().items() if kind == "other"}


@pytest.mark.parametrize("family", ["gemma3n", "qwen3_next"])
def test_layers_of_transformers_own(family: str, tmp_path: Path) -> None:
    model, path, follow = shared(family), tmp_path / "cache.safetensors", tokens(1, 5, 2)
    with full()(model) as session:
        cache = session.prefill(tokens(1, 31))
        cache.save(path, model)
        other = PressCache.load(path, model)
        assert torch.equal(decode(model, other, follow), decode(model, cache, follow))


def test_a_fork_of_many_rows(tmp_path: Path) -> None:
    model, path, follow = shared("llama"), tmp_path / "cache.safetensors", tokens(3, 5, 2)
    with Press.parse(ALL["snapkv|kivi"])(model) as session:
        cache = session.prefill(tokens(1, 61)).fork(rows=3)
        cache.save(path, model)
        other = PressCache.load(path, model)
        assert torch.equal(decode(model, other, follow), decode(model, cache, follow))


@pytest.mark.parametrize(
    "text",
    [
        "tova(keep=0.4)",
        "snapkv(keep=0.4, window=4)",
        "h2o(keep=0.4)",
        "expected_attention(keep=0.4, future=9)",
        "leverage(keep=0.4, sinks=1)",
        "criticalkv | h2o(keep=0.4)",
    ],
)
def test_saved_before_it_was_compressed(text: str, tmp_path: Path) -> None:
    """The evidence travels too, learned sinks included."""
    model, path = shared("gpt_oss"), tmp_path / "cache.safetensors"
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(2, 29), compress=False)
        cache.save(path, model)
        other = PressCache.load(path, model)
        for each in (cache, other):
            session.compress(each)
        assert kept(other) == kept(cache) and len(kept(cache)[0][0][0]) == 11
        decode(model, other, tokens(2, 3))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "cache.safetensors"
    with Press.parse("snapkv(keep=0.5, window=4)")(shared("llama")) as session:
        session.prefill(tokens(1, 21)).save(path, shared("llama"))
    assert [p.name for p in tmp_path.iterdir()] == ["cache.safetensors"]  # nothing half-written is left
    return path


def rewritten(path: Path, **header: str) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {**file.metadata(), **header}
    save_file(tensors, path, metadata={k: v for k, v in metadata.items() if v})


def test_header_names_everything(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        header = file.metadata()
    assert header["press"] == "snapkv(keep=0.5, window=4)" and "kernel_size=7" in header["spec"]
    assert header["format"] == "2" and len(header["model"]) == 32
    assert len(json.loads(header["layers"])) == 3


def test_another_model_is_refused(saved: Path) -> None:
    other = build("llama")
    other.model.layers[0].self_attn.q_proj.weight.data[0, 0] += 1  # same config, other weights
    for model in (shared("qwen3"), shared("gemma3"), other):
        with pytest.raises(CacheFileError, match="another model"):
            PressCache.load(saved, model)


def test_an_equal_model_is_accepted(saved: Path) -> None:
    assert PressCache.load(saved, build("llama", "eager")).get_seq_length() == 21


@pytest.mark.parametrize(("key", "value", "word"), [("format", "1", "format 1"), ("layers", "", "not a cache")])
def test_another_format_is_refused(saved: Path, key: str, value: str, word: str) -> None:
    rewritten(saved, **{key: value})
    with pytest.raises(CacheFileError, match=word):
        PressCache.load(saved, shared("llama"))


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(saved: Path, size: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:size])
    with pytest.raises(CacheFileError, match="Cannot read"):
        PressCache.load(saved, shared("llama"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="Cannot read"):
        PressCache.load(tmp_path / "none.safetensors", shared("llama"))


def test_a_press_this_version_does_not_know_is_refused(saved: Path) -> None:
    rewritten(saved, press="laterkv(keep=0.5)")
    with pytest.raises(CacheFileError, match="laterkv"):
        PressCache.load(saved, shared("llama"))


def test_a_press_whose_defaults_have_changed_is_refused(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        spec = file.metadata()["spec"]
    rewritten(saved, spec=spec.replace("kernel_size=7", "kernel_size=5"))
    with pytest.raises(CacheFileError, match="kernel_size=5"):
        PressCache.load(saved, shared("llama"))


def test_a_missing_tensor_is_refused(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del tensors["1.tail.k"]
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(CacheFileError):
        PressCache.load(saved, shared("llama"))


def test_a_loaded_cache_needs_its_press(saved: Path) -> None:
    cache = PressCache.load(saved, shared("llama"))
    with full()(shared("llama")), pytest.raises(SessionError, match="made by snapkv"):
        decode(shared("llama"), cache, tokens(1, 1))
