"""Values as YAML, a command line or Python give them: checked one by one, a mistake is one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UsageError, choose

__all__ = [
    "amount",
    "check_distinct",
    "check_type",
    "check_vary",
    "convert",
    "expand",
    "expansions",
    "names",
    "read_yaml",
]

_UNITS = ("", "%", "b", "kib", "mib", "gib")


def amount(text: str) -> str:
    """An amount of bytes written one way: ``12.50 %`` is ``12.5%``; "" stays.

    Raises:
        UsageError: for what is no amount, or none at all.
    """
    if not text:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS:
        raise UsageError(f'bytes {text!r} is no amount; write "12.5%" of the dense cache, or "512MiB"')
    if not float(found[1]):
        raise UsageError(f"bytes {text!r} leaves no room for a cache; write more than 0")
    return f"{float(found[1]):.12g}{found[2]}"


def check_type(key: str, value: Any, kind: str) -> None:
    """Raise UsageError for a value that is no whole number, or no text with anything in it.

    ``kind`` is how a field is annotated: ``int``, ``str`` or one of these ``| None``.
    """
    if value is None and kind.endswith("None"):
        return
    if kind.startswith("int") and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{key} must be a whole number, got {value!r}")
    if kind.startswith("str") and not isinstance(value, str):
        raise UsageError(f"{key} must be text, got {value!r}")
    if kind == "Sequence[str]" and (isinstance(value, str) or not all(isinstance(item, str) for item in value)):
        raise UsageError(f"{key} must be a list of texts, got {value!r}")


def check_distinct(key: str, values: Sequence[Any]) -> None:
    """Raise UsageError for a list that is empty, or names something twice."""
    if not values:
        raise UsageError(f"{key} must not be empty")
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{key} lists {value!r} twice; leave one out")
        if value == "":
            raise UsageError(f"{key} lists an empty text; leave it out, or name something")


def check_vary(presses: Sequence[str], vary: Mapping[str, Sequence[Any]]) -> None:
    """Raise UsageError where presses and ``vary`` do not name the same things, or a value cannot stand in a press."""
    used = names(presses)
    for name in used:
        choose("vary name", name, vary or {"(none defined)": ()})
    for name, values in vary.items():
        if name not in used:
            braces = ", ".join(f"{{{other}}}" for other in used) or "no names in braces"
            raise UsageError(f"vary lists values for {name!r}, which no press holds: there are {braces}; leave it out")
        check_distinct(f"vary.{name}", values)
        for value in values:
            if not isinstance(value, (bool, int, float, str)) or value != value:
                raise UsageError(f"vary.{name} must list numbers or texts, got {value!r}")


def names(presses: Any) -> list[str]:
    """What stands in braces in one press or in several."""
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", str(presses))))


def expansions(presses: Sequence[str], vary: Mapping[str, Sequence[Any]]) -> int:
    """How many presses ``expand`` makes, two that come out the same counted twice."""
    count = 0
    for text in presses:
        each = 1
        for name in names(text):
            each *= len(vary[name])
        count += each
    return count


def expand(presses: Sequence[str], vary: Mapping[str, Sequence[Any]]) -> list[str]:
    """Presses with every ``{name}`` replaced by each of its values."""
    found = []
    for text in presses:
        inside = names(text)
        for combination in itertools.product(*(vary[name] for name in inside)):
            filled = text
            for name, value in zip(inside, combination, strict=True):
                filled = filled.replace("{" + name + "}", str(value))
            found.append(filled)
    return found


def convert(key: str, value: Any, kind: str) -> Any:
    """A value as a field of that annotation holds it: a single value is a list of one.

    Raises:
        UsageError: where it is of another type.
    """
    if kind.startswith("Mapping"):
        if not isinstance(value, Mapping):
            raise UsageError(f"{key} must map names to lists, for example {key}.keep=[0.5,0.25], got {value!r}")
        return {str(k): tuple(v) if isinstance(v, (list, tuple)) else (v,) for k, v in value.items()}
    if kind.startswith("Sequence"):
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_scalar(key, item, "int" if "int" in kind else "str") for item in items)
    return _scalar(key, value, kind.partition(" ")[0])


def _scalar(key: str, value: Any, kind: str) -> Any:
    if kind == "str" and isinstance(value, bool):  # YAML reads on and off as truth values
        value = "on" if value else "off"
    check_type(key, value, kind)
    return value


def read_yaml(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a YAML file, and the same with ``key=value`` overrides in OmegaConf syntax.

    Raises:
        UsageError: for a missing, empty or damaged file, or one that holds no keys.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

    if not path.is_file():
        raise UsageError(f"no such sweep file: {path}; eval/configs/ holds examples")
    for text in overrides:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise UsageError(f"{text!r} is no override; write key=value, for example sessions=10")
    try:
        text = path.read_text(encoding="utf-8")
        plain = safe_load(text) or None  # {} and [] say as little as an empty file
        if isinstance(plain, dict):
            own = OmegaConf.create(text)
            merged = OmegaConf.merge(own, OmegaConf.from_dotlist(list(overrides)))
            return _plain(own), _plain(merged)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        given = f" with {list(overrides)}" if overrides else ""
        raise UsageError(f"cannot read {path}{given}: {' '.join(str(error).split())[:160]}") from None
    holds = "is empty" if plain is None else f"holds {'a list' if isinstance(plain, list) else 'a single value'}"
    raise UsageError(
        f"{path} {holds}; write key: value lines, for example `tasks: [kv]` (eval/configs/ holds examples)"
    )


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}
