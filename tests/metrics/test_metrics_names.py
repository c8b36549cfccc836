"""detseg.metrics: every name it lists can be had from it, and nothing heavy is loaded before."""

import subprocess
import sys

import pytest

import detseg.boxes
from detseg import metrics


def test_every_listed_name_is_there():
    assert len(metrics.__all__) > 30 and set(metrics.__all__) <= set(dir(metrics))
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name
    for name in ("box_iou", "crowd_iou", "paired_iou"):
        assert getattr(metrics, name) is getattr(detseg.boxes, name)
    with pytest.raises(AttributeError, match=r"module 'detseg.metrics' has no attribute 'evaluate'"):
        metrics.evaluate  # noqa: B018


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, detseg.metrics; heavy = {'numpy', 'torch', 'numba', 'cv2', 'pycocotools'}; "
        "print(heavy & {*sys.modules}); detseg.metrics.Detections; "
        "print('numpy' in sys.modules, 'numba' in sys.modules, 'Detections' in vars(detseg.metrics))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True False True"]
