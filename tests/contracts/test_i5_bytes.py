"""I5: the ledger is the sum of the distinct storages held, and that is what the formulas say."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from kvpress import Press, PressCache
from kvpress.cache.storages import storages
from tests.helpers import ALL, decode, over, rollout
from tests.models import build, left_padded, shared, tokens


def assert_honest(cache: PressCache) -> None:
    ledger = cache.ledger()
    assert ledger.total == sum(storages(cache).values()) == cache.nbytes()
    assert ledger.total == sum(ledger.by_kind().values()) == sum(ledger.by_layer().values())
    for _, name, _, kind, tensor in cache.tensors():
        if kind == "other":  # sliding layers are transformers' own, and views there
            continue
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), f"{name} is a view"


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_next"])
def test_every_press_at_every_stage(family: str, press: Press) -> None:
    model, (ids, mask) = shared(family), left_padded([tokens(1, 41)[0], tokens(1, 26)[0]])
    with press(model) as session:
        cache = session.prefill(ids, mask)
        assert_honest(cache)
        seen = mask
        for turn in range(3):
            decode(model, cache, tokens(2, 9, turn), seen)
            assert_honest(cache)
            session.prefill(tokens(2, 5, turn), cache=cache)
            assert_honest(cache)
            seen = cache.stores[0].seen_mask.long()  # type: ignore[union-attr]
        assert_honest(cache.fork(torch.tensor([1, 1, 0])))
        cache.reorder_cache(torch.tensor([1, 1]))
        assert_honest(cache)


def wide(heads: int = 2) -> PreTrainedModel:
    """One layer, head dimension 64: figures without rounding noise."""
    return build("llama", num_hidden_layers=1, head_dim=64, num_key_value_heads=heads)


H, D, FP32 = 2, 64, 4
SLOT = 2 * D * FP32  # a dense slot of one KV head
POSITION = 4  # of a slot that does not follow its neighbour
CODES = 2 * (D * 2 // 8 + 4 * D // 32)  # K and V at 2 bits, with a step and a minimum (fp16) for 32 numbers
PROMPT = 1203


def held(text: str, batch: int = 1, steps: int = 0) -> tuple[PressCache, int]:
    model = wide()
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(batch, PROMPT))
        decode(model, cache, tokens(batch, steps, 1)) if steps else None
    return cache, cache.nbytes()


def test_full() -> None:
    cache, total = held("full", batch=2)
    assert total == cache.dense_nbytes() == 2 * H * PROMPT * SLOT


def test_snapkv_at_a_quarter() -> None:
    cache, total = held("snapkv(keep=0.25)", batch=3)
    slots = PROMPT // 4
    formula = 3 * H * slots * (SLOT + POSITION)
    assert formula <= total <= 1.01 * formula
    assert abs(total / cache.dense_nbytes() - 0.25) < 0.01 * 0.25


def test_kivi_two_bits() -> None:
    cache, total = held("kivi(bits=2, group=32, residual=32)")
    packed = (PROMPT - 32) // 32 * 32
    formula = H * (packed * CODES + (PROMPT - packed) * SLOT)
    assert formula <= total <= 1.01 * formula
    kinds = cache.ledger().by_kind()
    assert kinds["codes"] == H * packed * 2 * D * 2 // 8
    assert kinds["scales"] == H * packed * 2 * D // 32 * 4
    assert kinds["window"] == H * (PROMPT - packed) * SLOT
    assert total < 0.14 * cache.dense_nbytes()


@pytest.mark.parametrize("evicting", ["snapkv(keep=0.25)", "h2o(keep=0.25)", "tova(keep=0.25)", "random(keep=0.25)"])
def test_eviction_and_kivi(evicting: str) -> None:
    cache, total = held(f"{evicting} | kivi(bits=2, group=32, residual=32)")
    slots = PROMPT // 4
    packed = (slots - 32) // 32 * 32
    formula = H * (packed * (CODES + POSITION) + (slots - packed) * SLOT)
    kinds = cache.ledger().by_kind()
    evidence = kinds.get("evidence", 0)
    if evicting.startswith("h2o"):
        assert evidence == H * slots * 4
    if evicting.startswith("tova"):
        assert evidence == 4 * D * FP32 + 4  # one query a query head, and its position
    dense_positions = kinds["positions"] - H * packed * POSITION
    assert 0 <= dense_positions <= H * (slots - packed) * POSITION
    assert formula <= total - evidence - dense_positions <= 1.01 * formula


def test_decoding_with_kivi_packs_and_never_doubles() -> None:
    cache, total = held("kivi(bits=2, group=32, residual=32)", steps=75)
    tokens_seen = PROMPT + 75
    packed = (tokens_seen - 32) // 32 * 32
    kinds = cache.ledger().by_kind()
    assert kinds["codes"] == H * packed * 2 * D * 2 // 8
    room = kinds["window"] - H * (tokens_seen - packed) * SLOT
    assert 0 <= room <= H * 80 * SLOT  # the tail grows by blocks
    assert total < 0.2 * cache.dense_nbytes()


@pytest.mark.parametrize("press", ["h2o(keep=37)", "tova(keep=37)", 'streaming_llm(keep=37, positions="keep")'])
def test_slot_count_stands_through_two_hundred_steps(press: str) -> None:
    model = build("llama", num_hidden_layers=1)
    with Press.parse(press)(model) as session:
        cache = session.prefill(tokens(2, 60))
        after_first = None
        for step in range(200):
            decode(model, cache, tokens(2, 1, step))
            layer = session.report(cache).layers[0]
            assert (layer.least, layer.most) == (37, 37)
            after_first = after_first or cache.nbytes()
        assert cache.nbytes() == after_first
        assert cache.get_seq_length() == 260


def test_report_reads_like_the_ledger() -> None:
    model = shared("llama")
    with Press.parse("snapkv(keep=0.4, window=5)")(model) as session:
        _, cache = rollout(session, tokens(2, 40), tokens(2, 3, 1))
        report = session.report(cache)
    assert report.bytes == cache.nbytes() == sum(report.by_kind.values())
    assert report.dense_bytes == cache.dense_nbytes() == 3 * 2 * 2 * 43 * 2 * 16 * 4
    assert report.ratio == report.bytes / report.dense_bytes == report.to_dict()["ratio"]
    assert report.logical == 43 and report.layers[0].slots == 16 + 3
    assert str(report.bytes)[-3:] in str(report) and "snapkv" in str(report)


def test_the_worked_example() -> None:
    """32,768 tokens, a quarter kept, 80 of 128 key channels, 2 bits in groups of 32, a window of 128, bf16.

    For one layer and KV head: 8,064 packed slots at 78 bytes, 128 dense ones at 512, 80 bytes of channel indices:
    694,608 bytes. The ledger also counts the positions of slots that no longer follow each other.
    """
    parts = "snapkv(keep=0.25, window=128)", "think(keep_channels=0.625, recent=128)", "kivi(bits=2, residual=128)"
    model = build("llama", num_hidden_layers=1, head_dim=128, num_key_value_heads=1, max_position_embeddings=32768)
    with Press.parse(" | ".join(parts))(model.to(torch.bfloat16)) as session:
        cache = session.prefill(tokens(1, 32768), chunk=4096)
    kinds = cache.ledger().by_kind()
    channels = cache.stores[0].own["key_channels"]
    assert channels.shape == (1, 1, 80)
    assert kinds["codes"] + kinds["scales"] + kinds["window"] + channels.numel() == 694_608
    assert cache.nbytes() - 694_608 <= 4 * 8192 + 64
    model.to(torch.float32)


BUDGETS = {
    "pyramid": 1203 // 4 * 3,
    "zigzag": 1203 // 4 * 3,
    "ada": 1203 // 4 * 3,
    "ada(mode=floor)": 1203 // 4 * 3,
    "zigzag | ada": 1203 // 4 * 3,
    "pyramid@authors": 555 + 300 + 45,  # past the window of 32: 523, 268, 13
}


@pytest.mark.parametrize("text", BUDGETS)
def test_budgets_over_heads_and_layers_free_what_they_say(text: str) -> None:
    """Slots only move between heads and layers: bytes are those of the slots, a quarter of the full cache's."""
    model = build("llama", head_dim=64)
    with Press.parse(f"{text} | snapkv(keep=0.25)")(model) as session:
        cache = session.prefill(tokens(1, PROMPT))
    slots = [layer.counts()[0].tolist() for layer in cache.stores]
    assert len({count for heads in slots for count in heads}) > 1  # they did move
    formula = H * BUDGETS[text] * (SLOT + POSITION)
    assert formula <= cache.nbytes() <= 1.01 * formula
    with Press.parse("full")(model) as session:
        dense = session.prefill(tokens(1, PROMPT)).nbytes()
    assert dense == cache.dense_nbytes() == 3 * H * PROMPT * SLOT
    share = BUDGETS[text] / (3 * PROMPT)
    assert abs(cache.nbytes() / dense - share * (1 + POSITION / SLOT)) < 0.01 * share
