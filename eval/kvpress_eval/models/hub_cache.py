"""Models of the Hugging Face hub: what is here is used as it is, and a hub that cannot be reached is known at once."""

from __future__ import annotations

from ..machine import hub

__all__ = ["cached", "check_reachable"]


def cached(name: str) -> bool:
    """Whether the hub's cache on this machine holds a model of this name, or a part of it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def check_reachable(name: str, hint: str = "") -> None:
    """Ask the hub once, whatever it answers.

    Args:
        hint: what else may have been meant, for the message.

    Raises:
        UsageError: where it cannot be reached within seconds, or is not to be asked.
    """
    missing = f"cannot load model {name!r}: it is not here{hint}"
    hub.check_reachable(name, "config.json", missing, "see `kvpress models`")
