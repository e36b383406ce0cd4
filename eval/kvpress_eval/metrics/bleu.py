"""Sentence BLEU as RepoQA uses it, written here because a library's smoothing changes between releases.

Paper: BLEU (Papineni et al. 2002) with smoothing 4 of Chen and Cherry (2014).
Formula: BP * (p1 p2 p3 p4)^(1/4), p_n the clipped precision of n-grams, BP = min(1, exp(1 - |ref|/|hyp|)).
    The j-th order without a match gets p_n = ln|hyp| / (5 * 2^j) / (number of n-grams), if |hyp| > 1.
Cost: one pass over the n-grams of the answer, one over those of each reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = ["bleu_scores", "sentence_bleu"]

_ORDERS = (1, 2, 3, 4)


def sentence_bleu(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """BLEU in 0..1 of one tokenised answer against one tokenised reference; 0 without a common token."""
    return bleu_scores([reference], hypothesis)[0]


def bleu_scores(references: Sequence[Sequence[str]], hypothesis: Sequence[str]) -> list[float]:
    """BLEU of one answer against each of many references."""
    found = [_ngrams(hypothesis, n) for n in _ORDERS]
    return [_bleu(found, len(hypothesis), reference) for reference in references]


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _bleu(found: list[Counter[tuple[str, ...]]], length: int, reference: Sequence[str]) -> float:
    total, zeros = 0.0, 0
    for n, counts in zip(_ORDERS, found, strict=True):
        wanted = _ngrams(reference, n)
        matches = float(sum(min(count, wanted[gram]) for gram, count in counts.items() if gram in wanted))
        if not matches:
            if n == 1:
                return 0.0
            if length == 1:
                # one token has no longer n-grams: they do not count
                continue
            zeros += 1
            matches = math.log(length) / (5 * 2**zeros)
        total += math.log(matches / max(1, length - n + 1)) / len(_ORDERS)
    return math.exp(total + min(0.0, 1 - len(reference) / length))
