"""``python -m transship``."""

import sys

from transship.cli.main import main

sys.exit(main())
