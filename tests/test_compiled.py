"""Compiled code works where there is no place to keep it, too."""

import subprocess
import sys

WITHOUT_A_PLACE = """
from numba.core import caching

caching.CacheImpl._locator_classes = []
import numpy as np
from detseg.detect import nms, soft_nms

boxes, scores = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 30, 9]]), np.array([0.9, 0.8, 0.7])
print(nms(boxes, scores, 0.5).tolist(), soft_nms(boxes, scores)[0].tolist())
"""


def test_without_a_place_for_the_cache() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_PLACE], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "[0, 2] [0, 2, 1]", done.stderr
