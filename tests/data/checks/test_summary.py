import numpy as np

from detseg.data.checks.summary import objects_summary
from tests.cases import case
from tests.data.annotation_samples import make

BOX = [1, 2, 30, 40]


def test_what_is_learnt_and_what_is_not():
    for images, owners, ignored, expected in (
        (1, [0], [0], "1 image with 1 object"),
        (2, [0, 1, 1], [0, 0, 0], "2 images with 3 objects"),
        (4, [0, 0, 2], [0, 0, 0], "4 images with 3 objects, 2 images without objects"),
        (3, [0, 0, 1], [0, 1, 1], "3 images with 1 object, 1 image without objects, 2 objects ignored"),
        (2, [0, 1], [1, 0], "2 images with 1 object, 1 object ignored"),
        (2, [0, 1], [1, 1], "2 images with 0 objects, 2 objects ignored"),
        (3, [], [], "3 images with 0 objects"),
        (0, [], [], "0 images with 0 objects"),
    ):
        with case(images, owners, ignored):
            data = make([BOX] * len(owners), None, owners, [(64, 48)] * images, iscrowd=np.array(ignored, bool))
            assert objects_summary(data).removesuffix(" (crowd or difficult)") == expected
            assert ("crowd or difficult" in objects_summary(data)) == any(ignored)
