"""What ``kvpress show`` does: from its options to strips, JSON or a page."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

from .config import RunConfig
from .console import console
from .errors import UsageError
from .files import check_folder, write_out
from .launch.worker import be_quiet
from .models import find, load
from .sweep import check_presses
from .threads import begin

__all__ = ["show"]


def show(options: argparse.Namespace) -> int:
    """Print, or write as JSON or a page, what a press keeps of a prompt; returns the exit code."""
    # --text is a prompt here
    given = {f.name: getattr(options, f.name, None) for f in fields(RunConfig) if f.name != "text"}
    config = RunConfig(**{"length": 256} | {name: value for name, value in given.items() if value is not None})
    find(config.model, config.dtype)
    check_presses([config])
    if options.html is not None:
        check_folder(options.html.parent, "--html")
    if config.continues and options.text is None and options.file is None:
        raise UsageError(f"task {config.task!r} has no prompt to show; give a text with --file")

    from .survivors import of_episode, of_text, read_prompt
    from .survivors_text import print_survivors

    text = options.text if options.file is None else read_prompt(options.file)
    if text is not None and config.bytes:
        raise UsageError("--bytes is solved for a task's prompt; give the press itself its keep with --text or --file")
    be_quiet()
    begin(options.settled)
    loaded = load(config.model, config.device, config.dtype)
    found = of_episode(config, loaded, options.session) if text is None else of_text(config.press, loaded, text)
    if options.html is not None:
        write_out(options.html, found.to_html())
        console(stderr=True).print(f"written: {options.html}")
    if options.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    if not options.json and options.html is None:
        print_survivors(console(), found)
    return 0
