"""Objects followed over the frames of a video, and counted: numpy only, whatever found them."""

from detseg.tracks.counting import Counter, Line, Zone, parse_count, parse_counts
from detseg.tracks.tracker import Tracked, Tracker

__all__ = ["Counter", "Line", "Tracked", "Tracker", "Zone", "parse_count", "parse_counts"]
