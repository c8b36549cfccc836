"""Train an object detector on your own annotated images: the same as `detseg train detector`."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "detector", *sys.argv[1:]]))
