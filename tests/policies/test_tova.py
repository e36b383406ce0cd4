"""TOVA against a simulator: one set for all heads of a layer, never more slots than its budget."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press, tova
from tests.helpers import decode, forward, kept
from tests.models import build, shared, tokens


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("text", ["tova(keep=0.4)", "tova(keep=11)", "tova(keep=45)"])
def test_one_set_for_all_heads_and_a_fixed_size(family: str, text: str) -> None:
    model = shared(family)
    limit = {"tova(keep=0.4)": 13, "tova(keep=11)": 11, "tova(keep=45)": 45}[text]
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(2, 33))
        for step in range(20):
            for rows in kept(cache):
                for heads in rows:
                    assert all(head == heads[0] for head in heads)
                    assert len(heads[0]) == min(limit, 33 + step)
            forward(model, tokens(2, 1, step), cache)


@pytest.mark.parametrize("heads", [1, 2, 4], ids=["mqa", "gqa", "mha"])
def test_simulator(heads: int) -> None:
    """The token the last query looks at least goes, judged by the weights of the eager model on what is held."""
    model = build("llama", num_hidden_layers=1, num_key_value_heads=heads)
    attention, scale = model.model.layers[0].self_attn, model.model.layers[0].self_attn.scaling
    ids = tokens(1, 30)
    with torch.no_grad():
        dense = model(torch.cat([ids, tokens(1, 50, 1)], 1)).past_key_values.layers[0].keys[0].double()
    caught: list[torch.Tensor] = []

    def catch(module: object, args: object, out: torch.Tensor) -> None:
        caught.append(out)

    hook = attention.q_proj.register_forward_hook(catch)
    with tova(keep=12)(model) as session:
        cache = session.prefill(ids)
        held = list(range(30))
        for step in range(50):
            cos, sin = model.model.rotary_emb(caught[-1], torch.tensor([[29 + step]]))
            q = caught[-1][0, -1].view(4, 16)
            turned = torch.cat([-q[:, 8:], q[:, :8]], 1)
            q = (q * cos[0] + turned * sin[0]).double()
            probs = torch.stack([(q[h] @ dense[h * heads // 4][held].T * scale).softmax(-1) for h in range(4)]).mean(0)
            order = sorted(range(len(held)), key=lambda i: (-float(probs[i]), held[i]))
            held = sorted(held[i] for i in order[:12])
            assert kept(cache)[0][0] == [held] * heads, f"step {step}"
            forward(model, tokens(1, 50, 1)[:, step : step + 1], cache)
            held.append(30 + step)
    hook.remove()


def test_the_newest_token_may_go() -> None:
    """Nothing is protected: over many steps some token is dropped in the step it came."""
    model = shared("llama")
    dropped = 0
    with tova(keep=8)(model) as session:
        cache = session.prefill(tokens(1, 40))
        for step in range(60):
            forward(model, tokens(1, 1, step), cache)
            dropped += sum(cache.get_seq_length() - 1 not in rows[0][0] for rows in kept(cache))
    assert 0 < dropped < 180


def test_ties_drop_the_later_token_wherever_it_lies_in_memory() -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.zero_()  # every token is looked at alike
    with tova(keep=12)(model) as session:
        cache = session.prefill(tokens(1, 30))
        for step in range(6):
            assert kept(cache) == [[[list(range(12))] * 2]] * 3
            forward(model, tokens(1, 1, step), cache)


def test_once_after_the_prompt_as_in_kvpress() -> None:
    """The last row of output_attentions, averaged over heads; the last token stays, and decoded ones are added."""
    model, n = shared("llama"), 41
    with Press.parse("tova@kvpress(keep=13)")(model) as session:
        cache = session.prefill(tokens(1, n))
        sets = kept(cache)
        decode(model, cache, tokens(1, 5, 1))
        later = kept(cache)
    weights = shared("llama", "eager")(tokens(1, n), output_attentions=True).attentions
    for row, before, after in zip(weights, sets, later, strict=True):
        best = row[0, :, -1, :-1].double().mean(0).argsort(descending=True)[:12].tolist()
        assert before[0] == [sorted([*best, n - 1])] * 2
        assert after[0] == [[*head, *range(n, n + 5)] for head in before[0]]
