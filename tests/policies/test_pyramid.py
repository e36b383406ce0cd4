"""PyramidKV: the authors' integers to the slot, an exact sum by default, and the same shape in a model's layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kvpress import Press, pyramid, snapkv
from kvpress.errors import PressSyntaxError
from kvpress.policies.pyramid import Pyramid
from tests.models import build, left_padded, shared, tokens

LAYERS = 32


def authors(keep: int, window: int, n: int, layers: int, beta: int = 20) -> list[int]:
    """Slots of each layer, the window included: the integers of the authors' code, for prompts longer than keep."""
    past = keep - window
    low = past // beta
    high = 2 * past - low
    if high >= n - window:
        high = n - window
        low = 2 * past - high
    if n < 2 * past:
        return [keep] * layers
    step = (high - low) // (layers - 1)
    return [high - layer * step + window for layer in range(layers)]


def weights(keep: int, window: int, n: int, layers: int = LAYERS, exact: bool = True) -> torch.Tensor:
    arguments = (torch.tensor([keep]), torch.tensor([window]), torch.tensor([n]))
    return Pyramid(exact=exact).weights(torch.ones(layers, 1), *arguments)[:, 0]


@pytest.mark.parametrize(
    ("keep", "window", "first", "last", "mean"),
    [(128, 8, 242, 25, 133.5), (512, 32, 968, 69, 518.5), (2048, 8, 3986, 111, 2048.5)],
)
def test_the_published_integers(keep: int, window: int, first: int, last: int, mean: float) -> None:
    found = weights(keep, window, 8000, exact=False).tolist()
    assert found == authors(keep, window, 8000, LAYERS)
    assert (found[0], found[-1], sum(found) / LAYERS) == (first, last, mean)


@pytest.mark.parametrize("exact", [True, False])
def test_layers_of_a_model(exact: bool) -> None:
    """128 slots over 32 layers, in the ledger of a cache: 242 to 25 of the authors, or exactly 128 a layer."""
    model = build("llama", num_hidden_layers=LAYERS)
    text = "pyramid" if exact else "pyramid@authors"
    with Press.parse(f"{text} | snapkv@factory(keep=128)")(model) as session:
        report = session.report(session.prefill(tokens(1, 300)))
    slots = [layer.least for layer in report.layers]
    assert slots == [layer.most for layer in report.layers]
    if exact:
        assert sum(slots) == 128 * LAYERS and (slots[0], slots[-1]) == (242, 14)
        assert {a - b for a, b in pairwise(slots)} == {7, 8}  # 7.35 a layer
    else:
        assert (slots[0], slots[-1], sum(slots) / LAYERS) == (242, 25, 133.5)


@pytest.mark.parametrize("n", [130, 200, 239, 240, 241, 242, 243, 300])
def test_short_prompts_as_the_authors_code(n: int) -> None:
    """The same for every layer under 240 tokens, no more than the prompt above it; here with exact sums otherwise."""
    model = build("llama", num_hidden_layers=5)
    with Press.parse("pyramid@authors | snapkv@factory(keep=128)")(model) as session:
        slots = [layer.least for layer in session.report(session.prefill(tokens(1, n))).layers]
    assert slots == authors(128, 8, n, 5)
    with Press.parse("pyramid | snapkv@factory(keep=128)")(model) as session:
        exact = [layer.least for layer in session.report(session.prefill(tokens(1, n))).layers]
    assert sum(exact) == 5 * 128 and max(exact) <= n


def test_rows_have_the_budgets_they_have_alone() -> None:
    model, rows = build("llama", num_hidden_layers=5), [tokens(1, n)[0] for n in (300, 131, 241)]
    with Press.parse("pyramid@authors | snapkv@factory(keep=128)")(model) as session:
        counts = [layer.counts()[:, 0].tolist() for layer in session.prefill(*left_padded(rows)).stores]
    assert [list(column) for column in zip(*counts, strict=True)] == [authors(128, 8, n, 5) for n in (300, 131, 241)]


def test_the_sequence_of_the_paper() -> None:
    """3986 slots in the first of 32 layers and 110 in the last for 2048 and a window of 8, in equal steps."""
    found = weights(2048, 8, 8000)
    assert found[0].item() == pytest.approx(8 + 2 * 2040 - 102) and found[-1].item() == pytest.approx(8 + 102)
    assert found.mean().item() == pytest.approx(2048)
    assert torch.allclose(found.diff(), found.diff()[:1].expand(LAYERS - 1))
    assert weights(2048, 8, 8000, layers=1).tolist() == weights(2048, 8, 8000, 1, exact=False).tolist() == [2048]


@pytest.mark.parametrize("under", ["snapkv(keep=0.4, window=5)", "ada | h2o(keep=13)"])
def test_a_beta_of_one_is_the_press_alone_where_sums_are_exact(under: str) -> None:
    """So the press refuses it; the roundings of the authors' code and of NVIDIA's are their own, and stay."""
    ids, alone = tokens(1, 100), Press.parse(under)
    assert weights(128, 8, 8000).unique().numel() == LAYERS
    arguments = (torch.tensor([128]), torch.tensor([8]), torch.tensor([8000]))
    assert Pyramid(1.0).weights(torch.ones(LAYERS, 1), *arguments).unique().tolist() == [128]
    with pytest.raises(PressSyntaxError, match="leave pyramid out"):
        Press.parse(f"pyramid(beta=1) | {under}")
    with alone(shared("llama")) as session:
        wanted = [layer.counts().tolist() for layer in session.prefill(ids).stores]
    with Press.parse(f"pyramid(beta=1.0000001) | {under}")(shared("llama")) as session:
        assert [layer.counts().tolist() for layer in session.prefill(ids).stores] == wanted
    fraction = "knorm(keep=0.29)"  # of 100 tokens 29, or 28.999999999999996
    slots = []
    for text in (fraction, f"pyramid(beta=1, exact=false) | {fraction}"):
        with Press.parse(text)(shared("llama")) as session:
            slots.append(int(session.prefill(ids).stores[0].counts().max()))
    assert slots == [29, 28]


def test_a_share_of_the_prompt() -> None:
    ids = tokens(1, 120)
    with (pyramid() | snapkv(keep=0.3, window=5))(shared("llama")) as session:
        cache = session.prefill(ids)
    assert [int(layer.counts()[0, 0]) for layer in cache.stores] == [65, 36, 7]  # 65.45, 36, 6.55
