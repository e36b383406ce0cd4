"""The words of a description. None is a Python name: what a call does is said by another word."""

from __future__ import annotations

__all__ = ["COMPARED", "EXCEPTIONS", "GERUNDS", "OPERATIONS", "count", "ordinal"]

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]


def count(n: int, of: str = "") -> str:
    """``two arguments``; beyond twelve ``many``."""
    number = _NUMBERS[n] if n < len(_NUMBERS) else "many"
    return f"{number} {of}{'' if n == 1 else 's'}" if of else number


def ordinal(i: int) -> str:
    """``first`` for 0; beyond twelve ``later``."""
    return _ORDINALS[i] if i < len(_ORDINALS) else "later"


COMPARED = {
    "Eq": "being equal to",
    "NotEq": "differing from",
    "Lt": "being less than",
    "LtE": "being at most",
    "Gt": "exceeding",
    "GtE": "being at least",
    "Is": "being the same as",
    "IsNot": "being other than",
    "In": "being among",
    "NotIn": "being absent from",
}
OPERATIONS = {
    "Add": "sum",
    "Sub": "difference",
    "Mult": "product",
    "Div": "ratio",
    "FloorDiv": "whole quotient",
    "Mod": "remainder or formatting",
    "Pow": "power",
    "LShift": "left shift",
    "RShift": "right shift",
    "BitOr": "union of bits",
    "BitAnd": "common bits",
    "BitXor": "differing bits",
    "MatMult": "matrix product",
}
EXCEPTIONS = {
    "ValueError": "an error about an unsuitable value",
    "TypeError": "an error about an unsuitable kind",
    "KeyError": "an error about a missing key",
    "IndexError": "an error about a position out of range",
    "AttributeError": "an error about a missing field",
    "OSError": "an error of the system",
    "FileNotFoundError": "an error about a missing file",
    "NotImplementedError": "an error about something unsupported",
    "RuntimeError": "an error about an impossible state",
    "ImportError": "an error about a missing module",
    "StopIteration": "the end of a sequence",
    "EOFError": "the end of the data",
    "UnicodeError": "an error about an encoding",
    "Exception": "any error",
    "BaseException": "any error at all",
}


def _words(text: str) -> dict[str, str]:
    """``gerund: verb verb; ...`` as a mapping from each verb (as it stands in names) to its gerund."""
    pairs = (line.split(": ") for line in text.replace("\n", " ").split("; "))
    return {verb: gerund.strip() for gerund, verbs in pairs for verb in verbs.split()}


GERUNDS = _words(
    "adding at the end: append extend push; "
    "adding: add insert register put; "
    "measuring the length: len size length; "
    "finding out the kind: isinstance issubclass type; "
    "probing for a field: hasattr; fetching a field: getattr; storing a field: setattr; "
    "looking something up: get lookup fetch; "
    "searching: find index search rfind; "
    "matching a pattern: match fullmatch sub findall finditer; "
    "taking away: pop remove discard delete unlink rmtree; "
    "emptying: clear reset flush; "
    "joining: join concat combine merge; "
    "splitting: split partition rpartition rsplit splitlines tokenize; "
    "trimming: strip lstrip rstrip; "
    "substituting: replace translate; "
    "testing how it begins: startswith; testing how it ends: endswith; "
    "lowering the case: lower casefold; raising the case: upper capitalize title; "
    "rendering as text: str repr format dump dumps render stringify; "
    "converting to a number: int float; "
    "arranging in order: sort sorted; turning around: reverse reversed; "
    "numbering: enumerate; pairing up: zip; counting off: range; "
    "transforming each: map apply; sifting: filter; "
    "making a sequence: list tuple; making a collection: dict set frozenset; "
    "totalling: sum fsum; choosing the greatest: max; choosing the least: min; "
    "counting: count; taking the magnitude: abs; rounding: round floor ceil; "
    "opening: open connect; shutting: close shutdown stop; "
    "reading: read readline readlines recv load loads; "
    "writing out: write writelines print send output emit log; "
    "interpreting: parse eval compile scan decode; packing: encode pack quote escape; "
    "unpacking: unpack unquote unescape; "
    "moving to a place: seek move rename; asking for the place: tell; "
    "checking: check validate verify is has can; "
    "creating: create make build new init; copying: copy clone deepcopy dup; "
    "setting: set assign; refreshing: update refresh sync; "
    "running: run exec execute call invoke start; waiting: wait sleep poll select; "
    "acquiring a lock: acquire lock; releasing: release unlock free; "
    "warning: warn warning; reporting an error: error fail; "
    "processing: process handle dispatch visit; advancing: next advance step; "
    "listing the keys: keys; listing the contents: values items; walking through: iter walk; "
    "normalising: normalize normcase abspath realpath expand; "
    "locating on disk: exists isfile isdir dirname basename stat; "
    "telling the time: time now clock; drawing at random: random choice shuffle; "
    "hashing: hash digest; comparing: compare cmp eq; importing: import; "
    "deferring to the parent: super"
)
