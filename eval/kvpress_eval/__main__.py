"""``python -m kvpress_eval`` is the ``kvpress`` command."""

import sys

from .cli.command import main

sys.exit(main())
