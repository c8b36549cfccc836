"""Train a segmenter on your own images with masks: the same as `detseg train segmenter`."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "segmenter", *sys.argv[1:]]))
