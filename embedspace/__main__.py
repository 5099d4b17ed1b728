"""``python -m embedspace``: the command ``embedspace``."""

import sys

from embedspace.cli import main

sys.exit(main())
