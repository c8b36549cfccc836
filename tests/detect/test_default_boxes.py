"""Default boxes are torchvision's."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from detseg.detect.default_boxes import default_shapes, even_scales, lay_out

MAPS = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def theirs(generator, maps, size):
    """torchvision's boxes (P, 4) in an image of height and width `size`."""
    images = ImageList(torch.zeros(1, 3, *size), [size])
    return generator(images, [torch.zeros(1, 1, *shape) for shape in maps])[0]


@pytest.mark.parametrize(("levels", "lowest", "highest"), [(6, 0.2, 0.95), (6, 0.15, 0.9), (2, 0.1, 0.5)])
def test_the_papers_scales(levels, lowest, highest):
    generator = DefaultBoxGenerator([[2, 3]] * levels, min_ratio=lowest, max_ratio=highest)
    shapes = default_shapes(even_scales(levels, lowest, highest), [(2, 3)] * levels, 320)
    boxes = lay_out([torch.tensor(s) for s in shapes], MAPS[:levels], (320, 320))
    torch.testing.assert_close(boxes, theirs(generator, MAPS[:levels], (320, 320)), rtol=0, atol=1e-4)


def test_scales_ratios_and_steps_of_ones_own():
    maps, ratios, scales = [(38, 38), (19, 19), (3, 3)], [[2], [2, 3], []], [0.07, 0.4, 0.87, 1.05]
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=[8, 16, 100])
    shapes = default_shapes(scales, ratios, 300)
    assert [len(s) for s in shapes] == generator.num_anchors_per_location() == [4, 6, 2]
    boxes = lay_out([torch.tensor(s) for s in shapes], maps, (300, 300), steps=(8, 16))
    torch.testing.assert_close(boxes, theirs(generator, maps, (300, 300)), rtol=0, atol=1e-4)


def test_boxes_keep_their_pixels_in_an_image_of_another_size():
    shapes = [torch.tensor([[30.0, 20.0]])]
    boxes = lay_out(shapes, [(2, 3)], (64, 96))
    assert boxes.tolist()[0] == [1, 6, 31, 26] and boxes.tolist()[5] == [65, 38, 95, 58]


def test_one_map_has_the_lowest_scale():
    assert even_scales(1, 0.2, 0.95) == [0.2, 1.0] and even_scales(0, 0.2, 0.95) == [1.0]


def test_scales_that_do_not_fit_the_maps():
    with pytest.raises(ValueError, match="2 maps need 3 scales, got 2"):
        default_shapes([0.1, 0.5], [(2,), (2,)], 320)
