"""Where images come from."""

from detseg.sources.images import Image, Opened, ahead, in_batches, open_all, open_one, with_sources

__all__ = ["Image", "Opened", "ahead", "in_batches", "open_all", "open_one", "with_sources"]
