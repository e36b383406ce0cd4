"""What a Python function does, in words taken from its syntax tree alone: no names, no strings, no model.

Four parts, as RepoQA (arXiv 2406.06025) describes its needles: purpose, input, output, procedure. Equal
syntax gives equal words, whatever the function, its arguments and its variables are called and whichever
constants it holds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from .describe_words import COMPARED, EXCEPTIONS, GERUNDS, OPERATIONS, count, ordinal

__all__ = ["describe", "takes"]

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEEP = 3  # an expression inside more than so many others is "a value"
_SHOWN = 3  # actions and kinds of result that a summary names


def describe(function: ast.FunctionDef) -> str:
    """The description of a function, on four lines."""
    return _Describer(function).text()


def takes(function: ast.FunctionDef) -> str:
    """The input part alone: it needs the first line of a function only."""
    given, said = function.args, list[str]()
    names = [*given.posonlyargs, *given.args]
    owner = {"self": "the object", "cls": "the class"}.get(names[0].arg) if names else None
    n, optional = len(names) - (owner is not None), len(given.defaults)
    said.append(f"{count(n, 'argument')}" + (f" besides {owner} it belongs to" if owner else ""))
    if optional:
        said.append(f"the last {count(optional)} optional, with {_listed(map(_constant, given.defaults))} by default")
    if given.vararg:
        said.append("any number of further values")
    if given.kwonlyargs:
        said.append(f"{count(len(given.kwonlyargs), 'option')} by keyword")
    if given.kwarg:
        said.append("any further keywords")
    return "; ".join(said)


def _constant(node: ast.expr | None) -> str:
    """The kind of a constant, never its value."""
    value = node.value if isinstance(node, ast.Constant) else node
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "yes", False: "no"}[value]
    kinds = ((str, "a text"), (bytes, "bytes"), ((int, float, complex), "a number"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "a computed value")


def _listed(items: Iterable[str]) -> str:
    """Distinct items in their order: ``a, b and c``."""
    found = list(dict.fromkeys(items))
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


class _Describer:
    """Reads one function. ``said`` maps a name to its phrase, ``did`` keeps the actions in their order."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.function, self.did, self.results = function, list[str](), list[str]()
        given = function.args
        names = [arg.arg for arg in (*given.posonlyargs, *given.args)]
        self.said = {"self": "the object", "cls": "the class"}
        plain = [*(name for name in names if name not in self.said), *(arg.arg for arg in given.kwonlyargs)]
        self.said |= {name: f"the {ordinal(i)} argument" for i, name in enumerate(plain)}
        self.said |= {arg.arg: "the further values" for arg in (given.vararg, given.kwarg) if arg}
        self.bound = 0

    def text(self) -> str:
        steps = self.steps(self.function.body)
        purpose = _listed(self.did[:_SHOWN]) or "working out a value"
        result = _listed(list(dict.fromkeys(self.results))[:_SHOWN]) or "nothing"
        return (
            f"1. **Purpose**: {purpose}.\n2. **Input**: {takes(self.function)}.\n"
            f"3. **Output**: {result}.\n4. **Procedure**: {steps}."
        )

    def steps(self, body: list[ast.stmt]) -> str:
        return "; ".join(filter(None, map(self.step, body)))

    def step(self, node: ast.stmt) -> str:
        way = getattr(self, f"_{type(node).__name__.lower()}", None)
        return str(way(node)) if way else ""

    def _block(self, head: str, body: list[ast.stmt]) -> str:
        return f"{head} [{self.steps(body) or 'nothing'}]"

    def _expr(self, node: ast.Expr) -> str:
        value = node.value
        if isinstance(value, (ast.Yield, ast.YieldFrom)):
            self.results.append("one value after another")
            return f"yielding {self.noun(value.value)}"
        return self._action(value) if isinstance(value, ast.Call) else ""

    def _assign(self, node: ast.Assign) -> str:
        value = self._made(node.value)
        return f"setting {_listed(map(self._target, node.targets))} {value}"

    def _annassign(self, node: ast.AnnAssign) -> str:
        value = self._made(node.value)
        return f"setting {self._target(node.target)} {value}"

    def _made(self, node: ast.expr | None) -> str:
        return f"by {self._action(node)}" if isinstance(node, ast.Call) else f"to {self.noun(node)}"

    def _augassign(self, node: ast.AugAssign) -> str:
        operation = OPERATIONS.get(type(node.op).__name__, "combination")
        return f"updating {self.noun(node.target)} to its {operation} with {self.noun(node.value)}"

    def _return(self, node: ast.Return) -> str:
        self.results.append(self._kind(node.value))
        return f"returning {self.noun(node.value)}"

    def _raise(self, node: ast.Raise) -> str:
        return f"raising {self._exception(node.exc)}"

    def _exception(self, node: ast.expr | None) -> str:
        if isinstance(node, ast.Tuple):
            return _listed(map(self._exception, node.elts))
        called = node.func if isinstance(node, ast.Call) else node
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        return EXCEPTIONS.get(name, "an error")

    def _if(self, node: ast.If) -> str:
        said = self._block(f"if {self.noun(node.test)}", node.body)
        return said + (self._block(", otherwise", node.orelse) if node.orelse else "")

    def _while(self, node: ast.While) -> str:
        return self._block(f"as long as {self.noun(node.test)}", node.body)

    def _for(self, node: ast.For) -> str:
        over = self.noun(node.iter)
        return self._block(f"for {self._target(node.target)} over {over}", node.body)

    def _with(self, node: ast.With) -> str:
        held = _listed(self.noun(item.context_expr) for item in node.items)
        for item in node.items:
            if item.optional_vars is not None:
                self._target(item.optional_vars)
        return self._block(f"holding {held}", node.body)

    def _try(self, node: ast.Try) -> str:
        said = self._block("trying", node.body)
        for handler in node.handlers:
            if handler.name:
                self._bind(handler.name)
            said += self._block(f", on {self._exception(handler.type)}", handler.body)
        said += self._block(", otherwise", node.orelse) if node.orelse else ""
        return said + (self._block(", at last", node.finalbody) if node.finalbody else "")

    def _delete(self, node: ast.Delete) -> str:
        return f"removing {_listed(map(self.noun, node.targets))}"

    def _assert(self, node: ast.Assert) -> str:
        return f"insisting on {self.noun(node.test)}"

    def _break(self, node: ast.Break) -> str:
        return "leaving the loop"

    def _continue(self, node: ast.Continue) -> str:
        return "going on with the next"

    def _bind(self, name: str) -> str:
        if name not in self.said:
            self.said[name] = f"the {ordinal(self.bound)} variable"
            self.bound += 1
        return self.said[name]

    def _target(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._bind(node.id)
        if isinstance(node, (ast.Tuple, ast.List)):
            return _listed(map(self._target, node.elts))
        return self.noun(node)

    def _action(self, node: ast.Call, deep: int = 0) -> str:
        """A call as what it does: what it is called is never said, only the kind of its verb."""
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        known = name not in self.said
        words = _WORD.findall(name) if known else []
        verb = next((GERUNDS[w.lower()] for w in words if w.lower() in GERUNDS), "")
        if verb:
            self.did.append(verb)
        verb = verb or ("creating an instance" if known and name[:1].isupper() else "calling a helper")
        owner = f" of {self.noun(called.value, deep + 1)}" if isinstance(called, ast.Attribute) else ""
        given = [self.noun(arg, deep + 1) for arg in node.args]
        given += [f"{count(len(node.keywords), 'option')}"] if node.keywords else []
        return f"{verb}{owner}" + (f" with {_listed(given)}" if given else "")

    def noun(self, node: ast.expr | None, deep: int = 0) -> str:
        """What an expression stands for."""
        if node is None or isinstance(node, ast.Constant):
            return _constant(node)
        if isinstance(node, ast.Name):
            return self.said.get(node.id, "a global")
        if deep >= _DEEP:
            return "a value"
        below = deep + 1
        if isinstance(node, ast.Attribute):
            return f"a field of {self.noun(node.value, below)}"
        if isinstance(node, ast.Call):
            return f"the result of {self._action(node, deep)}"
        if isinstance(node, ast.Subscript):
            part = "a slice" if isinstance(node.slice, ast.Slice) else "an item"
            return f"{part} of {self.noun(node.value, below)}"
        if isinstance(node, ast.Compare):
            pairs = zip(node.ops, node.comparators, strict=True)
            said = (f"{COMPARED[type(op).__name__]} {self.noun(right, below)}" for op, right in pairs)
            return f"{self.noun(node.left, below)} " + ", that ".join(said)
        if isinstance(node, ast.BoolOp):
            joint = " and also " if isinstance(node.op, ast.And) else " or else "
            return joint.join(self.noun(value, below) for value in node.values)
        if isinstance(node, ast.UnaryOp):
            prefix = "the lack of" if isinstance(node.op, ast.Not) else "the negative of"
            return f"{prefix} {self.noun(node.operand, below)}"
        if isinstance(node, ast.BinOp):
            operation = OPERATIONS.get(type(node.op).__name__, "combination")
            return f"the {operation} of {self.noun(node.left, below)} with {self.noun(node.right, below)}"
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            kind = self._kind(node)
            return f"{kind} of {_listed(self.noun(item, below) for item in node.elts)}" if node.elts else f"{kind}"
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            return f"{self._kind(node)} over {self.noun(node.generators[0].iter, below)}"
        return self._kind(node)

    def _kind(self, node: ast.expr | None) -> str:
        """What sort of thing an expression gives, in a few words."""
        if node is None or isinstance(node, ast.Constant):
            return _constant(node)
        if isinstance(node, (ast.Tuple, ast.List)):
            kind = "group" if isinstance(node, ast.Tuple) else "list"
            return f"a {kind} of {count(len(node.elts))}" if node.elts else f"an empty {kind}"
        kinds: tuple[tuple[type[ast.expr] | tuple[type[ast.expr], ...], str], ...] = (
            (ast.Call, "what a call gives"),
            ((ast.Compare, ast.BoolOp), "a truth value"),
            (ast.UnaryOp, "an opposite"),
            (ast.BinOp, "a combination"),
            (ast.Name, "a value held before"),
            (ast.Attribute, "a field"),
            (ast.Subscript, "a part of something"),
            (ast.JoinedStr, "a formatted text"),
            (ast.ListComp, "a list built"),
            (ast.DictComp, "a mapping built"),
            (ast.SetComp, "a set built"),
            (ast.GeneratorExp, "a stream"),
            (ast.Dict, "a mapping"),
            (ast.Set, "a set"),
            (ast.IfExp, "one of two values"),
            (ast.Lambda, "a small function"),
        )
        return next((word for kind, word in kinds if isinstance(node, kind)), "a value")
