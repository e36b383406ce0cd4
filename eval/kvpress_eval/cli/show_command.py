"""What ``kvpress show`` does: from its options to strips, JSON or a page."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from ..errors import UsageError
from ..machine.console import console
from ..machine.files import check_folder, write_out
from ..machine.threads import begin
from ..models import find
from ..models.quiet import be_quiet
from ..runs.config import RunConfig
from ..runs.loaded import load
from ..sweeps.sweep import check_presses

__all__ = ["show"]


def show(options: argparse.Namespace) -> int:
    """Print, or write as JSON or a page, what a press keeps of a prompt; returns the exit code."""
    # --text is a prompt here
    given = {f.name: getattr(options, f.name, None) for f in fields(RunConfig) if f.name != "text"}
    config = RunConfig(**{"length": 256} | {name: value for name, value in given.items() if value is not None})
    find(config.model, config.dtype)
    if options.html is not None:
        check_folder(options.html.parent, "--html")
    if config.continues and options.text is None and options.file is None:
        raise UsageError(f"task {config.task!r} has no prompt to show; give a text with --file")

    text = options.text if options.file is None else _read_prompt(options.file)
    if text is not None and config.bytes:
        raise UsageError("--bytes is solved for a task's prompt; give the press itself its keep with --text or --file")
    check_presses([config])

    from ..report.survivors_page import survivors_page
    from ..runs.survivors import of_episode, of_text
    from .survivors_text import print_survivors

    be_quiet()
    begin(options.settled)
    loaded = load(config.model, config.device, config.dtype)
    found = of_episode(config, loaded, options.session) if text is None else of_text(config.press, loaded, text)
    if options.html is not None:
        write_out(options.html, survivors_page(found))
        console(stderr=True).print(f"written: {options.html}")
    if options.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    if not options.json and options.html is None:
        print_survivors(console(), found)
    return 0


def _read_prompt(path: Path) -> str:
    """The text of a file. Raises UsageError where it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"cannot read {path}: {reason}; --file wants a text file") from None
