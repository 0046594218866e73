"""``python -m percpu.cli``."""

import sys

from percpu.cli import main

if __name__ == "__main__":
    sys.exit(main())
