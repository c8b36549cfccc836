"""Drawings: boxes and masks on an image, contact sheets, ground truth beside predictions.

Images are uint8 (H, W, 3) RGB numpy arrays and are never modified: every function returns a new array. Boxes
are xyxy in the image's pixels, half-open. Targets and detections may hold numpy arrays or tensors on the CPU.
"""

from detseg.data.colours import class_color
from detseg.visualize.boxes import draw_boxes
from detseg.visualize.compare import Match, compare_sheet, match_objects, worst_images
from detseg.visualize.overlay import draw_mask, draw_objects, mask_sheet
from detseg.visualize.sheets import contact_sheet

__all__ = [
    "Match",
    "class_color",
    "compare_sheet",
    "contact_sheet",
    "draw_boxes",
    "draw_mask",
    "draw_objects",
    "mask_sheet",
    "match_objects",
    "worst_images",
]
