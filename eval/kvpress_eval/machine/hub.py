"""Whether the Hugging Face hub can be reached: asked once, so that a hub that cannot be is known within seconds."""

from __future__ import annotations

import os

from ..errors import UsageError

__all__ = ["RETRY", "check_reachable"]

RETRY = "KVPRESS_HUB_RETRY"
"""Set to 1 where a hub that does not answer is to be asked again and again, as its own library does."""
_SECONDS = 5.0


def check_reachable(name: str, file: str, missing: str, advice: str, kind: str | None = None) -> None:
    """Ask the hub once for a file, whatever it answers.

    Args:
        name: the id of a model, or of what ``kind`` says (``dataset``).
        missing: what is not here, for the message.
        advice: what to do, for the message.

    Raises:
        UsageError: where it cannot be reached within seconds, or is not to be asked.
    """
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{missing}, and HF_HUB_OFFLINE says not to ask the hub; {advice}")
    if os.environ.get(RETRY, "0") not in ("", "0"):
        return
    try:
        get_session().head(hf_hub_url(name, file, repo_type=kind), timeout=_SECONDS)
    except HFValidationError:
        raise UsageError(f"{missing}, and no hub id looks like this; {advice}") from None
    except Exception as error:  # the session's library and its errors change with the hub's version
        told = " ".join(str(error).split())[:60] or type(error).__name__
        raise UsageError(
            f"{missing}, and the hub ({constants.ENDPOINT}) cannot be reached ({told}); {advice}, or set {RETRY}=1 to "
            "keep asking"
        ) from None
