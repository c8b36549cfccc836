"""Embedded images: annotated flower scenes drawn from a seed."""

from detseg.flowers.dataset import write_flowers

__all__ = ["write_flowers"]
