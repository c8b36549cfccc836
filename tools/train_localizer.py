"""Train a localizer, which finds the one object of each image: the same as `detseg train localizer`."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "localizer", *sys.argv[1:]]))
