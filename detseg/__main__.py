"""`python -m detseg` is the command `detseg`."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
