"""Train a classifier on your own images: the same as `detseg train classifier`."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "classifier", *sys.argv[1:]]))
