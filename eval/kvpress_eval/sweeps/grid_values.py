"""Values of a sweep as YAML, a command line or Python give them: checked one by one, a mistake is one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, choose
from ..runs.config import check_type

__all__ = [
    "check_distinct",
    "check_vary",
    "convert",
    "expand",
    "expansions",
    "names",
    "read_yaml",
]


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
    from yaml import YAMLError, safe_load

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
