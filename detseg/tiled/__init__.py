"""Detectors on images larger than their networks; none of this needs torch."""

from detseg.tiled.detector import Tiled
from detseg.tiled.find import find_in_tiles
from detseg.tiled.joining import Found, merge

__all__ = ["Found", "Tiled", "find_in_tiles", "merge"]
