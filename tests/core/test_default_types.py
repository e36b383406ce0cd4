"""The default type and device of torch belong to the caller: nothing of ours is made in them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import kvpress_eval
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kvpress
from kvpress import Press
from kvpress.attention.backends import Part, cpu
from kvpress.quant.affine import Affine
from tests.helpers import COMPOSED, EXACT, QUANTIZED
from tests.models import left_padded, shared, tokens

# Functions that make a tensor from numbers; `new_zeros`, `zeros_like` and the like take type and device from a tensor.
MAKERS = {
    *("empty", "zeros", "ones", "full", "tensor", "as_tensor", "asarray", "scalar_tensor", "from_numpy"),
    *("arange", "range", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "empty_strided"),
    *("rand", "randn", "randint", "randperm", "normal", "hann_window", "hamming_window", "complex"),
    *("blackman_window", "bartlett_window", "kaiser_window", "empty_permuted", "sparse_coo_tensor"),
    *("fftfreq", "rfftfreq", "hamming", "hann", "blackman", "bartlett", "kaiser", "gaussian"),
}
PRESSES = [*{**EXACT, **COMPOSED, **QUANTIZED}.values(), "think(0.5)", "knorm(keep=0.4, skip=1)"]


def implicit(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every place that leaves, or may leave, the type or the device of a new tensor to the defaults.

    Names count by what they were imported as, of torch and of any module in it. What is called with ``**options`` has
    to name both beside them, and a function that makes tensors may only be called: under another name it is not seen.
    """
    tree = ast.parse(source)
    known = dict(_imported(tree))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and _torch(node.module or "")
            and any(one.name == "*" for one in node.names)
        ):
            yield node.lineno, ast.unparse(node)
        if not isinstance(node, ast.Name | ast.Attribute) or not _torch(name := _full_name(node, known)):
            continue
        call, last = calls.get(id(node)), name.rpartition(".")[2]
        given = set() if call is None else {keyword.arg for keyword in call.keywords}
        says = last == "from_numpy" or {"dtype", "device"} <= given
        classes = call is not None and (last.endswith("Tensor") or last == "get_default_dtype")
        if (last in MAKERS and not says) or classes:
            yield node.lineno, ast.unparse(call or node)


def _torch(name: str) -> bool:
    return name.partition(".")[0] == "torch"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What names a source imports, wherever it does, and what of torch they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield (one.asname, one.name) if one.asname else (one.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for one in node.names:
                yield one.asname or one.name, f"{node.module}.{one.name}"


def _full_name(node: ast.expr, known: dict[str, str]) -> str:
    """The name of what an expression reads, ``torch.nn.functional.pad`` for ``F.pad``; "" where it is no name."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "torch" if node.id == "torch" else "")
    if isinstance(node, ast.Attribute) and (owner := _full_name(node.value, known)):
        return f"{owner}.{node.attr}"
    return ""


def test_the_rule_finds_what_it_should() -> None:
    bad = "torch.zeros(3)\ntorch.ones(3, dtype=x.dtype)\ntorch.tensor([1.0], device=d)\ntorch.Tensor(3)"
    assert [line for line, _ in implicit(bad)] == [1, 2, 3, 4]
    assert not list(implicit("torch.zeros(3, dtype=a, device=b)\nx.new_zeros(3)\ntorch.cat([x, y])"))


@pytest.mark.parametrize(
    "source",
    [
        "torch.zeros(3, **options)",
        "torch.zeros(3, dtype=a, **options)",
        "from torch import zeros\nzeros(3)",
        "from torch import zeros as nought\nnought(3, device=d)",
        "def f():\n    from torch import full\n    return full((3,), 1.0)",
        "from torch import Tensor\nTensor(3)",
        "from torch import get_default_dtype\nget_default_dtype()",
        "import torch as t\nt.arange(3)",
        "import torch.nn.functional as F\nF.empty(3)",
        "from torch.nn import functional as F\nF.hann_window(3, **options)",
        "from torch.nn.functional import arange\narange(3)",
        "from torch import nn\nnn.functional.tensor(3)",
        "torch.nn.functional.eye(3)",
        "torch.fft.fftfreq(3)",
        "from torch.signal import windows\nwindows.hamming(3)",
        "torch.LongTensor([3])",
        "make = torch.zeros\nmake(3)",
        "from functools import partial\npartial(torch.full, (3,))",
        "from torch import *",
    ],
)
def test_the_rule_sees_through_names_and_options(source: str) -> None:
    assert len(list(implicit(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.zeros(3, dtype=a, device=b, **options)",
        "from torch import zeros\nzeros(3, dtype=a, device=b)",
        "from torch import Tensor\ndef f(x: Tensor) -> torch.Tensor:\n    return isinstance(x, Tensor)",
        "from numpy import zeros\nimport numpy as np\nzeros(3), np.ones(3)",
        "from .torch import zeros\nzeros(3)",
        "full, tensor = press, 3\nfull(tensor)",
        "from kvpress import full, random\nfull(), random(keep=0.5)",
        "from torch.nn import functional as F\nF.pad(x, (0, 3)), F.normalize(x, dim=-1)",
        "torch.from_numpy(x), session.full, torch.randn_like(x)",
    ],
)
def test_the_rule_lets_what_says_both_pass(source: str) -> None:
    assert not list(implicit(source))


@pytest.mark.parametrize("package", [kvpress, kvpress_eval])
def test_every_tensor_names_its_type_and_its_device(package: Any) -> None:
    root = Path(package.__file__).parent
    allowed = {("conformance/sessions.py", "torch.get_default_dtype()")}  # what a press has to leave alone
    found = [
        f"{path.relative_to(root)}:{line}: {text}"
        for path in sorted(root.rglob("*.py"))
        for line, text in implicit(path.read_text())
        if (str(path.relative_to(root)), text) not in allowed
    ]
    assert not found, "give dtype= and device=:\n" + "\n".join(found)


class Watcher(TorchDispatchMode):
    """Notes operations that make the default type out of tensors of other types without being asked for it."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind, self.found = kind, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {x.dtype for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        asked = self.kind in (*args, kwargs.get("dtype")) if not given else kwargs.get("dtype") == self.kind
        made = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        if self.kind not in given and not asked and any(x.dtype == self.kind for x in made):
            self.found.add(f"{func}{sorted(map(str, given))} in {_caller()}")
        return out


def _caller() -> str:
    frame = sys._getframe()
    while frame is not None:
        if f"{Path(kvpress.__file__).parent}" in frame.f_code.co_filename:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@contextmanager
def default(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(text: str) -> list[float]:
    """Logits after a padded prompt, of decoded tokens, of a second turn."""
    model = shared("llama")
    with torch.device("cpu"):
        ids, mask = left_padded([tokens(1, n, n)[0] for n in (45, 38)])
        follow, more = tokens(2, 6, 1), tokens(2, 5, 2)
    with torch.no_grad(), Press.parse(text)(model) as session:
        cache = session.prefill(ids, mask)
        assert cache.next_logits is not None
        out, extra = [cache.next_logits], mask
        for token in follow.split(1, 1):
            extra = torch.cat([extra, torch.ones_like(token)], 1)
            out.append(session.forward(token, extra, cache))
        out.append(session.prefill(more, cache=cache).next_logits)  # type: ignore[arg-type]
        session.report(cache)
    return torch.stack(out).flatten().tolist()


@pytest.mark.parametrize("text", PRESSES)
def test_no_operation_falls_back_on_the_default_type(text: str) -> None:
    """int / int, torch.where(x, 1.0, 0.0) and the like take it silently; the model's own rotary table may."""
    wanted = run(text)
    watcher = Watcher(torch.float16)
    with default(watcher.kind), watcher:
        found = run(text)
    assert not {note for note in watcher.found if not note.endswith(" in ")}
    assert found == wanted


_SAMPLE = {
    "auto": [
        *(
            "full",
            "kvzip(keep=0.4, chunk=9)",
            "leverage(keep=0.4, sketch=7)",
            "minicache(start=0, block=6, retained=0.1)",
        ),
        *("pooled | criticalkv | h2o(keep=0.4)", "kivi(bits=4, group=8, residual=8)"),
    ],
    "reference": ["h2o(keep=0.4)", "kivi(bits=4, group=8, residual=8)"],
}
_PROGRAM = """
import json, sys, torch
from tests.core.test_default_types import default, run
from tests.models import shared
shared("llama")
out = {}
for place, kind in json.loads(sys.argv[1]):
    if place:
        torch.set_default_device(place)
    with default(getattr(torch, kind)):
        out[f"{place} {kind}"] = [run(text) for text in json.loads(sys.argv[2])]
print(json.dumps(out))
"""


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_logits_under_every_default(kernels: str) -> None:
    """In a process of its own: a kernel that writes past the end of a tensor kills it."""
    defaults = [("", "float32"), ("", "bfloat16"), ("", "float64"), ("meta", "float16")]
    command = [sys.executable, "-c", _PROGRAM, json.dumps(defaults), json.dumps(_SAMPLE[kernels])]
    env = {**os.environ, "KVPRESS_KERNELS": kernels, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted, *others = json.loads(done.stdout).values()
    assert len(others) == 3 and all(other == wanted for other in others)


def test_the_kernel_is_given_what_it_reads_and_nothing_else() -> None:
    """Bytes of another type would be read as if they were of the right one; those parts are left to torch."""
    q, k, v = torch.randn(3, 2, 9, 16, generator=torch.Generator().manual_seed(0)).unbind()
    packed = [Affine(8, axis, 8).encode(x[:, :8]) for axis, x in (("channel", k), ("token", v))]
    laid = [side.layout() for side in packed]
    good = cpu.attend([Part(*laid, 8)], q, 0.3, None)
    if good is None:
        pytest.skip("no kernel on this machine")
    assert good.out.dtype == good.lse.dtype == torch.float32
    for number, name, kind in ((0, "step", torch.float32), (0, "lo", torch.bfloat16), (1, "codes", torch.int16)):
        side = copy(packed[number])
        setattr(side, name, getattr(side, name).to(kind))
        part = Part(side.layout(), laid[1], 8) if number == 0 else Part(laid[0], side.layout(), 8)
        assert cpu.attend([part], q, 0.3, None) is None
    rows, pos = (k[None], v[None], 9, None), torch.zeros(1, 2, 9, dtype=torch.int32)
    assert cpu.attend([Part(*rows, pos)], q[None], 0.3, None) is not None
    for wrong in (pos.long(), torch.zeros(1, 2, 18, dtype=torch.int32)[..., ::2]):
        assert cpu.attend([Part(*rows, wrong)], q[None], 0.3, None) is None
    assert cpu.attend([Part(*rows, None, torch.ones(1, 9))], q[None], 0.3, None) is None
    assert cpu.attend([Part(k, v, 9, torch.arange(2, dtype=torch.int32))], q, 0.3, None) is None
