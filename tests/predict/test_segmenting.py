"""Masks from images: whole, mirrored, in several sizes, in windows."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.data.letterbox import fitted_size
from detseg.predict import segmenter as module
from detseg.predict.segmenter import OVERLAP, Segmenter, segment, segment_in_windows
from detseg.segment import FCN

CLASSES = 4


class Pointwise(nn.Module):
    """Looks at each pixel by itself, so that it cannot matter what lies around it."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.score = nn.Conv2d(3, classes, 1)
        self.score.weight.data = torch.randn(classes, 3, 1, 1, generator=generator) * 6
        self.score.bias.data = -self.score.weight.data.sum((1, 2, 3)) / 2

    def forward(self, images):
        return self.score(images.float() / 255)


class Placed(Pointwise):
    """The same, but what it says also depends on where in the square a pixel is."""

    def __init__(self, window):
        super().__init__()
        noise = torch.randn(CLASSES, window, window, generator=torch.Generator().manual_seed(5))
        self.register_buffer("noise", noise * 2)

    def forward(self, images):
        return super().forward(images) + self.noise


def make_image(height, width, seed=0):
    """Coarse coloured noise, uint8 RGB."""
    rng = np.random.default_rng((seed, height, width))
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def network(**options):
    """A real one of random weights; those of the scores would be zero."""
    torch.manual_seed(0)
    model = FCN(create_backbone("test_efficientnet", strides=(8, 16, 32)), CLASSES, **options).eval()
    for name, parameter in model.decoder.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.5)
    return model


def look(model, image, size, **options):
    (seen,) = segment(model, [(image, (image.shape[1], image.shape[0]))], size, **options)
    return seen


@torch.inference_mode()
def pixels_of(model, image):
    """Probabilities (K, H, W) of a model that can look at any size."""
    return model(torch.from_numpy(image).permute(2, 0, 1)[None]).softmax(1)[0]


# ------------------------------------------------------------------ whole images


def test_what_is_seen_is_the_likeliest_class_and_its_probability():
    image = make_image(32, 32)
    seen = look(Pointwise(), image, 32)
    expected = pixels_of(Pointwise(), image)
    assert seen.mask.dtype == np.uint8
    assert seen.confidence.dtype == np.float32
    assert np.array_equal(seen.mask, expected.argmax(0).numpy())
    np.testing.assert_allclose(seen.confidence, expected.amax(0).numpy(), atol=1e-6)


def test_masks_have_the_images_size_and_place():
    """An image dark above a line: the mask changes there, to the pixel or the one that the square's pixels allow."""
    model = Pointwise(2)
    model.score.weight.data = torch.tensor([-20.0, 20.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1).clone()
    model.score.bias.data = torch.tensor([30.0, -30.0])
    for height, width in ((50, 80), (81, 33), (7, 200), (1, 1), (200, 3), (64, 64)):
        image = np.full((height, width, 3), 255, np.uint8)
        cut = height // 3
        image[:cut] = 0
        seen = look(model, image, 64)
        assert seen.mask.shape == seen.confidence.shape == (height, width)
        slack = -(-max(height, width) // 64)
        assert (seen.mask[: max(0, cut - slack)] == 0).all(), (height, width)
        assert (seen.mask[cut + slack :] == 1).all(), (height, width)


def test_order_and_batches_do_not_matter():
    model = network()
    images = [make_image(40, 60, 1), make_image(64, 64, 2), make_image(30, 20, 3)]
    sized = [(image, (image.shape[1], image.shape[0])) for image in images]
    together = list(segment(model, sized, 64))
    for batch_size in (1, 2):
        for one, other in zip(together, segment(model, sized, 64, batch_size=batch_size), strict=True):
            np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
            assert (one.mask == other.mask).mean() > 0.999


def test_images_are_taken_a_batch_at_a_time():
    taken = []

    def make_images():
        for index in range(7):
            taken.append(index)
            yield make_image(16, 16, index), (16, 16)

    seen = segment(Pointwise(), make_images(), 32, batch_size=3)
    next(seen)
    assert taken == [0, 1, 2]
    assert len(list(seen)) == 6


def test_a_shrunk_copy_gives_a_mask_of_the_size_that_is_wanted():
    image = make_image(16, 24)
    (seen,) = segment(Pointwise(), [(image, (240, 160))], 24)
    assert seen.mask.shape == (160, 240)
    assert (seen.mask[5::10, 5::10] == look(Pointwise(), image, 24).mask).mean() > 0.9


def test_options_without_sense_are_refused():
    for options in ({"batch_size": 0}, {"scales": ()}, {"scales": (1, -1)}, {"scales": (float("nan"),)}):
        with pytest.raises(ValueError, match=r"batch_size must be at least 1|scales must be positive numbers"):
            list(segment(Pointwise(), [], 32, **options))
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        segment_in_windows(Pointwise(), make_image(40, 40), 32, batch_size=0)


# ------------------------------------------------------------------ mirrored, in several sizes


def test_with_flip_the_mirrored_image_gives_the_mirrored_mask():
    model, image = network(), make_image(64, 64)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert not np.allclose(look(model, image, 64).confidence, look(model, mirrored, 64).confidence[:, ::-1], atol=1e-3)
    one, other = look(model, image, 64, flip=True), look(model, mirrored, 64, flip=True)
    np.testing.assert_allclose(one.confidence, other.confidence[:, ::-1], atol=1e-5)
    assert (one.mask == other.mask[:, ::-1]).mean() > 0.999


def test_scales_are_averaged_as_probabilities():
    model, image = network(), make_image(64, 64)
    seen = look(model, image, 64, scales=(1.0, 1.5))
    larger = pixels_of(model, module.letterbox_image(image, 96)[0])
    larger = F.interpolate(larger[None], (64, 64), mode="bilinear", align_corners=False)[0]
    expected = (pixels_of(model, image) + larger) / 2
    np.testing.assert_allclose(seen.confidence, expected.amax(0).numpy(), atol=1e-5)
    assert (seen.mask == expected.argmax(0).numpy()).mean() > 0.999


def test_sizes_stay_multiples_of_32():
    seen = []

    class Noting(Pointwise):
        def forward(self, images):
            seen.append(tuple(images.shape[2:]))
            return super().forward(images)

    look(Noting(), make_image(50, 70), 96, scales=(0.1, 0.75, 1.0, 1.25))
    assert seen == [(32, 32), (64, 64), (96, 96), (128, 128)]


def test_confidence_is_a_probability():
    for options in ({}, {"flip": True}, {"scales": (0.5, 1, 2)}, {"flip": True, "scales": (1.5,)}):
        seen = look(network(), make_image(37, 90), 64, **options)
        assert seen.confidence.max() <= 1 + 1e-6, options
        assert seen.confidence.min() >= 1 / CLASSES - 1e-6, f"{options}: the likeliest of K classes"


def test_a_network_that_sees_finer_than_pixels():
    model, image = network(output_scale=2), make_image(64, 64)
    (finer,) = segment(model, [(image, (128, 128))], 64)
    assert np.array_equal(finer.mask, pixels_of(model, image).argmax(0).numpy()), "nothing is averaged away"
    (padded,) = segment(model, [(image[:32], (128, 64))], 64)
    assert padded.mask.shape == (64, 128)
    windows = segment_in_windows(model, image, 64)
    assert np.array_equal(windows.mask, F.avg_pool2d(pixels_of(model, image), 2).argmax(0).numpy())


def test_a_shrunk_copy_lies_where_it_was_put():
    """The square is filled with the copy, whose sides are rounded already: the original would be rounded otherwise."""
    model = Pointwise(2)
    model.score.weight.data[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1) * 9
    model.score.bias.data[:] = torch.tensor([-13.0, 13.0])
    for wanted in ((1000, 205), (205, 1000), (640, 480), (999, 10)):
        width, height = fitted_size(*wanted, 320)
        image = np.full((height, width, 3), 255, np.uint8)
        image[height // 2 :] = 0
        (seen,) = segment(model, [(image, wanted)], 256)
        found = np.count_nonzero(seen.mask == 0, axis=0)
        assert np.abs(found - height // 2 / height * wanted[1]).max() <= 0.5 * max(wanted) / 256 + 1, wanted


def test_classes_are_decided_a_few_at_a_time(monkeypatch):
    views = [torch.rand(9, 6, 7), torch.rand(9, 12, 14)]
    views[0][5] = views[0][2]
    views[1][5] = views[1][2]  # equal everywhere: the lower label is taken
    at_once = module._decide(views, (14, 12))
    monkeypatch.setattr(module, "CELLS", 2 * 12 * 14)
    by_twos = module._decide(views, (14, 12))
    assert np.array_equal(at_once.mask, by_twos.mask)
    np.testing.assert_allclose(at_once.confidence, by_twos.confidence, rtol=1e-6)
    assert 5 not in at_once.mask
    resized = [F.interpolate(view[None], (12, 14), mode="bilinear")[0] for view in views]
    assert np.array_equal(at_once.mask, torch.stack(resized).mean(0).argmax(0).numpy())


# ------------------------------------------------------------------ windows

SIZES = [(100, 100), (33, 97), (97, 33), (32, 32), (20, 150), (7, 5), (1, 1), (33, 32), (200, 31)]


@pytest.mark.parametrize("flip", [False, True])
def test_windows_see_what_the_whole_image_shows(flip):
    model = Pointwise()
    for height, width in SIZES:
        image = make_image(height, width)
        seen = segment_in_windows(model, image, 32, batch_size=3, flip=flip)
        expected = pixels_of(model, image)
        np.testing.assert_allclose(seen.confidence, expected.amax(0).numpy(), atol=1e-5, err_msg=f"{height} x {width}")
        clear = expected.topk(2, dim=0).values.diff(dim=0)[0].abs().numpy() > 1e-4
        assert np.array_equal(seen.mask[clear], expected.argmax(0).numpy()[clear]), (height, width)
        assert seen.mask.shape == (height, width)


def test_windows_are_averaged_by_how_far_inside_a_pixel_lies():
    """Against sums over the whole image at once."""
    model, window = Placed(32), 32
    line = [min(i + 1, window - i) for i in range(window)]
    weight = torch.tensor([[float(a * b) for a in line] for b in line])
    for height, width in SIZES:
        image = make_image(height, width)
        sums, weights = torch.zeros(CLASSES, height + 64, width + 64), torch.zeros(height + 64, width + 64)
        padded = np.full((height + 64, width + 64, 3), 114, np.uint8)
        padded[:height, :width] = image
        for top in module._starts(height, window):
            for left in module._starts(width, window):
                found = pixels_of(model, padded[top : top + window, left : left + window])
                sums[:, top : top + window, left : left + window] += found * weight
                weights[top : top + window, left : left + window] += weight
        expected = (sums / weights)[:, :height, :width]
        seen = segment_in_windows(model, image, window)
        np.testing.assert_allclose(seen.confidence, expected.amax(0).numpy(), atol=1e-5, err_msg=f"{height} x {width}")


def test_there_are_no_seams():
    """What windows say of a plain image differs by place; their average changes slowly."""

    class Tilted(Pointwise):
        def forward(self, images):
            ramp = torch.linspace(-3, 3, images.shape[-1]).expand(images.shape[-2:])
            return torch.stack([ramp, -ramp]).expand(len(images), -1, -1, -1)

    confidence = segment_in_windows(Tilted(), np.full((64, 200, 3), 99, np.uint8), 64)
    of_first = np.where(confidence.mask == 0, confidence.confidence, 1 - confidence.confidence)
    steps = np.abs(np.diff(of_first, axis=1))
    alone = np.abs(np.diff(torch.linspace(-3, 3, 64).mul(2).sigmoid().numpy())).max()
    assert steps.max() < 1.5 * alone, "no step is larger than those within a window"


def test_windows_cover_and_overlap():
    for length in (1, 31, 32):
        assert module._starts(length, 32) == [0], length
    for length in (33, 40, 56, 57, 100, 999):
        starts = module._starts(length, 32)
        assert (starts[0], starts[-1]) == (0, length - 32), length
        steps = np.diff(starts)
        assert steps.min() >= 1, length
        assert steps.max() <= round(32 * (1 - OVERLAP)) + 1, length


def test_only_a_band_is_kept(monkeypatch):
    rows = []
    decide = module._decide

    def noting(views, wanted):
        rows.append(views[0].shape[1])
        return decide(views, wanted)

    monkeypatch.setattr(module, "_decide", noting)
    segment_in_windows(Pointwise(), make_image(500, 40), 32)
    assert sum(rows) == 500, "every row once"
    assert max(rows) <= 32


def test_windows_are_taken_a_batch_at_a_time():
    counts = []

    class Counting(Pointwise):
        def forward(self, images):
            counts.append(len(images))
            return super().forward(images)

    segment_in_windows(Counting(), make_image(40, 120), 32, batch_size=2)
    assert max(counts) == 2
    assert sum(counts) == len(module._starts(40, 32)) * len(module._starts(120, 32))


def test_the_long_side_of_a_segmenter():
    description = {"categories": [{"id": k, "name": str(k)} for k in range(CLASSES)], "size": 32, "architecture": {}}
    model = Segmenter(Pointwise(), description)
    image = make_image(50, 75)
    (seen,) = model.predict([image], long_side=150)
    assert seen.mask.shape == seen.confidence.shape == (50, 75)
    large = segment_in_windows(Pointwise(), module.resize_long_side(image, 150), 32)
    assert np.array_equal(seen.mask, module.resize_mask(large.mask, (75, 50)))
    (same,) = model.predict([image], long_side=75)
    assert np.array_equal(same.mask, segment_in_windows(Pointwise(), image, 32).mask)
