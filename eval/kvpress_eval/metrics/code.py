"""RepoQA: is the function that was asked for the one that was repeated?

The answer is compared with every needle of its repository by BLEU over white-space tokens; it is right if the
nearest needle has the gold's name and BLEU is at least 0.8. Re-indenting is free, renaming a variable is not; a
needle of fewer than four tokens never reaches 0.8, having no 4-gram.
Python is read with the standard library, so that a score does not depend on what is installed; the other
languages with tree-sitter.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvpress.errors import extra

from ..errors import UsageError, choose
from .bleu import bleu_scores
from .golds import Gold, is_empty

__all__ = ["LANGUAGES", "THRESHOLD", "best_needle", "exact_line_recall", "extract_function", "repoqa"]

THRESHOLD = 0.8

# language: package, function that returns its grammar, kind of node that is a function
_GRAMMARS = {
    "java": ("tree_sitter_java", "language", "method_declaration"),
    "typescript": ("tree_sitter_typescript", "language_typescript", "function_declaration"),
    "rust": ("tree_sitter_rust", "language", "function_item"),
    "cpp": ("tree_sitter_cpp", "language", "function_definition"),
    "go": ("tree_sitter_go", "language", "function_declaration"),
}
LANGUAGES = ("python", *_GRAMMARS)

_BLOCK = re.compile(r"^```(?:\w+)?\s*\n(.*?)(?=^```)```", re.DOTALL | re.MULTILINE)


def repoqa(prediction: str, reference: Gold) -> float:
    """1 if the nearest needle has the gold's name and BLEU >= 0.8.

    Args:
        reference: ``{"func_name": ..., "lang": ..., "needles": [{"name": ..., "needle": source}, ...]}``, the
            needles being all that the repository's questions ask for.

    Raises:
        UsageError: for another shape, for a gold that is no needle, for a language that cannot be read.
    """
    if not isinstance(reference, Mapping) or not {"func_name", "lang", "needles"} <= set(reference):
        raise UsageError("the reference of repoqa is a mapping with func_name, lang and needles")
    needles = reference["needles"]
    if reference["func_name"] not in [needle["name"] for needle in needles]:
        raise UsageError(f"{reference['func_name']!r} is not among the needles: no answer could be right; add it")
    if any(is_empty(needle["needle"]) for needle in needles):
        raise UsageError("a needle must not be empty: give the source of the function")
    name, similarity = best_needle(prediction, needles, reference["lang"])
    return float(name == reference["func_name"] and similarity >= THRESHOLD)


def best_needle(prediction: str, needles: Sequence[Mapping[str, str]], lang: str) -> tuple[str | None, float]:
    """Name of the needle nearest to the answer and its BLEU; the first of equals; ``(None, 0.0)`` if none is near."""
    scores = bleu_scores([needle["needle"].split() for needle in needles], extract_function(prediction, lang).split())
    at = max(range(len(scores)), key=scores.__getitem__, default=None)
    return (None, 0.0) if at is None or not scores[at] else (needles[at]["name"], scores[at])


def extract_function(prediction: str, lang: str) -> str:
    """The first function in a closed fence; the first fence if none holds a function; all of it if there is no fence.

    Raises:
        UsageError: for an unknown language, or one whose grammar is not installed.
    """
    choose("language", lang, LANGUAGES)
    parser = None if lang == "python" else _parser(lang)
    text = prediction.strip()
    blocks: list[str] = _BLOCK.findall(text)
    for block in blocks:
        found = _python_function(block) if parser is None else _tree_function(block, parser, _GRAMMARS[lang][2])
        if found is not None:
            return found
    return blocks[0] if blocks else text


def exact_line_recall(prediction: str, lines: Sequence[str], lang: str = "python") -> float:
    """Share of the given lines that the repeated function holds exactly, up to white space at their ends.

    For changed constants: BLEU over a whole function hardly sees one.

    Raises:
        UsageError: for no lines, or an empty one.
    """
    if not lines or not all(line.strip() for line in lines):
        raise UsageError("lines to recall must not be empty: every answer would hold them")
    said = {line.strip() for line in extract_function(prediction, lang).splitlines()}
    return sum(line.strip() in said for line in lines) / len(lines)


def _python_function(source: str) -> str | None:
    """From ``def`` on, decorators excluded; None where there is none, or the text is no Python."""
    source = textwrap.dedent(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a model's strings
            tree = ast.parse(source)
        functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    first = min(functions, key=lambda node: (node.lineno, node.col_offset), default=None)
    return None if first is None else ast.get_source_segment(source, first)


def _tree_function(source: str, parser: Any, kind: str) -> str | None:
    data = source.encode("utf-8", "replace")
    for node in _in_order(parser.parse(data).root_node):
        if node.type == kind and (kind != "function_definition" or _is_plain(node)):
            return data[node.start_byte : node.end_byte].decode("utf-8", "replace")
    return None


def _in_order(root: Any) -> Iterator[Any]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def _is_plain(node: Any) -> bool:
    """C++: RepoQA asks for functions with a plain name, not for methods or functions that return a pointer."""
    declarator = node.child_by_field_name("declarator")
    if declarator is None or declarator.type != "function_declarator":
        return False
    name = declarator.child_by_field_name("declarator")
    return name is not None and name.type == "identifier"


def _parser(lang: str) -> Any:
    package, function, _ = _GRAMMARS[lang]
    try:
        tree_sitter = importlib.import_module("tree_sitter")
        grammar = getattr(importlib.import_module(package), function)()
    except ImportError as error:
        raise UsageError(f"{lang} is read with tree-sitter; {extra('code')}") from error
    return tree_sitter.Parser(tree_sitter.Language(grammar))
