"""Localizers: the class and the box of one object an image, and the detector that slides one."""

from detseg.localize.localizer import Localizer
from detseg.localize.sliding_window import SlidingWindowDetector

__all__ = ["Localizer", "SlidingWindowDetector"]
