"""Models of the Hugging Face hub: what is here is used as it is, and a hub that cannot be reached is known at once."""

from __future__ import annotations

import os

from ..errors import UsageError

__all__ = ["RETRY", "cached", "check_reachable"]

RETRY = "KVPRESS_HUB_RETRY"
"""Set to 1 where a hub that does not answer is to be asked again and again, as its own library does."""
_SECONDS = 5.0


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
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    missing = f"cannot load model {name!r}: it is not here{hint}"
    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{missing}, and HF_HUB_OFFLINE says not to ask the hub; see `kvpress models`")
    if os.environ.get(RETRY, "0") not in ("", "0"):
        return
    try:
        get_session().head(hf_hub_url(name, "config.json"), timeout=_SECONDS)
    except HFValidationError:
        raise UsageError(f"{missing}, and no hub id looks like this; see `kvpress models`") from None
    except Exception as error:  # the session's library and its errors change with the hub's version
        told = " ".join(str(error).split())[:60] or type(error).__name__
        raise UsageError(
            f"{missing}, and the hub ({constants.ENDPOINT}) cannot be reached ({told}); see `kvpress models`, or set "
            f"{RETRY}=1 to keep asking"
        ) from None
