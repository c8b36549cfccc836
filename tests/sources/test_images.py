"""Images as people have them: paths, arrays, PIL images, tensors, generators; what is none says so."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from detseg.data.images import read_image
from detseg.sources import open_all, open_one, with_sources

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_a_pil_image_is_as_its_file(mode, tmp_path):
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000)
    elif mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(PIXELS[..., 0]))
    else:
        image = image.convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    difference = np.abs(open_one(image).pixels.astype(int) - read_image(path))
    assert difference.max() <= (1 if mode in ("RGBA", "LA", "I;16") else 0)


def test_a_pil_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert np.array_equal(open_one(image).pixels, read_image(tmp_path / "turned.png"))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_tensors(kind):
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    given = tensor if kind == torch.uint8 else (tensor.double() / 255).to(kind)
    apart = np.abs(open_one(given).pixels.astype(int) - PIXELS).max()
    assert apart <= (1 if kind == torch.bfloat16 else 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.full((3, 4, 4), 1.5), r"in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"in \[0, 1\]"),
        (torch.zeros(2, 3, 4, 4), r"got a tensor \(2, 3, 4, 4\)"),
        (torch.zeros(4, 4, 3), r"got a tensor \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), "got float64"),
        (np.zeros((3, 4, 4), np.uint8), r"got uint8 \(3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint16), "got uint16"),
        (np.array(3), r"got int64 \(\)"),
        (np.zeros((0, 4, 3), np.uint8), "must have pixels"),
        (torch.zeros(3, 4, 0), "must have pixels"),
        (Image.new("RGB", (0, 4)), "must have pixels"),
        (Image.new("F", (4, 4)), "mode L"),
        (torch.zeros(3, 4, 4).long(), "got int64"),
        (torch.zeros(3, 4, 4, device="meta"), "without numbers"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse"),
        (None, "got NoneType"),
        (b"\x89PNG", "got bytes"),
        (bytearray(4), "got bytearray"),
        ({"image": PIXELS}, "got dict"),
        (3, "got int"),
    ],
)
def test_what_is_no_image(given, message):
    with pytest.raises(ValueError, match=message):
        open_one(given)
    if not hasattr(given, "ndim") or given.ndim < 4:  # else it is several images
        with pytest.raises(ValueError, match=message):
            list(open_all(given))
    for batch_size in (1, 8):
        with pytest.raises(ValueError, match=rf"images\[1\]: .*{message}"):
            list(open_all([PIXELS, given, PIXELS], 3, batch_size))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 1), ("P", 1), ("RGBA", 1), ("RGBA", 4), ("I;16", 1)])
def test_pil_images_for_models_of_other_channels(mode, channels, tmp_path):
    image = Image.fromarray(np.dstack([PIXELS, 255 - PIXELS[..., 0]]))
    image = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000) if mode == "I;16" else image
    image = image if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "image.png")
    apart = open_one(image, channels).pixels.astype(int) - read_image(tmp_path / "image.png", channels)
    assert np.abs(apart).max() <= (mode == "I;16")


def test_a_pil_image_of_the_wrong_channels_is_named():
    with pytest.raises(ValueError, match=r"\(H, W, 4\).*got uint8 \(7, 9, 3\)"):
        open_one(Image.fromarray(PIXELS), 4)


def test_one_or_several(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    path, tensor = tmp_path / "a.png", torch.from_numpy(PIXELS).permute(2, 0, 1)
    for one in (path, str(path), PIXELS, tensor, Image.fromarray(PIXELS)):
        for given in (one, [one], (one, one), iter([one, one, one])):
            for opened in open_all(given, 3, 2):
                assert np.array_equal(opened.pixels, PIXELS)
    assert len(list(open_all(np.stack([PIXELS] * 5), 3, 2))) == 5, "an array of images"
    assert list(open_all([])) == []


def test_sources_come_beside_their_images_and_nothing_is_kept():
    made = []

    class Pixels(np.ndarray):
        """An array that can be watched."""

    def images():
        for i in range(50):
            image = np.full((2, 2, 3), i, np.uint8).view(Pixels)
            made.append(weakref.ref(image))
            yield image

    pixels, sources = with_sources(open_all(images(), 3, 4))
    most = 0
    for i, image in enumerate(pixels):
        assert image[0, 0, 0] == i == next(sources)[0, 0, 0]
        most = max(most, sum(one() is not None for one in made))
    assert i == 49 and 4 <= most <= 8, "those that are read ahead, and no more"
