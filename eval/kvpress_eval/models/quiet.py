"""What the libraries under us say of models, and is not said while a command runs."""

from __future__ import annotations

import warnings

__all__ = ["be_quiet"]


def be_quiet() -> None:
    """Only our own progress: no weight-loading bars, no advice about generation settings."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    from kvpress.errors import PremiseWarning

    logging.set_verbosity_error()
    warnings.simplefilter("ignore", PremiseWarning)  # rows carry it, and tables say it once
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the hub's library is not typed here
