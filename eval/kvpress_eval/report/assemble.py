"""One offline HTML file from its parts: style, scripts and data inline, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any


def assemble(
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Any,
    *,
    library: str = "",
    beside: bool = False,
) -> str:
    """The page as text. Data enters only as JSON, which the scripts turn into text nodes.

    library: a script that stands before the others, by itself. beside: the page may load scripts that lie beside it,
    which from the file system are those of `file:`.
    """
    style = "".join(map(_asset, styles))
    before = _asset(library) if library else ""
    script = "(() => {\n" + "\n".join(map(_asset, scripts)) + "})();\n"
    more = " 'self' file:" if beside else ""
    parts = {
        "policy": (
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
            f"script-src {_hash(before)} {_hash(script)}{more}; base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "library": before,
        "script": script,
        "data": _json(data),
    }
    # One pass: text in the data that looks like a placeholder is never filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset(template))


def _json(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
