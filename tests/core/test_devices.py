"""A model on several devices: nothing that layers share stays behind on the device of the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvpress import Press, PressCache, full
from kvpress.errors import UnsupportedError
from tests.devices import CPU, FIRST, SECOND, MixedError, Pretend, put, spread, where
from tests.helpers import decode, gap
from tests.models import build, left_padded, tokens

PRESSES = [
    "full",
    "snapkv(keep=0.4, window=5)",
    "ada | snapkv(keep=0.4, window=5)",
    "pyramid | snapkv(keep=0.4, window=5)",
    "zigzag(window=6) | h2o(keep=0.4)",
    "pooled | h2o(keep=0.4)",
    "knorm(keep=0.4, skip=1)",
    "streaming_llm(keep=0.4, sinks=2)",
    "expected_attention(keep=0.4, sinks=2)",
    "criticalkv | h2o(keep=0.4)",
    "kvzip(keep=0.4, sinks=2, chunk=6)",
    "leverage(keep=0.4, sketch=7)",
    "kivi(bits=4, group=4, residual=5)",
    "minicache",
    "minicache | kivi(bits=4, group=4, residual=5)",
    "gear(bits=4, group=4, block=8, residual=5)",
]


def test_the_stand_ins_refuse_what_torch_refuses() -> None:
    with Pretend():
        a, b = put(torch.ones(3), FIRST), torch.ones(3, device=SECOND)
        assert (where(a), b.device, where(a.to(SECOND)), where(a + 1)) == (FIRST, SECOND, SECOND, FIRST)
        assert (a + torch.tensor(1.0)).device == FIRST and a[torch.tensor([0])].device == FIRST
        b[:2] = a[:2]
        for mix in (
            lambda: a + b,
            lambda: torch.cat([a, b]),
            lambda: torch.where(a > 0, 0.0, b),
            lambda: torch.ones(3)[b.long()],
            lambda: a.gather(0, torch.zeros(1, dtype=torch.long)),
            lambda: a + torch.ones(3),
        ):
            with pytest.raises(MixedError):
                mix()
        assert a.to(FIRST) is a and a.cpu() is not a and where(a.cpu()) == CPU


@pytest.mark.parametrize("text", PRESSES)
def test_layers_on_two_devices_equal_layers_on_one(text: str) -> None:
    split = 1
    if text.startswith("minicache"):  # which shares from the middle on: inside a pair
        split = 3
    if text.startswith("kvzip"):  # whose prompt stands in the first layer: not on the device of the input
        split = 0
    press = Press.parse(text)
    ids, mask = left_padded([tokens(1, n, n)[0] for n in (47, 40)])
    follow, more = tokens(2, 7, 1), tokens(2, 5, 2)

    def run(model: torch.nn.Module) -> list[torch.Tensor]:
        place = model.device
        with press(model) as session:
            cache = session.prefill(ids.to(place), mask.to(place), chunk=30)
            assert cache.next_logits is not None
            seen = [cache.next_logits]
            fork = cache.fork(torch.tensor([1, 0, 1]))
            seen.append(decode(model, fork, follow[[1, 0, 1]].to(place), mask[[1, 0, 1]].to(place)))
            seen.append(session.prefill(more.to(place), cache=cache).next_logits)  # type: ignore[arg-type]
            seen.append(decode(model, cache, follow.to(place)[:, :2], _whole(cache, mask, place)))
            for layer in cache.stores:
                for name, *_, tensor in layer.tensors():
                    assert tensor.device == layer.device, (layer.index, name)
            session.report(fork)
        return [logits.cpu() for logits in seen]

    # All layers on a device that is not there, so that both are computed in the same way: codes may not flip.
    with spread(build("llama", num_hidden_layers=4), 4) as model:
        wanted = run(model)
    with spread(build("llama", num_hidden_layers=4), split) as model:
        found = run(model)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def _whole(cache: PressCache, mask: torch.Tensor, place: torch.device) -> torch.Tensor:
    new = cache.get_seq_length() - mask.shape[1]
    return torch.cat([mask, mask.new_ones(len(mask), new)], 1).to(place)


@pytest.mark.parametrize("text", ["snapkv(keep=0.4, window=5)", "minicache | kivi(bits=4, group=4, residual=5)"])
def test_a_saved_cache_is_loaded_to_where_its_layers_are(text: str, tmp_path: Path) -> None:
    ids, follow = tokens(1, 30), tokens(1, 4, 1)
    with spread(build("llama", num_hidden_layers=4), 2) as model, Press.parse(text)(model) as session:
        cache = session.prefill(ids.to(FIRST))
        cache.save(tmp_path / "cache", model)
        wanted = decode(model, cache, follow.to(FIRST))
        again = PressCache.load(tmp_path / "cache", model)
        assert [layer.device for layer in again.stores] == [FIRST, FIRST, SECOND, SECOND]
        assert gap(decode(model, again, follow.to(FIRST)).cpu(), wanted.cpu()) < 1e-5


def test_layers_that_read_the_keys_of_others_are_refused_on_two_devices() -> None:
    model = build("gemma3n")
    for layer in model.model.layers[2:]:
        layer.self_attn.to("meta")
    with pytest.raises(UnsupportedError, match="on one device"), full()(model):
        raise AssertionError("not reached")
