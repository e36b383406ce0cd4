"""The ``kvpress`` command: its options, what each subcommand does, and what it prints."""

from .command import main

__all__ = ["main"]
