"""``python -m kvpress_eval`` is the ``kvpress`` command."""

import sys

from .cli import main

sys.exit(main())
