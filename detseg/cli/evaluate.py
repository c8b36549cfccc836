"""`detseg evaluate`: compare detections in a file with the ground truth in another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Evaluate:
    """Mean average precision of detections, the COCO way: 12 figures and a table of the classes."""

    ground_truth: Path
    """COCO JSON file with images, annotations and categories."""
    detections: Path
    """COCO results JSON file: a list of image_id, category_id, bbox (x, y, width, height) and score."""
    iou_type: Literal["bbox", "segm"] = "bbox"
    """Compare boxes, or masks (both files then need a segmentation for every entry)."""
    json: bool = False
    """Print JSON instead of tables, and nothing else."""


def run(config: Evaluate) -> int:
    """Print the metrics; returns the exit code.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    from detseg.metrics.detection import evaluate_detections

    metrics = evaluate_detections(config.ground_truth, config.detections, config.iou_type)
    if config.json:
        print(json.dumps(metrics.to_dict(), indent=2, allow_nan=False))
        return 0
    from rich.console import Console

    from detseg.report.tables import metrics_table

    Console().print(metrics_table(metrics))
    return 0
