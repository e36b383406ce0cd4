"""Comparing texts: words of any script, F1, ROUGE, recall of facts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from kvpress.errors import extra

from ..errors import UsageError

__all__ = [
    "char_f1",
    "contains_words",
    "key_fact_recall",
    "multiset_f1",
    "rouge_lsum",
    "starts_with_words",
    "token_f1",
    "tokens",
    "words",
]

# Scripts written without spaces: Thai, Lao, Burmese, Khmer, kana, Han. One character is one token.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
_UNSPACED += "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ARTICLES = frozenset(("a", "an", "the"))


def tokens(text: str) -> list[str]:
    """Words in lower case, single characters for scripts without spaces.

    For ASCII text this is what ``rouge_score`` takes for words, so the two agree there.
    """
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def words(text: str) -> list[str]:
    """Tokens without articles, and with 1,024 written as 1024. An article alone stays."""
    found = tokens(_THOUSANDS.sub(lambda number: number[0].replace(",", ""), text))
    return [word for word in found if word not in _ARTICLES] or found


def contains_words(prediction: str, gold: str) -> bool:
    """Whether the words of ``gold`` stand in ``prediction`` one after the other."""
    name, text = words(gold), words(prediction)
    if not name:  # nothing but punctuation
        return gold.strip() in prediction
    return f" {' '.join(name)} " in f" {' '.join(text)} "


def starts_with_words(prediction: str, gold: str) -> bool:
    """Whether ``prediction`` begins with the words of ``gold``, articles included."""
    name = tokens(gold)
    return bool(name) and tokens(prediction)[: len(name)] == name


def multiset_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 where they share none."""
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold)) if common else 0.0


def token_f1(prediction: str, golds: str | Sequence[str]) -> float:
    """SQuAD's F1 over :func:`words`, the best over the golds."""
    return _best(words, prediction, golds)


def char_f1(prediction: str, golds: str | Sequence[str]) -> float:
    """F1 over letters and digits, the best over the golds; a string is one gold."""
    return _best(_characters, prediction, golds)


def _characters(text: str) -> list[str]:
    return [c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum()]


def _best(split: Callable[[str], list[str]], prediction: str, golds: str | Sequence[str]) -> float:
    said = split(prediction)
    return max((multiset_f1(said, split(gold)) for gold in ([golds] if isinstance(golds, str) else golds)), default=0.0)


def key_fact_recall(prediction: str, facts: Sequence[str]) -> float:
    """Share of the facts (names, numbers) that stand in the text as whole words.

    Beside ROUGE, which rewards the wording that all summaries of a template share.

    Raises:
        UsageError: for no facts, or an empty one.
    """
    if not facts or not all(fact.strip() for fact in facts):
        raise UsageError("key facts must not be empty: every summary would hold them")
    return sum(contains_words(prediction, fact) for fact in facts) / len(facts)


def rouge_lsum(prediction: str, gold: str, ascii_only: bool = False) -> float:
    """F1 of the summary-level longest common subsequence; sentences end at line ends, no stemming.

    Args:
        ascii_only: keep only ``[a-z0-9]``, as the defaults of ``rouge_score`` do: any other script scores 0.

    Raises:
        UsageError: where ``rouge_score`` is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UsageError(f"summaries are scored by rouge_score; {extra('eval')}") from error
    scorer = RougeScorer(["rougeLsum"], use_stemmer=False, tokenizer=None if ascii_only else _Tokenizer())
    return float(scorer.score(gold, prediction)["rougeLsum"].fmeasure)


class _Tokenizer:
    def tokenize(self, text: str) -> list[str]:
        return tokens(text)
