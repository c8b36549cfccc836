"""Images of one channel and of many bands, from the file to the drawing."""

import json
import struct

import cv2
import numpy as np
import pytest
import tifffile

import detseg
from detseg.cli import main
from detseg.data.augment.classification_transforms import ClassificationTransform
from detseg.data.augment.transforms import TrainTransform
from detseg.data.bands import shown
from detseg.data.cache import channel_statistics, images_of
from detseg.data.formats import read_dataset
from detseg.data.images import read_image
from detseg.data.letterbox import letterbox_image, resize_image
from detseg.data.sample import Sample
from tests.small_set import write_small_set
from tests.train.runs import untimed


def bands(count, height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, count), np.uint8)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_bands_are_read_as_they_are(tmp_path, count, depth):
    pixels = bands(count)
    stored = pixels.astype(depth) * (1 if depth == np.uint8 else 257)
    stored = stored[..., 0] if count == 1 else stored
    options = {} if count == 1 else {"planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb" if count == 4 else "minisblack", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", count), pixels)


def test_planes_one_after_another(tmp_path):
    pixels = bands(6)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 6), pixels)


def test_colours_as_grey_and_wrong_numbers(tmp_path):
    rgb = bands(3)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    grey = read_image(tmp_path / "a.png", 1)
    assert grey.shape == (40, 60, 1)
    np.testing.assert_allclose(grey[..., 0], rgb @ [0.299, 0.587, 0.114], atol=0.51)
    for wanted, message in ((4, "has 3 channels where 4 are wanted"), (6, "has 3 channels where 6 are wanted")):
        with pytest.raises(ValueError, match=message) as error:
            read_image(tmp_path / "a.png", wanted)
        assert "a.png" in str(error.value)
    (tmp_path / "broken_tiff.tif").write_bytes(b"II*\0nothing")
    for wanted in (4, 6):
        with pytest.raises(ValueError, match=r"broken_tiff\.tif: not a readable"):
            read_image(tmp_path / "broken_tiff.tif", wanted)
    with pytest.raises(ValueError, match=r"c\.tif: the image cannot be read"):
        read_image(tmp_path / "c.tif", 4)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_each_band_is_resized_and_warped_as_it_would_be_alone(count):
    image = bands(count)
    for size in ((20, 13), (100, 90)):
        whole = resize_image(image, size)
        assert whole.shape == (size[1], size[0], count)
        for band in range(count):
            alone = resize_image(np.ascontiguousarray(image[..., band : band + 1]), size)
            np.testing.assert_array_equal(whole[..., band], alone[..., 0])
    assert letterbox_image(image, 64)[0].shape == (64, 64, count)
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    transform = TrainTransform(64, light=0, colour=0, blur=0, noise=0)
    whole = transform(Sample(image, *empty), np.random.default_rng(3)).image
    for band in range(count):
        alone = transform(Sample(image[..., band : band + 1].copy(), *empty), np.random.default_rng(3)).image
        # OpenCV warps four channels at most in fixed numbers, more as floats.
        np.testing.assert_allclose(whole[..., band].astype(int), alone[..., 0], atol=6)
    strong = TrainTransform(64, light=0.5, colour=0.5, blur=1, noise=1)
    samples = [Sample(image, *empty)] * 4
    for result in (strong(samples[0], np.random.default_rng(0)), strong.mosaic(samples, np.random.default_rng(0))):
        assert result.image.shape == (64, 64, count) and result.image.dtype == np.uint8
    assert ClassificationTransform(32, noise=1, blur=1)(image, np.random.default_rng(0)).shape == (32, 32, count)
    assert shown(image).shape == (40, 60, 3)


def banded_set(folder, count):
    """The small set with its images as TIFF files of so many bands; what is bright is bright in the last band only."""
    write_small_set(folder)
    for path in sorted((folder / "images").glob("*.png")):
        pixels = cv2.imread(str(path))
        flat = np.full((*pixels.shape[:2], count), 100, np.uint8)
        flat[..., -1] = pixels.max(2)
        tifffile.imwrite(path.with_suffix(".tif"), flat, photometric="minisblack", planarconfig="contig")
        path.unlink()
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace(".png", ".tif")
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_a_detector_learns_from_five_bands(tmp_path, capsys):
    data, run = banded_set(tmp_path / "data", 5), tmp_path / "run"
    words = "--backbone test_efficientnet --weights none --size 64 --epochs 1 --precision fp32 --channels 5 --mixup 0.5"
    words = ["train", "detector", "--data", str(data), "--output", str(run), *words.split(), "--normalise", "dataset"]
    with untimed():
        assert main(words) == 0
    assert (run / "samples.jpg").is_file() and (run / "worst.jpg").is_file()
    detector = detseg.load(run)
    assert detector.channels == 5 == len(detector.model.mean)
    train = read_dataset(data)["train"]
    kept = images_of(detseg.data.base.with_channels(train, 5), 64)
    assert kept[0].shape[2] == 5 and len(channel_statistics(kept)["mean"]) == 5
    image = read_image(train.paths[0], 5)
    assert len(detector.predict([image, str(train.paths[0])])) == 2
    with pytest.raises(ValueError, match=r"of shape \(H, W, 5\)"):
        detector.predict([image[..., :3]])
    assert main(["predict", str(run), str(train.paths[0]), "--output", str(tmp_path / "out")]) == 0
    assert cv2.imread(str(next((tmp_path / "out").glob("*.jpg")))).shape == (72, 96, 3)
    assert main(["evaluate", "--predictions", str(run)]) == 0
    assert "mAP" in capsys.readouterr().out


def test_bands_that_a_file_is_too_short_for_take_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, np.zeros((5, 12, 16), np.uint8), photometric="minisblack", planarconfig="separate")
    content = path.read_bytes()
    for tag, side in ((256, 16), (257, 12)):
        for kind in (3, 4):
            entry = struct.pack("<HHI", tag, kind, 1)
            content = content.replace(entry + struct.pack("<I", side), entry + struct.pack("<I", 30_000))
    path.write_bytes(content)
    monkeypatch.setattr("tifffile.TiffPageSeries.asarray", lambda *_: pytest.fail("it is decoded"))
    with pytest.raises(ValueError, match=r"bands\.tif: .* 30000 x \d+ pixels, .* too short"):
        read_image(path, channels=5)
